"""Training losses: small panels, a line per training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from distillery.report.about import About
from distillery.report.style import describe, method_styles, panels_of, styled
from distillery.report.text import figure_text

UNITS = ("step", "epoch", "iteration")
NOT_TERMS = (*UNITS, "network", "loss", "learning_rate", "gradient_norm")
SMOOTHED = 50
"""A line is a running mean over one part in so many of its rows."""

MOST_NAMED = 8
"""Lines of a panel that a legend names."""

Trainings = Sequence[tuple[str, pd.DataFrame]]


@styled
def training_figure(panels: Mapping[str, Trainings], about: About, seed: int, students: int) -> Figure:
    """A panel for each entry: the loss against step, epoch or iteration, on a logarithmic axis where it is positive.

    Args:
        panels: title -> names and histories; of several networks in a history the mean is drawn. A name that is a
            method of the evaluation has the colour of the method.
        seed: of the experiment.
        students: networks of an evaluation.
    """
    figure, grid = panels_of(len(panels), 3.2, 2.4)
    for place, (axes, (title, trainings)) in enumerate(zip(grid, panels.items(), strict=True)):
        axes.set_title(figure_text(title, str(place + 1)), fontsize=8)
        looks = method_styles([name for name, history in trainings if "network" in history.columns])
        shades = colormaps["viridis"](np.linspace(0.1, 0.8, max(len(trainings), 2)))
        for index, (name, history) in enumerate(trainings):
            color, line = (looks[name].color, looks[name].line) if name in looks else (shades[index], "-")
            _draw(axes, history, color, line, "" if len(trainings) == 1 else figure_text(name, str(index + 1)))
        _finish(axes)
    describe(
        figure,
        about,
        protocol=about.protocols,
        n=f"mean over n = {students} {'network' if students == 1 else 'networks'} in the panels of the evaluation",
        notes=[f"seed {seed}", f"training losses, running means over 1/{SMOOTHED} of each training"],
    )
    return figure


def _draw(axes: Axes, history: pd.DataFrame, color: Any, line: str, name: str) -> None:
    """The loss of a training; without a name, of the only one of its panel, with its terms."""
    unit = next((column for column in history.columns if column in UNITS), None)
    if unit is None or history.empty:
        return
    means = history.groupby(unit).mean()
    terms = [column for column in means.columns if column not in NOT_TERMS and not column.startswith("gradient_")]
    for index, column in enumerate(["loss"] if name else ["loss", *terms[:3]]):
        smooth = means[column].rolling(max(1, len(means) // SMOOTHED), min_periods=1).mean()
        style = (line, ":", "--", "-.")[index]
        look = {"color": color, "linewidth": 1, "marker": "o" if len(means) == 1 else "", "markersize": 3}
        axes.plot(means.index, smooth, linestyle=style, label=name or column.replace("_", " "), **look)
    axes.set_xlabel(unit, fontsize=7)


def _finish(axes: Axes) -> None:
    axes.tick_params(which="both", labelsize=6)
    axes.set_ylabel("loss", fontsize=7)
    if not axes.lines:
        axes.text(0.5, 0.5, "no training", ha="center", transform=axes.transAxes, color="#666666")
    elif all((np.asarray(line.get_ydata()) > 0).all() for line in axes.lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    if 1 < len(axes.lines) <= MOST_NAMED:
        axes.legend(fontsize=6)
