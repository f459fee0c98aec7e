"""The figures of a paper; their look is that of `distillery.report.style`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import BboxBase

from distillery.report.about import About
from distillery.report.style import MARKERS, MethodStyle, columns_of, describe, legend, method_styles, panels_of, styled
from distillery.report.tables import (
    MEAN,
    SYMBOLS,
    against,
    mean_and_std,
    number,
    redundancy_matrices,
    redundancy_table,
    words_of_n,
)

_Point = tuple[float, float]
_Box = tuple[float, float, float, float]


class _Label(NamedTuple):
    point: _Point
    text: str
    color: tuple[float, ...]


@styled
def accuracy_figure(
    table: pd.DataFrame,
    methods: Sequence[str],
    networks: Sequence[str],
    about: About,
    full: str | None = None,
    published: pd.DataFrame | None = None,
) -> Figure:
    """Accuracy against IPC: a panel per network, a line per method with a band of one standard deviation over n.

    A method of one size has a bar in place of the band. Published numbers are hollow markers, where protocol, network,
    size and data set are those of ours.

    Args:
        table: what `tables.accuracy_table` returned.
        methods: all methods, in their order.
        networks: all networks, in their order; their mean follows if there are several.
        about: of the experiment.
        full: the method that takes all real images; it has one size, far off, and is drawn as a level.
        published: what `published.beside_published` returned; rows without a `difference` do not compare, and are
            left out.
    """
    theirs = published
    if theirs is not None:
        theirs = theirs[theirs["difference"].notna() & (theirs["method"] != full)]
    levels, table = table[table["method"] == full], table[table["method"] != full]
    evaluated = set(table["network"])
    names = [name for name in networks if name in evaluated] + sorted(evaluated - {*networks, MEAN})
    if len(names) > 1 and MEAN in evaluated:
        names.append(MEAN)
    protocols = sorted(set(table["protocol"]))
    panels = [(protocol, name) for protocol in protocols for name in names]
    figure, grid = panels_of(len(panels), 3.1, 2.8, share_y=True)
    drawn = [name for name in methods if name != full]
    styles = method_styles([*drawn, *sorted(set(table["method"]) - {*drawn})])
    sizes = sorted({int(value) for value in table["ipc"]})
    span = sizes[-1] - sizes[0] or 1
    for index, (axes, (protocol, network)) in enumerate(zip(grid, panels, strict=True)):
        part = table[(table["network"] == network) & (table["protocol"] == protocol)]
        for place, (method, look) in enumerate(styles.items()):
            line = part[part["method"] == method].sort_values("ipc")
            if line.empty:
                continue
            # Side by side, so that the bars of equal methods can be told apart.
            aside = (place - (len(styles) - 1) / 2) * 0.03 / max(1, len(styles) - 1)
            _line(axes, line, method, look, None if len(sizes) > 1 else aside)
            if theirs is not None:
                _hollow(axes, theirs[_of(theirs, method, network, protocol)], look)
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
        if index % columns_of(len(panels)) == 0:
            axes.set_ylabel(f"{about.split} accuracy (%)")
    legend(figure, grid)
    is_mean = table["network"] == MEAN
    n = f"{words_of_n(table.loc[~is_mean, 'n'], 'network')} per point"
    if MEAN in names:
        n += f", of the mean {words_of_n(table.loc[is_mean, 'n'], 'replicate')} (seed and student)"
    notes = ["last epoch", *([f"dotted: {full}, one size"] if len(levels) else [])]
    bars = _bars(table["accuracy_std"])
    notes += [] if bars else ["no bars: n = 1"]
    if bars and len(sizes) > 1:
        notes, bars = [f"bands: {bars}", *notes], None
    if theirs is not None:
        notes.append("hollow: published, best epoch on the test set" if len(theirs) else "no published number compares")
    describe(figure, about, protocol=protocols, n=n, bars=bars, notes=notes)
    return figure


def _line(axes: Axes, line: pd.DataFrame, method: str, look: MethodStyle, aside: float | None) -> None:
    """A line with a band, or, with a place beside the size, a point with a bar."""
    mean, std = line["accuracy_mean"], line["accuracy_std"].fillna(0)
    drawn: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 4.5, "label": method}
    if aside is not None:
        axes.errorbar(line["ipc"] + aside, mean, yerr=std, linestyle="", elinewidth=1, capsize=2, **drawn)
        return
    axes.plot(line["ipc"], mean, linestyle=look.line, linewidth=1.4, **drawn)
    axes.fill_between(line["ipc"], mean - std, mean + std, color=look.color, alpha=0.15, linewidth=0)


def _of(theirs: pd.DataFrame, method: str, network: str, protocol: str) -> pd.Series[bool]:
    """Which published numbers belong to a line."""
    return (theirs["method"] == method) & (theirs["network"] == network) & (theirs["protocol"] == protocol)


def _hollow(axes: Axes, theirs: pd.DataFrame, look: MethodStyle) -> None:
    """Published numbers of one line, with their standard deviation where it is known."""
    if theirs.empty:
        return
    axes.errorbar(
        theirs["ipc"].astype(float),
        theirs["published"],
        yerr=theirs["published_std_sample"].fillna(0),
        color=look.color,
        marker=look.marker,
        markerfacecolor="white",
        markersize=6.5,
        linestyle="",
        elinewidth=0.8,
        capsize=3,
        label="published (hollow)",
        zorder=1.5,
    )


def _bars(spreads: pd.Series[float]) -> str | None:
    """What bars of these lengths are; None where there are none."""
    return "one sample standard deviation over n" if spreads.notna().any() else None


def _apart(sizes: Sequence[int], span: float) -> list[str]:
    """Labels of ticks; one too close to the last that has a label stays without."""
    labels, last = [], -math.inf
    for size in sizes:
        free = size - last >= 0.07 * span
        labels.append(str(size) if free else "")
        last = size if free else last
    return labels


@styled
def redundancy_figure(
    rows: pd.DataFrame,
    methods: Sequence[str],
    baseline: str | None,
    about: About,
    ipc: int | None = None,
    drawn: Collection[str] = (),
) -> Figure:
    """A heatmap per method, the baseline first: accuracy on one increment of a network trained on another.

    Args:
        rows: the columns `tables.REDUNDANCY`; the cells are means over trained networks.
        methods: all methods, in their order.
        baseline: the method that reductions are measured against.
        about: of the experiment; its first protocol trained the networks.
        ipc: images per class of the sets.
        drawn: the methods without increments, whose parts are random.
    """
    stacks = redundancy_matrices(rows)
    panels = sorted(
        redundancy_table(rows, methods, baseline).to_dict("records"), key=lambda row: row["method"] != baseline
    )
    largest = max(stack.shape[-1] for stack in stacks.values())
    side = max(2.3, 0.4 * largest)
    figure, grid = panels_of(len(panels), side + 0.3, side + 0.55)
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
        part = "random part" if method in drawn else "increment"
        axes.set_xlabel(f"tested on {part}")
        axes.set_ylabel(f"trained on {part}")
        mean, reduction = panel["off_diagonal_mean"], panel["reduction_percent"]
        title = f"{method}\noff-diagonal {mean_and_std(mean, panel['off_diagonal_std'])}"
        if method != baseline and not np.isnan(reduction):
            title += f"\nreduction {number(reduction, 1)} %"
        axes.set_title(title, fontsize=9)
    figure.colorbar(shown, ax=list(grid), label="accuracy (%)", shrink=0.8, pad=0.02)
    n = pd.Series([len(stack) for stack in stacks.values()])
    notes = [f"{ipc} images per class"] if ipc else []
    notes += [f"network {', '.join(sorted(set(rows['network'])))}", "cells are means over n"]
    if not all(np.isnan([panel["off_diagonal_std"] for panel in panels])):
        notes.append("± one sample standard deviation over n")
    notes += [
        f"{panel['method']}: one increment, nothing off the diagonal" for panel in panels if panel["increments"] == 1
    ]
    describe(figure, about, protocol=about.protocols[0], n=f"{words_of_n(n, 'network')} per increment", notes=notes)
    return figure


def _line_of_pilot(row: Mapping[Any, Any]) -> str:
    """What stays the same along a line of a calibration, in words."""
    modes = (("mode strength", row["mode_strength"]), ("mode stop", row["mode_stop"]))
    known = [f"{name} = {value:g}" for name, value in modes if not pd.isna(value)]
    return ", ".join([f"ω = {row['reference_weight']:g}", *known])


@styled
def calibration_figure(table: pd.DataFrame, setting: dict[str, Any], title: str, about: About) -> Figure:
    """Validity and student accuracy by strength of learnability, a line for each weight, mode strength and mode stop.

    Args:
        table: the columns of a calibration, fractions; rows of strength 0 are without learnability.
        setting: `threshold` (fraction), `judge`, `aim` and `images` (number of the pilot), where they are known.
        title: precedes the chosen setting in the title.
        about: of the experiment.
    """
    panels = [("validity", "validity: accuracy of the judge (%)"), ("student_accuracy", "student accuracy (%)")]
    if table["pilot_accuracy"].notna().any():
        panels.append(("pilot_accuracy", "accuracy with the pilot (%)"))
    figure, grid = panels_of(len(panels), 3.5, 3.0)
    # Strengths grow by factors and begin at zero: places of equal distance show both.
    strengths = sorted(set(table["relative_strength"]))
    places = {strength: place for place, strength in enumerate(strengths)}
    table = table.assign(line=[_line_of_pilot(row) for row in table.to_dict("records")])
    guided = table[table["strength"] > 0]
    plain = table[table["strength"] == 0]
    lines = list(dict.fromkeys(guided["line"]))
    inks = colormaps["viridis"](np.linspace(0, 0.85, max(1, len(lines))))
    for axes, (column, label) in zip(grid, panels, strict=True):
        for place, name in enumerate(lines):
            own = guided[guided["line"] == name]
            # without learnability omega has no effect, so that one measurement begins the lines of all weights
            modes = [column for column in ("mode_strength", "mode_stop") if own[column].notna().any()]
            begins = plain[(plain[modes] == own[modes].iloc[0]).all(axis=1)] if modes else plain
            line = pd.concat([begins.head(1), own]).sort_values("relative_strength")
            x = line["relative_strength"].map(places)
            axes.plot(x, 100 * line[column], color=inks[place], linewidth=1.4, zorder=2)
            if f"{column}_low" in table:
                reach = [100 * (line[column] - line[f"{column}_low"]), 100 * (line[f"{column}_high"] - line[column])]
                axes.errorbar(
                    x, 100 * line[column], yerr=reach, fmt="none", ecolor=inks[place], elinewidth=1, capsize=2
                )
            for valid, fill in ((True, inks[place]), (False, "white")):
                some = (line["valid"] == valid) & (line["strength"] > 0)
                marker = MARKERS[place % len(MARKERS)]
                look: dict[str, Any] = {"color": inks[place], "marker": marker, "markersize": 5.5}
                axes.plot(x[some], 100 * line[column][some], linestyle="", markerfacecolor=fill, zorder=3, **look)
            axes.plot([], [], label=name, linewidth=1.4, **look)
        if len(plain):
            x = plain["relative_strength"].map(places)
            axes.plot(x, 100 * plain[column], "ko", markersize=5.5, zorder=3, label="without learnability")
        if len(guided) and not guided["valid"].all():
            hollow: dict[str, Any] = {"color": "grey", "markerfacecolor": "white", "marker": "o", "linestyle": ""}
            axes.plot([], [], label="hollow: not valid", **hollow)
        if column == "validity" and setting.get("threshold") is not None:
            threshold = 100 * float(setting["threshold"])
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
        f"chosen: λ = {row['strength']:.3g}, {row['line']}" if row["strength"] else "chosen: no learnability"
        for row in chosen.head(1).to_dict("records")
    ]
    notes += [f"{key}: {setting[key]}" for key in ("aim", "judge") if setting.get(key)]
    figure.suptitle("\n".join(part for part in (title, ", ".join(notes)) if part), fontsize=10)
    legend(figure, grid)
    n = f"n = {setting['images']} pilot images per point" if setting.get("images") else None
    bars = "Wilson intervals, 95 %" if "validity_low" in table else None
    describe(
        figure,
        about,
        n=n,
        bars=bars,
        notes=["pilot, training and validation images; no test image"],
    )
    return figure


@styled
def front_figure(table: pd.DataFrame, methods: Sequence[str], baseline: str | None, ipc: int, about: About) -> Figure:
    """Accuracy against the reduction of redundancy; Pareto-optimal methods are ringed and joined.

    A method without a redundancy (a selection of real images has no increments) is a horizontal line.

    Args:
        table: what `tables.front_table` returned.
        methods: all methods, in their order.
        baseline: the method that reductions are measured against; its accuracy is a line too.
        ipc: of the title.
        about: of the experiment.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    styles = method_styles([*methods, *(name for name in table["method"] if name not in methods)])
    labels: list[_Label] = []
    lines: list[tuple[_Point, _Point]] = []
    levels: list[float] = []
    for row in table.to_dict("records"):
        look = styles[row["method"]]
        x, y = row["reduction_percent"], row["accuracy_mean"]
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
    front = table[table["pareto"]].sort_values("reduction_percent")
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "#666666", "markersize": 12}
    where = (front["reduction_percent"], front["accuracy_mean"])
    lines += pairwise(zip(*where, strict=True))
    axes.plot(*where, color="#999999", marker="o", linewidth=1, zorder=2, label="Pareto-optimal", **ring)
    axes.set_xlabel(against(baseline, "reduction of redundancy"))
    axes.set_ylabel(f"{about.split} accuracy, mean over networks (%), {words_of_n(table['n'])}")
    axes.set_title(f"{ipc} images per class")
    axes.margins(0.12)
    legend(figure, [axes])
    left, right = axes.get_xlim()
    _label(figure, axes, labels, [*lines, *(((left, level), (right, level)) for level in levels)])
    n = f"{words_of_n(table['n'], 'replicate')} (seed and student)"
    lost = [name for name, x in zip(table["method"], table["reduction_percent"], strict=True) if np.isnan(x)]
    notes = [f"horizontal lines: no measured redundancy ({', '.join(lost)})"] if lost else []
    notes += [] if _bars(table["accuracy_std"]) else ["no bars: n = 1"]
    describe(figure, about, protocol=about.protocols, n=n, bars=_bars(table["accuracy_std"]), notes=notes)
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
