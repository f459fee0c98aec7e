"""Accuracy beside what a set cost to make: a table and a figure of measured times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from distillery.cost import Cost
from distillery.report.about import About
from distillery.report.style import describe, legend, method_styles, styled
from distillery.report.tables import MEAN, words_of_n

MAKING = frozenset(
    {
        *("sample", "discover_modes", "generate_increment", "select_increment", "train_student", "calibrate_guidance"),
        *(
            "select",
            "select_by_learnability",
            "select_by_modes",
            "stitch_crops",
            "import_images",
            "match",
            "render",
            "choose_snapshot",
        ),
        *("choose_set", "collect"),
    }
)
"""The stages of one method that make its sets; its other jobs evaluate and measure them."""


def cost_table(
    accuracy: pd.DataFrame,
    records: Sequence[tuple[str, str, Mapping[str, Any]]],
    shared: Mapping[str, Sequence[str]],
    ipc: int,
    seeds: int,
) -> pd.DataFrame:
    """Accuracy at one size beside the hours of one seed that all sizes of each method took.

    `own` are the hours of the method's own jobs, `total` those with the jobs that it shares with other methods.
    GPU-hours count jobs that had a card, core-hours the others. Hours are not numbers where a method left no record.

    Args:
        accuracy: what `tables.accuracy_table` returned.
        records: what `cost.named_records` returned.
        shared: method -> names of the jobs that it shares with others; `<name>/` is another method.
        seeds: how many seeds the experiment has.
    """
    rows = accuracy[(accuracy["ipc"] == ipc) & accuracy["method"].isin(shared)]
    table = []
    for (method, protocol), part in rows.groupby(["method", "protocol"], sort=True):
        networks = part[part["network"] == MEAN]
        row = (networks if len(networks) else part).iloc[0]
        own, total = Cost(), Cost()
        for owner, name, record in records:
            if owner == method and record["stage"] in MAKING:
                own.add(dict(record))
                total.add(dict(record))
            elif name in shared[str(method)] or (f"{owner}/" in shared[str(method)] and record["stage"] in MAKING):
                total.add(dict(record))
        recorded = own.jobs > 0
        hours = {
            f"{unit}_hours_{what}": getattr(cost, f"{unit}_hours") / seeds if recorded else np.nan
            for unit in ("gpu", "core")
            for what, cost in (("own", own), ("total", total))
        }
        about = {"method": method, "protocol": protocol, "ipc": ipc, "network": row["network"], "n": int(row["n"])}
        accuracies = {"accuracy_mean": row["accuracy_mean"], "accuracy_std": row["accuracy_std"]}
        table.append({**about, **accuracies, **hours})
    columns = ["method", "protocol", "ipc", "network", "n", "accuracy_mean", "accuracy_std"]
    columns += [f"{unit}_hours_{what}" for unit in ("gpu", "core") for what in ("own", "total")]
    return pd.DataFrame(table, columns=columns)


@styled
def cost_figure(table: pd.DataFrame, ipc: int, seeds: int, about: About) -> Figure:
    """Accuracy against hours on a logarithmic axis: a point at the total, a line back to the method's own hours.

    GPU-hours where any job had a card, core-hours otherwise. A method without such hours is a horizontal line.

    Args:
        table: what `cost_table` returned.
        seeds: how many seeds the hours are a mean over.
        about: of the experiment.
    """
    unit = "gpu" if (table["gpu_hours_total"] > 0).any() else "core"
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    styles = method_styles(dict.fromkeys(table["method"]))
    protocols = sorted(set(table["protocol"]))
    for row in table.to_dict("records"):
        look = styles[row["method"]]
        own, total = row[f"{unit}_hours_own"], row[f"{unit}_hours_total"]
        label = row["method"] if len(protocols) == 1 else f"{row['method']}, {row['protocol']}"
        spread = 0.0 if np.isnan(row["accuracy_std"]) else row["accuracy_std"]
        if not total > 0:
            axes.axhline(row["accuracy_mean"], color=look.color, linestyle=":", linewidth=1.2, label=label)
            continue
        axes.errorbar(
            total, row["accuracy_mean"], yerr=spread, color=look.color, marker=look.marker, linestyle="", markersize=6,
            elinewidth=1, capsize=2, label=label, zorder=3,
        )  # fmt: skip
        if 0 < own < total:
            y = [row["accuracy_mean"]] * 2
            axes.plot([own, total], y, color=look.color, linewidth=1, marker="|", markersize=8, zorder=2)
    if (table[f"{unit}_hours_total"] > 0).any():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # the default writes powers as mathematics
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{'GPU' if unit == 'gpu' else 'core'}-hours of one seed, all sizes")
    axes.set_ylabel(f"{about.split} accuracy (%)")
    axes.set_title(f"{ipc} images per class")
    axes.margins(0.12)
    legend(figure, [axes])
    name = "mean over networks" if set(table["network"]) == {MEAN} else ", ".join(sorted(set(table["network"])))
    notes = [f"last epoch, {name}", "line to the left: without the jobs that methods share"]
    notes += [f"hours: mean over {seeds} seeds"] if seeds > 1 else []
    unknown = sorted(set(table.loc[table["core_hours_total"].isna(), "method"]))
    notes += [f"dotted: no recorded cost ({', '.join(unknown)})"] if unknown else []
    free = sorted(set(table.loc[table[f"{unit}_hours_total"] == 0, "method"]))
    notes += [f"dotted: no job with a card ({', '.join(free)})"] if free else []
    notes.append("measured times, another figure in each run")
    bars = "one sample standard deviation over n" if table["accuracy_std"].notna().any() else None
    n = f"{words_of_n(table['n'], 'replicate')} (seed and student)"
    describe(figure, about, protocol=protocols, n=n, bars=bars, notes=notes)
    return figure
