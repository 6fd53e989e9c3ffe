"""Text in the tables that we write, which spreadsheets and terminals will open."""

from vitctl.reporting import printed

FORMULAS = tuple("=+-@＝＋－＠")  # what spreadsheets compute


def text_cell(text: str) -> str:
    """Names from anywhere: control characters are written out, and what looks like a formula begins with a '."""
    plain = printed(text)
    return f"'{plain}" if plain.startswith(FORMULAS) else plain
