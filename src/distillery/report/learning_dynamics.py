"""How sets are learned: shares of easy, informative and hard images, their densities, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from distillery.analysis.settings import Thresholds
from distillery.report.about import About
from distillery.report.over_seeds import difference_text, differences, notes_markdown, seed_words, spread
from distillery.report.style import describe, panels_of, styled
from distillery.report.tables import REPLICATE, markdown_table, mean_and_std, number, words_of_n

KINDS = ["easy", "informative", "hard", "unassigned"]
SHARES = ["set", "seed", "student", "images", *KINDS, "js", "js_of_subset"]
"""Columns of the shares: one row per set and trained network, percent; the original images have no divergence."""

DYNAMICS = ["set", "seed", "student", "image", "label", "mean", "std"]
"""Columns of the dynamics: one row per image and trained network."""

ORIGINAL = ""
"""The original images among the sets."""

SHOWN = "training images"
"""Their name in tables and figures."""

COMPARED = ["informative", "hard", "js"]
BINS = 20
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"


def learning_table(shares: pd.DataFrame, methods: Sequence[str], baseline: str | None) -> pd.DataFrame:
    """A row per set, the original one first: means and sample standard deviations over `n` networks.

    Args:
        shares: the columns `SHARES`.
        methods: in the order of the rows.
        baseline: differences from it are paired over seeds.
    """
    table = []
    for name in [ORIGINAL, *methods]:
        part = shares[shares["set"] == name]
        theirs = shares[shares["set"] == baseline] if name != ORIGINAL and baseline not in (None, name) else None
        row = {
            "set": name or SHOWN,
            "images": int(part["images"].max()),
            "n": len(part),
            "seeds": part["seed"].nunique(),
        }
        compared = differences(part, theirs, COMPARED)
        table.append({**row, **spread(part, [*KINDS, "js", "js_of_subset"]), "baseline": baseline or "", **compared})
    return pd.DataFrame(table)


def missing(shares: pd.DataFrame, methods: Sequence[str], baseline: str | None) -> list[str]:
    """What the table lacks, and why."""
    return seed_words(shares["seed"], baseline is not None and len(set(methods)) > 1)


def learning_markdown(
    table: pd.DataFrame, baseline: str | None, epochs: int, thresholds: Thresholds, own: bool, notes: Sequence[str]
) -> str:
    """The table of shares and divergences."""
    header = ["set", "images", "n", *(f"{kind} (%)" for kind in KINDS), "JS (bits)", "JS of a random subset"]
    header += [f"{name} minus {baseline}" for name in COMPARED] if baseline else []
    body = [
        [
            row["set"],
            str(row["images"]),
            str(row["n"]),
            *(mean_and_std(row[f"{kind}_mean"], row[f"{kind}_std"]) for kind in KINDS),
            *(mean_and_std(row[f"{name}_mean"], row[f"{name}_std"], 3) for name in ("js", "js_of_subset")),
            *(difference_text(row, name, 3 if name == "js" else 1) for name in COMPARED if baseline),
        ]
        for row in table.to_dict("records")
    ]
    return (
        f"Probability of the label over {epochs} epochs of {_training(own)}, without augmentation: mean μ and standard "
        f"deviation {SIGMA} of each image. {_words(thresholds)}; the same thresholds for every set. JS: divergence of "
        f"the density over μ and {SIGMA} from that of the training images; beside it, that of random training images "
        "of the same number. Mean ± sample standard deviation over n networks (seed and student); differences paired "
        "over seeds, with their 95 % interval.\n\n" + markdown_table(header, body) + notes_markdown(notes)
    )


def _training(own: bool) -> str:
    return "a training on each set itself" if own else "one training on the training images"


def _words(thresholds: Thresholds) -> str:
    edge = f"{thresholds.informative:g}"
    return (
        f"Easy: μ ≥ {thresholds.easy:g} and {SIGMA} < {edge}; hard: μ ≤ {thresholds.hard:g} and {SIGMA} < {edge}; "
        f"informative: {SIGMA} ≥ {edge}"
    )


@styled
def learning_figure(
    dynamics: pd.DataFrame,
    shares: pd.DataFrame,
    methods: Sequence[str],
    epochs: int,
    thresholds: Thresholds,
    own: bool,
    notes: Sequence[str],
    about: About,
) -> Figure:
    """The density of each set over mean and deviation of the probability, the original one first, on one scale.

    Args:
        dynamics: the columns `DYNAMICS`; images of all networks are counted together.
        shares: the columns `SHARES`, for the words in the panels.
        methods: in the order of the panels.
        epochs: of the training.
        thresholds: which are drawn.
        own: whether each set was recorded over a training of its own.
        notes: what is missing and why.
        about: of the experiment; its first protocol trained the networks.
    """
    sets = [ORIGINAL, *methods]
    figure, grid = panels_of(len(sets), 2.9, 3.1)
    edges = (np.linspace(0, 0.5, BINS + 1), np.linspace(0, 1, BINS + 1))
    means = shares.groupby("set")[[*KINDS, "js"]].mean().to_dict("index")
    norm, colours = LogNorm(0.05, 100), colormaps["viridis_r"].with_extremes(bad="white")
    for axes, name in zip(grid, sets, strict=True):
        part = dynamics[dynamics["set"] == name]
        counts, _, _ = np.histogram2d(part["std"], part["mean"], bins=edges)
        percent = np.ma.masked_equal(100 * counts / max(1, len(part)), 0)
        shown = axes.pcolormesh(*edges, percent.T, norm=norm, cmap=colours)
        line: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.0, "linestyle": "--"}
        axes.axvline(thresholds.informative, **line)
        for level in (thresholds.easy, thresholds.hard):
            axes.plot([0, thresholds.informative], [level, level], **line)
        axes.set_title(_panel_title(name, means[name]), fontsize=9)
        axes.set_xlabel(f"standard deviation {SIGMA}")
        axes.set_ylabel("mean probability μ")
        axes.grid(visible=False)
    bar = figure.colorbar(shown, ax=list(grid), label="share of the images (%)", shrink=0.8, pad=0.02)
    bar.set_ticks([0.1, 1, 10, 100], labels=["0.1", "1", "10", "100"])
    bar.ax.minorticks_off()
    counts_of = shares.drop_duplicates(["set", *REPLICATE]).groupby("set").size()
    facts = [f"{epochs} epochs of {_training(own)}", "dashed: thresholds, the same for every set"]
    n = f"{words_of_n(counts_of, 'network')} per set (seed and student)"
    describe(figure, about, protocol=about.protocols[0], n=n, notes=[*facts, *notes])
    return figure


def _panel_title(name: str, means: Mapping[Any, float]) -> str:
    easy, informative, hard = (number(means[kind], 1) for kind in KINDS[:3])
    title = f"{name or SHOWN}\neasy {easy}, informative {informative}, hard {hard} %"
    return title if name == ORIGINAL else f"{title}\nJS {number(means['js'], 3)}"
