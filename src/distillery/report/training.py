"""Training losses: small panels, a line per training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillery.report.figures import method_styles, styled
from distillery.report.text import figure_text

UNITS = ("step", "epoch", "iteration")
NOT_TERMS = (*UNITS, "network", "loss", "learning_rate", "gradient_norm")
SMOOTHED = 50
"""A line is a running mean over one part in so many of its rows."""

Trainings = Sequence[tuple[str, pd.DataFrame]]


@styled
def training_figure(panels: Mapping[str, Trainings], methods: Sequence[str], seed: int) -> Figure:
    """A panel for each entry: the loss against step, epoch or iteration, on a logarithmic axis where it is positive.

    Args:
        panels: title -> names and histories; of several networks in a history the mean is drawn.
        methods: of the experiment, whose lines have the colours of the other figures.
        seed: of the experiment.
    """
    columns = min(4, max(1, math.ceil(math.sqrt(len(panels)))))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows + 0.3), layout="constrained")
    looks = method_styles(methods)
    for place, (title, trainings) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_title(figure_text(title, str(place + 1)), fontsize=8)
        shades = colormaps["viridis"](np.linspace(0.1, 0.8, max(len(trainings), 2)))
        for index, (name, history) in enumerate(trainings):
            color = looks[name].color if name in looks else shades[index]
            _draw(axes, name, history, color, number=str(index + 1), alone=len(trainings) == 1)
        if not axes.lines:
            axes.text(0.5, 0.5, "no training", ha="center", transform=axes.transAxes, color="#666666")
        elif all((np.asarray(line.get_ydata()) > 0).all() for line in axes.lines):
            axes.set_yscale("log")
        if 1 < len(axes.get_legend_handles_labels()[1]) <= 8:
            axes.legend(fontsize=6)
    figure.supylabel("training loss", fontsize=9)
    figure.supxlabel(
        f"seed {seed}; running means over a {_ordinal(SMOOTHED)} of each training, of the networks of one evaluation "
        "their mean",
        fontsize=7,
        color="#555555",
    )
    return figure


def _ordinal(number: int) -> str:
    return f"{number}th"


def _draw(axes: Axes, name: str, history: pd.DataFrame, color: Any, number: str, alone: bool) -> None:
    unit = next((column for column in history.columns if column in UNITS), None)
    if unit is None or history.empty:
        return
    means = history.groupby(unit).mean()
    terms = [column for column in means.columns if column not in NOT_TERMS and not column.startswith("gradient_")]
    drawn = ["loss", *terms] if alone and len(terms) <= 4 else ["loss"]
    for index, column in enumerate(drawn):
        smooth = means[column].rolling(max(1, len(means) // SMOOTHED), min_periods=1).mean()
        label = column.replace("_", " ") if alone else figure_text(name, number)
        axes.plot(
            means.index, smooth, color=color, linestyle=("-", ":", "--", "-.")[index % 4], linewidth=1, label=label
        )
    axes.set_xlabel(unit, fontsize=7)
    axes.tick_params(labelsize=6)
