"""Text cells of the CSV files that vitctl writes."""

from vitctl.reporting import printable_text

FORMULAS = tuple("=+-@＝＋－＠")  # what spreadsheets evaluate


def text_cell(text: str) -> str:
    """Escapes control characters, and puts a ' before what a spreadsheet would take for a formula."""
    plain = printable_text(text)
    return f"'{plain}" if plain.startswith(FORMULAS) else plain
