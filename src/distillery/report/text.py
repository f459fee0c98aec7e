"""Text from data and settings in a report: shown as it is, and never read as markup, mathematics or a formula."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from distillery.settings import CONTROLS

FONT = "DejaVu Sans"
"""Comes with matplotlib, so that a figure is the same everywhere."""

_MARKDOWN = re.compile(r"[\\`*\[\]|]|<(?=[A-Za-z/!?])|&(?=[#\w]+;)|(?<!\w)_|_(?!\w)")


def one_line(text: str) -> str:
    """Text without line breaks and other control characters, which become spaces."""
    return "".join(" " if unicodedata.category(letter) in CONTROLS else letter for letter in text)


def markdown_text(text: str) -> str:
    """Text as a cell or a sentence of Markdown shows it."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def figure_text(text: str, otherwise: str) -> str:
    """Text that the font of figures can draw, or something else in its place.

    Args:
        otherwise: for text with letters that the font lacks, that are written from the right, or that break lines.
    """
    known = _letters()
    drawn = text and all(
        ord(letter) in known
        and unicodedata.category(letter) not in (*CONTROLS, "Cf")
        and unicodedata.bidirectional(letter) not in ("R", "AL")
        for letter in text
    )
    return text if drawn else otherwise


@cache
def _letters() -> frozenset[int]:
    """The code points of the font."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())
