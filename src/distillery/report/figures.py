"""The figures of a paper. A method has the same colour, marker and line in all of them; equal data give equal bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import BboxBase

from distillery.report.tables import (
    ABSENT,
    MEAN,
    SYMBOLS,
    against,
    number,
    redundancy_matrices,
    redundancy_table,
    words_of_n,
)
from distillery.report.text import FONT
from distillery.storage.atomic import write_bytes

PRINT_DPI = 200
SCREEN_DPI = 100

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito, without the yellow that white paper swallows: told apart with any colour vision."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", "--", "-.", ":")

_Point = tuple[float, float]
_Box = tuple[float, float, float, float]

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


def method_styles(methods: Sequence[str]) -> dict[str, MethodStyle]:
    """A look of its own for each method, by its position: the same list gives the same looks in every figure."""
    return {
        method: MethodStyle(
            _PALETTE[place % len(_PALETTE)],
            _MARKERS[place % len(_MARKERS)],
            _LINES[place // len(_PALETTE) % len(_LINES)],
        )
        for place, method in enumerate(methods)
    }


class _Label(NamedTuple):
    point: _Point
    text: str
    color: tuple[float, ...]


@styled
def save(figure: Figure, png: Path, svg: Path) -> None:
    """Write a figure in both formats, without the time and the software that made it."""
    for path, kind, metadata in ((png, "png", {"Software": None}), (svg, "svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi="figure", metadata=metadata)
        write_bytes(path, buffer.getvalue())


@styled
def accuracy_figure(
    table: pd.DataFrame, methods: Sequence[str], networks: Sequence[str], full: str | None = None
) -> Figure:
    """Accuracy against IPC: a panel per network, a line per method, bars of one standard deviation over n.

    Args:
        table: what `tables.accuracy_table` returned.
        methods: all methods, in their order.
        networks: all networks, in their order; their mean follows if there are several.
        full: the method that takes all real images; it has one size, far off, and is drawn as a level.
    """
    levels, table = table[table["method"] == full], table[table["method"] != full]
    evaluated = set(table["network"])
    names = [name for name in networks if name in evaluated] + sorted(evaluated - {*networks, MEAN})
    if len(names) > 1 and MEAN in evaluated:
        names.append(MEAN)
    protocols = sorted(set(table["protocol"]))
    panels = [(protocol, name) for protocol in protocols for name in names]
    figure, grid = _grid(len(panels), 3.1, 2.8, share_y=True)
    styles = method_styles([*methods, *sorted(set(table["method"]) - {*methods})])
    sizes = sorted({int(value) for value in table["ipc"]})
    span = sizes[-1] - sizes[0] or 1
    for index, (axes, (protocol, network)) in enumerate(zip(grid, panels, strict=True)):
        part = table[(table["network"] == network) & (table["protocol"] == protocol)]
        for place, (method, look) in enumerate(styles.items()):
            line = part[part["method"] == method].sort_values("ipc")
            if line.empty:
                continue
            # Side by side, so that the bars of equal methods can be told apart.
            aside = (place - (len(styles) - 1) / 2) * 0.03 * span / max(1, len(styles) - 1)
            axes.errorbar(
                line["ipc"] + aside,
                line["accuracy_mean"],
                yerr=line["accuracy_std"].fillna(0),
                color=look.color,
                marker=look.marker,
                linestyle=look.line,
                markersize=4.5,
                linewidth=1.4,
                elinewidth=1,
                capsize=2,
                label=method,
            )
        level = levels[(levels["network"] == network) & (levels["protocol"] == protocol)]
        for mean in level["accuracy_mean"]:
            axes.axhline(mean, color="#777777", linestyle=(0, (1, 1.5)), linewidth=1.2, label=full)
        name = "mean over networks" if network == MEAN else network
        name += f", {words_of_n(part['n'])}" if len(part) else ""
        axes.set_title(name if len(protocols) == 1 else f"{name}, {protocol}")
        axes.set_xlabel("images per class")
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.set_xticklabels(_apart(sizes, span))
        axes.set_xlim(sizes[0] - 0.08 * span, sizes[-1] + 0.08 * span)
        if index % _columns(len(panels)) == 0:
            axes.set_ylabel("test accuracy (%)")
    _legend(figure, grid)
    return figure


def _apart(sizes: Sequence[int], span: float) -> list[str]:
    """Labels of ticks; one too close to the last that has a label stays without."""
    labels, last = [], -math.inf
    for size in sizes:
        free = size - last >= 0.07 * span
        labels.append(str(size) if free else "")
        last = size if free else last
    return labels


@styled
def redundancy_figure(rows: pd.DataFrame, methods: Sequence[str], baseline: str | None) -> Figure:
    """A heatmap per method, the baseline first: accuracy on one increment of a network trained on another.

    Args:
        rows: the columns `tables.REDUNDANCY`; the cells are means over trained networks.
        methods: all methods, in their order.
        baseline: the method that reductions are measured against.
    """
    stacks = redundancy_matrices(rows)
    panels = sorted(
        redundancy_table(rows, methods, baseline).to_dict("records"), key=lambda row: row["method"] != baseline
    )
    largest = max(stack.shape[-1] for stack in stacks.values())
    side = max(2.3, 0.4 * largest)
    figure, grid = _grid(len(panels), side + 0.3, side + 0.55)
    colours = colormaps["YlGnBu"]
    for axes, panel in zip(grid, panels, strict=True):
        method = panel["method"]
        matrix = stacks[method].mean(axis=0)
        shown = axes.imshow(matrix, vmin=0, vmax=100, cmap=colours)
        for (row, column), value in np.ndenumerate(matrix):
            ink = "white" if value > 60 else "black"
            axes.text(column, row, number(value, 0), ha="center", va="center", color=ink, fontsize=8)
        ticks = range(len(matrix))
        axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
        axes.set_yticks(ticks, [str(tick + 1) for tick in ticks])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("tested on increment")
        axes.set_ylabel("trained on increment")
        mean, reduction = panel["off_diagonal_mean"], panel["reduction_vs_dit_percent"]
        title = f"{method}\noff-diagonal {number(mean, 1, ABSENT)}"
        if method != baseline and not np.isnan(reduction):
            title += f"\nreduction {number(reduction, 1)} %"
        axes.set_title(title, fontsize=9)
    figure.colorbar(shown, ax=list(grid), label="accuracy (%)", shrink=0.8, pad=0.02)
    return figure


@styled
def calibration_figure(table: pd.DataFrame, about: dict[str, Any], title: str) -> Figure:
    """Validity and student accuracy by strength of the guidance, a line per reference weight.

    Args:
        table: the columns of a calibration, fractions; the row of strength 0 is plain sampling.
        about: `threshold` (fraction), `judge` and `aim`, where they are known.
        title: precedes the chosen setting in the title.
    """
    panels = [("validity", "validity: accuracy of the judge (%)"), ("student_accuracy", "student accuracy (%)")]
    if table["pilot_accuracy"].notna().any():
        panels.append(("pilot_accuracy", "accuracy with the pilot (%)"))
    figure, grid = _grid(len(panels), 3.5, 3.0)
    # Strengths grow by factors and begin at zero: places of equal distance show both.
    strengths = sorted(set(table["relative_strength"]))
    places = {strength: place for place, strength in enumerate(strengths)}
    guided = table[table["strength"] > 0]
    plain = table[table["strength"] == 0]
    weights = sorted(set(guided["reference_weight"]))
    inks = colormaps["viridis"](np.linspace(0, 0.85, max(1, len(weights))))
    for axes, (column, label) in zip(grid, panels, strict=True):
        for place, weight in enumerate(weights):
            line = pd.concat([plain.head(1), guided[guided["reference_weight"] == weight]])
            line = line.sort_values("relative_strength")
            x = line["relative_strength"].map(places)
            axes.plot(x, 100 * line[column], color=inks[place], linewidth=1.4, zorder=2)
            for valid, fill in ((True, inks[place]), (False, "white")):
                some = (line["valid"] == valid) & (line["strength"] > 0)
                marker = _MARKERS[place % len(_MARKERS)]
                look: dict[str, Any] = {"color": inks[place], "marker": marker, "markersize": 5.5}
                axes.plot(x[some], 100 * line[column][some], linestyle="", markerfacecolor=fill, zorder=3, **look)
            axes.plot([], [], label=f"ω = {weight:g}", linewidth=1.4, **look)
        if len(plain):
            x = plain["relative_strength"].map(places)
            axes.plot(x, 100 * plain[column], "ko", markersize=5.5, zorder=3, label="plain sampling")
        if len(guided) and not guided["valid"].all():
            hollow: dict[str, Any] = {"color": "grey", "markerfacecolor": "white", "marker": "o", "linestyle": ""}
            axes.plot([], [], label="hollow: not valid", **hollow)
        if column == "validity" and about.get("threshold") is not None:
            threshold = 100 * float(about["threshold"])
            axes.axhline(threshold, color="#D55E00", linestyle="--", linewidth=1.2, label="validity threshold")
        chosen = table[table["chosen"].astype(bool)]
        ring: dict[str, Any] = {"markeredgecolor": "#D55E00", "markeredgewidth": 1.8, "markersize": 13}
        x = chosen["relative_strength"].map(places)
        axes.plot(x, 100 * chosen[column], "o", zorder=4, label="chosen", markerfacecolor="none", **ring)
        axes.set_xticks(range(len(strengths)), [f"{strength:.3g}" for strength in strengths])
        axes.set_xlabel("relative strength λ/√d")
        axes.set_ylabel(label)
        axes.margins(x=0.08, y=0.1)
    notes = [
        f"chosen: λ = {row['strength']:.3g}, ω = {row['reference_weight']:g}"
        if row["strength"]
        else "chosen: no guidance"
        for row in chosen.head(1).to_dict("records")
    ]
    notes += [f"{key}: {about[key]}" for key in ("aim", "judge") if about.get(key)]
    figure.suptitle("\n".join(part for part in (title, ", ".join(notes)) if part), fontsize=10)
    _legend(figure, grid)
    return figure


@styled
def front_figure(table: pd.DataFrame, methods: Sequence[str], baseline: str | None, ipc: int) -> Figure:
    """Accuracy against the reduction of redundancy; Pareto-optimal methods are ringed and joined.

    A method without a redundancy (a selection of real images has no increments) is a horizontal line.

    Args:
        table: what `tables.front_table` returned.
        methods: all methods, in their order.
        baseline: the method that reductions are measured against; its accuracy is a line too.
        ipc: of the title.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    styles = method_styles([*methods, *(name for name in table["method"] if name not in methods)])
    labels: list[_Label] = []
    lines: list[tuple[_Point, _Point]] = []
    levels: list[float] = []
    for row in table.to_dict("records"):
        look = styles[row["method"]]
        x, y = row["reduction_vs_dit_percent"], row["accuracy_mean"]
        placed = not np.isnan(x)
        if placed:
            spread = 0.0 if np.isnan(row["accuracy_std"]) else row["accuracy_std"]
            mark: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 6, "linestyle": ""}
            axes.errorbar(x, y, yerr=spread, elinewidth=1, capsize=2, label=row["method"], zorder=3, **mark)
            lines.append(((x, y - spread), (x, y + spread)))
            text = ", ".join(f"{sign} {row[key]}" for key, sign in SYMBOLS.items() if row[key])
            # Letters are thin: a darker shade than that of the marker keeps them readable.
            labels.append(_Label((x, y), text, tuple(0.65 * part for part in to_rgb(look.color))))
        if not placed or row["method"] == baseline:
            name = f"{row['method']} (accuracy)" if placed else row["method"]
            axes.axhline(y, color=look.color, linestyle="--" if placed else ":", linewidth=1.2, label=name, zorder=1)
            levels.append(y)
    front = table[table["pareto"]].sort_values("reduction_vs_dit_percent")
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "#666666", "markersize": 12}
    where = (front["reduction_vs_dit_percent"], front["accuracy_mean"])
    lines += pairwise(zip(*where, strict=True))
    axes.plot(*where, color="#999999", marker="o", linewidth=1, zorder=2, label="Pareto-optimal", **ring)
    axes.set_xlabel(against(baseline, "reduction of redundancy"))
    axes.set_ylabel(f"test accuracy, mean over networks (%), {words_of_n(table['n'])}")
    axes.set_title(f"{ipc} images per class")
    axes.margins(0.12)
    _legend(figure, [axes])
    left, right = axes.get_xlim()
    _label(figure, axes, labels, [*lines, *(((left, level), (right, level)) for level in levels)])
    return figure


def _label(figure: Figure, axes: Axes, labels: list[_Label], lines: list[tuple[_Point, _Point]]) -> None:
    """Put a text beside each point, where it hides no point, line or other text; a text without room is left out."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    scale = figure.dpi / 72
    along = np.linspace(0, 1, 100)[:, None]
    taken: list[_Box] = []
    marks = [(5.0, np.array([label.point])) for label in labels]
    marks += [(1.0, start + along * np.subtract(end, start)) for start, end in lines]
    for points, places in marks:
        half = points * scale
        taken += [(x - half, y - half, x + half, y + half) for x, y in axes.transData.transform(places)]
    for label in labels:
        for reach in (9, 16, 24, 34, 48, 70) if label.text else ():
            if _place(axes, label, reach, axes.get_window_extent(), taken):
                break


def _place(axes: Axes, label: _Label, reach: float, inside: BboxBase, taken: list[_Box]) -> bool:
    """Try the places around a point at one distance (in points); true if one was free."""
    far = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4} if reach > 9 else None
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
        text = axes.annotate(
            label.text,
            label.point,
            (dx * reach, dy * reach),
            textcoords="offset points",
            ha=("center", "left", "right")[dx],
            va=("center", "bottom", "top")[dy],
            fontsize=7.5,
            color=label.color,
            arrowprops=far,
        )
        text.get_window_extent()  # moves the text to its place; the returned box includes the line to the point
        left, bottom, right, top = Text.get_window_extent(text).extents
        free = all(right < x0 or left > x1 or top < y0 or bottom > y1 for x0, y0, x1, y1 in taken)
        if free and inside.x0 < left and right < inside.x1 and inside.y0 < bottom and top < inside.y1:
            space = (right - left) / max(1, len(label.text))
            taken.append((left - space, bottom, right + space, top))
            return True
        text.remove()
    return False


def _columns(panels: int) -> int:
    return math.ceil(panels / math.ceil(panels / 4))


def _grid(panels: int, width: float, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with this many axes of this size in inches; their values have one range if they share it."""
    columns = _columns(panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(columns * width, rows * height + 0.4), layout="constrained")
    grid: list[Axes] = []
    for place in range(panels):
        grid.append(figure.add_subplot(rows, columns, place + 1, sharey=grid[0] if share_y and grid else None))
    return figure, grid


def _legend(figure: Figure, grid: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    widest = 0.075 * max(map(len, entries), default=0) + 0.65
    columns = max(1, min(len(entries), int(figure.get_figwidth() / widest)))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)
