"""Text in the tables that we write, which spreadsheets and terminals will open."""

from vitctl.reporting import printable_text

FORMULAS = tuple("=+-@＝＋－＠")  # what spreadsheets compute


def text_cell(text: str) -> str:
    """Names from anywhere: control characters are written out, and what looks like a formula begins with a '."""
    plain = printable_text(text)
    return f"'{plain}" if plain.startswith(FORMULAS) else plain
