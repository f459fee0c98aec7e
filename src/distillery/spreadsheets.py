"""Text from data in the cells of CSV files."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(text: str) -> str:
    """Text as a cell of a CSV file: an apostrophe before what a spreadsheet would compute, as OWASP advises."""
    return f"'{text}" if text.startswith(_FORMULA) else text
