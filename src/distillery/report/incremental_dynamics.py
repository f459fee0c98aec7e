"""The loss of a student over the increments of a set, each spike marked, and the test accuracy after each increment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillery.report.about import About
from distillery.report.over_seeds import difference_text, differences, notes_markdown, seed_words, spread
from distillery.report.style import MethodStyle, describe, legend, method_styles, panels_of, styled
from distillery.report.tables import ABSENT, MEAN, REPLICATE, markdown_table, mean_and_std, number, words_of_n

COLUMNS = ["method", "seed", "network", "student", "increment", "images", "epoch", "loss", "test_accuracy"]
"""One row per trained network, increment and look; `test_accuracy` of the last epoch of an increment only."""

VALUES = ["spike", "loss", "accuracy", "gain"]
"""Of an increment: what its images add to the loss, loss and test accuracy after it, and what it adds to accuracy."""


def replicates(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per network and increment with `VALUES`; the first increment has no spike and no gain."""
    names = ["method", *REPLICATE, "increment"]
    ordered = rows.sort_values([*names, "epoch"])
    first = ordered.drop_duplicates(names, keep="first").set_index(names)["loss"]
    last = ordered.drop_duplicates(names, keep="last").set_index(names)
    values = pd.DataFrame({"images": last["images"], "loss": last["loss"], "accuracy": last["test_accuracy"]})
    before = values.groupby(level=["method", *REPLICATE])[["loss", "accuracy"]].shift()
    values["spike"] = first - before["loss"]
    values["gain"] = values["accuracy"] - before["accuracy"]
    return values.reset_index()


def incremental_table(rows: pd.DataFrame, methods: Sequence[str], baseline: str | None) -> pd.DataFrame:
    """A row per method and increment, and a row `mean` of each method over the increments from the second on.

    Means and sample standard deviations are over `n` networks (seed and student). Differences from the baseline are of
    the row `mean`, paired over seeds.

    Args:
        rows: the columns `COLUMNS`.
        methods: in the order of the rows.
    """
    every = replicates(rows)
    later = every[every["increment"] > 1]
    means = later.groupby(["method", *REPLICATE], as_index=False)[["spike", "gain"]].mean()
    table = []
    for method in [name for name in methods if name in set(every["method"])]:
        part = every[every["method"] == method]
        counts = {"n": len(part.drop_duplicates(REPLICATE)), "seeds": part["seed"].nunique()}
        for increment, values in part.groupby("increment"):
            row = {"method": method, "increment": str(increment), "images": int(values["images"].max())}
            table.append({**row, **counts, **spread(values, VALUES)})
        of_method = means[means["method"] == method].assign(loss=np.nan, accuracy=np.nan)
        row = {"method": method, "increment": MEAN, "images": int(part["images"].max())}
        theirs = means[means["method"] == baseline] if baseline not in (None, method) else None
        compared = differences(of_method, theirs, ["spike", "gain"])
        table.append({**row, **counts, **spread(of_method, VALUES), "baseline": baseline or "", **compared})
    columns = ["method", "increment", "images", "n", "seeds"]
    columns += [f"{name}_{what}" for name in VALUES for what in ("mean", "std")] + ["baseline"]
    columns += [f"{name}_{what}" for name in ("spike", "gain") for what in ("difference", "low", "high")]
    return pd.DataFrame(table, columns=columns).fillna({"baseline": ""})


def missing(rows: pd.DataFrame, methods: Sequence[str], baseline: str | None, increment_size: int) -> list[str]:
    """What the table and the figure lack, and why."""
    increments = rows.groupby("method")["increment"].max().to_dict()
    notes = [
        f"{method}: not measured, its smallest class has fewer than the {increment_size} images of an increment"
        for method in methods
        if method not in increments
    ]
    notes += [f"{method}: one increment, so there is no spike" for method in methods if increments.get(method) == 1]
    compared = baseline in increments and len(increments) > 1
    return notes + seed_words(rows["seed"], compared)


def incremental_markdown(
    table: pd.DataFrame, baseline: str | None, epochs: int, notes: Sequence[str], split: str = "test"
) -> str:
    """The table of spikes, losses, gains, and accuracies on the images of a split."""
    body = []
    for row in table.to_dict("records"):
        of_mean = row["increment"] == MEAN
        body.append(
            [
                row["method"],
                row["increment"],
                str(row["images"]),
                str(row["n"]),
                mean_and_std(row["spike_mean"], row["spike_std"], 3),
                mean_and_std(row["loss_mean"], row["loss_std"], 3),
                mean_and_std(row["accuracy_mean"], row["accuracy_std"]),
                mean_and_std(row["gain_mean"], row["gain_std"]),
                difference_text(row, "spike", 3) if of_mean else "",
            ]
        )
    against = f"spike minus that of {baseline}" if baseline else "difference"
    header = ["method", "increment", "images", "n", "spike Δ", "loss after", f"{split} accuracy (%)", "gain", against]
    return (
        f"A student that goes on from increment to increment, {epochs} epochs each. Spike: cross-entropy of the "
        "increments so far before the training on the newest one, minus that at the end of the increment before; "
        "without augmentation. Row `mean`: over the increments from the second on. Mean ± sample standard deviation "
        "over n networks (seed and student); differences paired over seeds, with their 95 % interval.\n\n"
        + markdown_table(header, body)
        + notes_markdown(notes)
    )


@styled
def incremental_figure(
    rows: pd.DataFrame, methods: Sequence[str], epochs: int, notes: Sequence[str], about: About
) -> Figure:
    """A panel of the loss per method with its spikes, and one of the test accuracy after each increment.

    Args:
        rows: the columns `COLUMNS`.
        methods: in the order of the panels.
        epochs: of an increment.
        notes: what is missing and why.
        about: of the experiment; its first protocol trained the networks.
    """
    every, shown = replicates(rows), [name for name in methods if name in set(rows["method"])]
    figure, grid = panels_of(len(shown) + 1, 3.5, 3.0)
    styles = method_styles(shown)
    spikes = every.groupby(["method", "increment"])["spike"].mean()
    # The first increment starts with a network that knows nothing: its loss would hide the spikes.
    later = rows[rows["increment"] > 1]
    seen = (later if len(later) else rows).groupby(["method", "increment", "epoch"])["loss"].mean()
    top = 1.35 * float(seen.max()) if len(seen) else 1.0
    for axes, method in zip(grid, shown, strict=False):
        _loss_panel(axes, rows[rows["method"] == method], styles[method], epochs, top)
        for increment, spike in spikes[method].dropna().items():
            number_of = int(str(increment))
            start = rows[(rows["method"] == method) & (rows["increment"] == number_of) & (rows["epoch"] == 0)]
            at = (epochs * (number_of - 1), float(start["loss"].mean()))
            label = f"Δ {number(float(spike), 3)}"
            axes.annotate(label, at, (3, 4), textcoords="offset points", fontsize=7.5, va="bottom")
        axes.set_title(method)
    axes = grid[-1]
    for place, method in enumerate(shown):
        line = every[every["method"] == method].groupby("increment")["accuracy"].agg(["mean", "std"])
        aside = (place - (len(shown) - 1) / 2) * 0.06
        look = styles[method]
        axes.errorbar(
            line.index.to_numpy(dtype=float) + aside,
            line["mean"],
            yerr=line["std"].fillna(0),
            color=look.color,
            marker=look.marker,
            linestyle=look.line,
            markersize=4.5,
            linewidth=1.4,
            capsize=2,
            label=method,
        )
    axes.set_xticks(sorted(set(every["increment"])))
    axes.set_xlabel("increments so far")
    axes.set_ylabel(f"{about.split} accuracy (%)")
    axes.set_title("after each increment")
    legend(figure, grid)
    counts = every.drop_duplicates(["method", *REPLICATE]).groupby("method").size()
    several = bool(len(counts)) and counts.max() > 1
    facts = [f"{epochs} epochs per increment, the optimiser starts anew", "Δ: rise of the loss with the new images"]
    facts += ["bands: one sample standard deviation over n"] if several else []
    describe(
        figure,
        about,
        protocol=about.protocols[0],
        n=f"{words_of_n(counts, 'network')} per method (seed and student)" if len(counts) else ABSENT,
        bars="one sample standard deviation over n" if several else None,
        notes=[*facts, *notes],
    )
    return figure


def _loss_panel(axes: Axes, rows: pd.DataFrame, look: MethodStyle, epochs: int, top: float) -> None:
    """The loss over all epochs: a line breaks where images are added, and a dotted one marks the rise."""
    end: tuple[float, float] | None = None
    for increment, part in rows.groupby("increment"):
        line = part.groupby("epoch")["loss"].agg(["mean", "std"]).fillna(0)
        x = line.index.to_numpy(dtype=float) + epochs * (int(str(increment)) - 1)
        kwargs: dict[str, Any] = {"color": look.color, "linewidth": 1.4}
        axes.plot(x, line["mean"], linestyle=look.line, **kwargs)
        axes.fill_between(x, line["mean"] - line["std"], line["mean"] + line["std"], color=look.color, alpha=0.2, lw=0)
        if end is not None:
            axes.plot([end[0], x[0]], [end[1], line["mean"].iloc[0]], color="#555555", linestyle=":", linewidth=1.2)
            axes.axvline(x[0], color="#bbbbbb", linewidth=0.8, zorder=0)
        end = (float(x[-1]), float(line["mean"].iloc[-1]))
    axes.set_ylim(0, top)
    axes.set_xlabel("epochs")
    axes.set_ylabel("loss of the increments so far")
