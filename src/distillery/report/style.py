"""The look of figures: the colour and marker of a method, the line below a figure that says what it shows, the files.

A method has the same colour and marker in every figure of every experiment. Equal data give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from distillery.report.about import About
from distillery.report.text import FONT, figure_text
from distillery.storage.atomic import write_bytes

PRINT_DPI = 200
SCREEN_DPI = 100

PALETTE = ("#0077AA", "#DD6600", "#889966", "#7733FF", "#DD0033", "#AA66EE", "#995566")
"""Each has a contrast of 3 and more on white and on dark paper, and with any colour vision they are told apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d", "*")
_LINES = ("-", "--", "-.", ":")

_KNOWN = {
    "lgd": (0, "o"),
    "dit": (1, "s"),
    "random": (2, "^"),
    "minimax": (3, "D"),
    "igd": (4, "v"),
    "mgd3": (5, "P"),
    "memory": (6, "X"),
    "herding": (2, "<"),
    "k_center": (2, ">"),
    "rded": (6, "h"),
    "full": (6, "*"),
    "real-by-learnability": (2, "d"),
    "ld3m": (3, "p"),
    "glad": (5, "o"),
    "dc": (0, "v"),
    "dm": (1, "D"),
    "mtt": (4, "^"),
    "idc": (0, "X"),
    "plain": (1, "d"),
}
"""Colour (place in `PALETTE`) and marker of the names that experiments use."""

_NOTE_FONT = 7.5

_STYLE: dict[str, Any] = {
    "font.family": FONT,
    "text.parse_math": False,  # names of classes are no mathematics
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.dpi": PRINT_DPI,
    # Otherwise the ids inside an SVG are random.
    "svg.hashsalt": "distillery",
}


@contextmanager
def _styled() -> Iterator[None]:
    with style.context(["default", _STYLE]):
        yield


styled = _styled()
"""Decorates what builds or writes a figure."""


class MethodStyle(NamedTuple):
    """The look of a method in every figure."""

    color: str
    marker: str
    line: str


@cache
def method_style(method: str) -> MethodStyle:
    """The look of a method by its name alone: chosen for known names, by a hash for any other."""
    if method in _KNOWN:
        place, marker = _KNOWN[method]
        return MethodStyle(PALETTE[place], marker, _LINES[0])
    taken = set(_KNOWN.values())
    free = [pair for pair in itertools.product(range(len(PALETTE)), MARKERS) if pair not in taken]
    number = int.from_bytes(hashlib.sha256(method.encode()).digest()[:8], "big")
    place, marker = free[number % len(free)]
    return MethodStyle(PALETTE[place], marker, _LINES[0])


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """The look of each method of a figure. Those that share colour and marker by chance differ in their line.

    Colour and marker depend on the name alone; the line depends on the methods that stand before in the figure.
    """
    styles: dict[str, MethodStyle] = {}
    for method in dict.fromkeys(methods):
        look = method_style(method)
        place = _LINES.index(look.line)
        others = (look._replace(line=_LINES[(place + step) % len(_LINES)]) for step in range(len(_LINES)))
        styles[method] = next((other for other in others if other not in styles.values()), look)
    return styles


def describe(
    figure: Figure,
    about: About,
    *,
    protocol: str | Sequence[str] | None = None,
    n: str | None = None,
    bars: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the line below a figure: data set, protocol, n, what the bars are. The last step of building a figure.

    The figure grows by the height of the line; axes keep their size.

    Args:
        about: of the experiment.
        protocol: of the networks behind the figure; None where none was trained.
        n: in words, what an average or a bar is over: `n = 12 networks (3 seeds x 4 students)`.
        bars: in words: `one sample standard deviation`; None where there are none.
        notes: further facts, such as what is missing and why.
    """
    protocols = [protocol] if isinstance(protocol, str) else list(protocol or ())
    facts = [figure_text(about.dataset, f"data set of {about.experiment}")]
    facts += [f"protocol {' and '.join(protocols)}"] if protocols else []
    facts += [n] if n else []
    facts += [f"bars: {bars}"] if bars else []
    lines = _wrapped([*facts, *(figure_text(note, "") for note in notes)], 72 * figure.get_figwidth() - 16)
    _write_below(figure, lines)


def _wrapped(facts: Sequence[str], width: float) -> list[str]:
    """Facts joined by dots, in lines of at most this width in points; a fact is broken only where it must be."""
    lines: list[str] = []
    for fact in filter(None, facts):
        joined = f"{lines[-1]} · {fact}" if lines else fact
        if lines and text_width(joined, _NOTE_FONT) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for word in fact.split(" "):
            longer = f"{lines[-1]} {word}".lstrip()
            if lines[-1] and text_width(longer, _NOTE_FONT) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


@styled
def _write_below(figure: Figure, lines: Sequence[str]) -> None:
    figure.draw_without_rendering()  # the layout is done, and stays
    figure.set_layout_engine("none")
    # Whole pixels: the images of a contact sheet are not resampled.
    added = math.ceil((len(lines) * _NOTE_FONT * 1.35 + 6) / 72 * figure.dpi) / figure.dpi
    before = figure.get_figheight()
    height = before + added
    figure.set_figheight(height)
    below, kept = added / height, before / height
    for axes in figure.axes:
        x, y, width, tall = axes.get_position(original=True).bounds
        axes.set_position((x, below + y * kept, width, tall * kept))
    for text in figure.texts:
        x, y = text.get_position()
        text.set_position((x, below + y * kept))
    for entries in figure.legends:
        entries.set_bbox_to_anchor((0, below, 1, kept), figure.transFigure)
    left, bottom = 8 / 72 / figure.get_figwidth(), 5 / 72 / height
    below_all = "\n".join(lines)
    written = figure.text(left, bottom, below_all, fontsize=_NOTE_FONT, color="#555555", va="bottom", linespacing=1.2)
    written.set_in_layout(False)


def text_width(text: str, size: float) -> float:
    """The width of a text in points."""
    return float(TextPath((0, 0), text, size=size).get_extents().width) if text.strip() else 0.0


@styled
def save(figure: Figure, png: Path, svg: Path) -> None:
    """Write a figure in both formats, without the time and the software that made it."""
    for path, kind, metadata in ((png, "png", {"Software": None}), (svg, "svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi="figure", metadata=metadata)
        write_bytes(path, buffer.getvalue())


def columns_of(panels: int) -> int:
    """How many panels stand in a row."""
    return math.ceil(panels / math.ceil(panels / 4))


def panels_of(panels: int, width: float, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with this many axes of this size in inches; their values have one range if they share it."""
    columns = columns_of(panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(columns * width, rows * height + 0.4), layout="constrained")
    grid: list[Axes] = []
    for place in range(panels):
        grid.append(figure.add_subplot(rows, columns, place + 1, sharey=grid[0] if share_y and grid else None))
    return figure, grid


def legend(figure: Figure, grid: Sequence[Axes]) -> None:
    """One legend below all axes; an entry stands once."""
    entries: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    widest = 0.075 * max(map(len, entries), default=0) + 0.65
    columns = max(1, min(len(entries), int(figure.get_figwidth() / widest)))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)
