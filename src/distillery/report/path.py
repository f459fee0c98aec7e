"""The paths of samples as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from distillery.report.about import About
from distillery.report.image_grid import ImageBlock, image_grid, short
from distillery.report.style import describe, legend, method_styles, panels_of, styled
from distillery.report.text import figure_text
from distillery.storage.images import ImageSet


def path_figure(traced: ImageSet, method: str, guidances: Sequence[str], about: About) -> Figure:
    """A block per class: the path without guidance above that with guidance, a column per recorded step.

    Args:
        traced: the images that `trace_sample` made.
        method: of the title.
        guidances: the guidances of the method, of the title.
        about: of the experiment.
    """
    guided, index, steered = (traced.columns[name] for name in ("guided", "index", "steered"))
    blocks = []
    for label in dict.fromkeys(traced.labels.tolist()):
        rows = [np.flatnonzero((traced.labels == label) & (guided == which)) for which in (False, True)]
        captions = ["image" if index[row] < 0 else f"{index[row]}{'*' if steered[row] else ''}" for row in rows[1]]
        title = f"class {short(figure_text(traced.classes[label], f'label {label}'))}"
        blocks.append(ImageBlock(title, [[traced.images[int(row)] for row in half] for half in rows], captions))
    across = max(len(block.captions) for block in blocks)
    title = f"{method}: predicted clean image along the sampling steps"
    sheet = image_grid(blocks, ["without guidance", "with guidance"], across, [title], stacked=True)
    notes = [
        "below each column: its sampling index, noise to image",
        f"*: guidance acts ({', '.join(guidances)})",
        "both rows start from the same noise",
    ]
    last = (index < 0) & guided
    if not traced.columns["repeats_set"][last].all():
        notes.append("the image with guidance is not that of the set: it was drawn on another device")
    describe(sheet, about, n=f"{len(blocks)} images, one per class", notes=notes)
    return sheet


@styled
def shifts_figure(table: pd.DataFrame, method: str, about: About) -> Figure:
    """The length of each guidance's shift by sampling index, and the cosine of each pair of guidances.

    Args:
        table: rows of `distillery.guidance.path.Shift`, with the class of the image.
        method: of the title.
        about: of the experiment.
    """
    pairs = table[table["other"].notna()]
    figure, grid = panels_of(2 if len(pairs) else 1, 4.0, 2.8)
    lengths = table[table["other"].isna()]
    for guidance, look in method_styles(dict.fromkeys(lengths["guidance"])).items():
        line = lengths[lengths["guidance"] == guidance].groupby("index")["length"].mean()
        grid[0].plot(line.index, line, color=look.color, linestyle=look.line, linewidth=1.4, label=guidance)
    sigma = lengths.groupby("index")["sigma"].mean()
    grid[0].plot(sigma.index, sigma, color="grey", linestyle=":", linewidth=1.2, label="noise of the step")
    grid[0].set_yscale("symlog", linthresh=max(1e-6, float(lengths["length"].max()) / 1e3))
    grid[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # figures read no mathematics
    grid[0].set_ylabel("root mean square of the shift")
    if len(pairs):
        for guidance, other in dict.fromkeys(zip(pairs["guidance"], pairs["other"], strict=True)):
            of_pair = pairs[(pairs["guidance"] == guidance) & (pairs["other"] == other)].groupby("index")["cosine"]
            name = f"{guidance} and {other}"
            look = method_styles([name])[name]
            mean, spread = of_pair.mean(), of_pair.std().fillna(0.0)
            grid[1].plot(mean.index, mean, color=look.color, linewidth=1.4, label=name)
            grid[1].fill_between(mean.index, mean - spread, mean + spread, color=look.color, alpha=0.2, linewidth=0)
        grid[1].axhline(0, color="grey", linewidth=0.8)
        grid[1].set_ylim(-1, 1)
        grid[1].set_ylabel("cosine of the two shifts")
    for axes in grid:
        axes.set_xlabel("sampling index, noise to image")
        axes.invert_xaxis()
    grid[0].set_title(f"{method}: shifts of its guidances")
    legend(figure, grid)
    classes = table["class"].nunique()
    bars = "one sample standard deviation over n" if len(pairs) and classes > 1 else None
    describe(figure, about, n=f"n = {classes} images, one per class", bars=bars)
    return figure
