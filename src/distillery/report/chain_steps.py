"""What the number of steps of LD3M's chain gives and costs: accuracy, time and memory over T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from distillery.cost import Cost
from distillery.report.about import About
from distillery.report.style import PALETTE, describe, styled
from distillery.report.tables import MEAN, words_of_n

BEST = 35
"""Steps at which the published accuracy is highest: figure 4 of arXiv 2403.03881 (MTT, IPC 1, mean over A to E)."""

PUBLISHED: tuple[tuple[str, int | None, float, float], ...] = (
    ("LD3M", 20, 574 / 60, 29.4),
    ("GLaD", None, 693 / 60, 31.2),
)
"""Name, steps, hours and GB on an A100 of 40 GB (arXiv 2403.03881); GLaD has no steps. Its accuracy in figure 4 is not
known as a number."""

COLUMNS = (
    *("method", "protocol", "steps", "ipc", "network", "n", "accuracy_mean", "accuracy_std"),
    *("gpu_hours", "core_hours", "gpu_gigabytes"),
)


def steps_table(
    accuracy: pd.DataFrame,
    records: Sequence[tuple[str, str, Mapping[str, Any]]],
    steps: Mapping[str, int],
    ipc: int,
    seeds: int,
) -> pd.DataFrame:
    """One row per method and protocol, in the order of the steps.

    Hours are those of optimising the images of all sizes of one seed (`match`), memory the most that one of these jobs
    held on a card; neither is a number where no record was left, or none of a card.

    Args:
        accuracy: what `tables.accuracy_table` returned.
        records: what `cost.named_records` returned.
        steps: of the chain of each method.
        ipc: images per class of the accuracies.
        seeds: how many seeds the experiment has.
    """
    rows = accuracy[(accuracy["ipc"] == ipc) & accuracy["method"].isin(steps)]
    table = []
    for (method, protocol), part in rows.groupby(["method", "protocol"], sort=True):
        networks = part[part["network"] == MEAN]
        row = (networks if len(networks) else part).iloc[0]
        cost = Cost()
        for owner, _, record in records:
            if owner == method and record["stage"] == "match":
                cost.add(dict(record))
        table.append(
            {
                **{"method": method, "protocol": protocol, "steps": steps[str(method)], "ipc": ipc},
                **{"network": row["network"], "n": int(row["n"])},
                **{name: row[name] for name in ("accuracy_mean", "accuracy_std")},
                "gpu_hours": cost.gpu_hours / seeds if cost.gpu_hours else np.nan,
                "core_hours": cost.core_hours / seeds if cost.core_hours else np.nan,
                "gpu_gigabytes": cost.gpu_memory / 1000 if cost.gpu_memory else np.nan,
            }
        )
    return pd.DataFrame(table, columns=list(COLUMNS)).sort_values(["protocol", "steps", "method"], ignore_index=True)


@styled
def steps_figure(table: pd.DataFrame, about: About) -> Figure:
    """Accuracy over T, hours over T and memory over T, each with what was published.

    Args:
        table: what `steps_table` returned.
    """
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    of_accuracy, of_time, of_memory = figure.subplots(1, 3)
    unit = "gpu" if table["gpu_hours"].notna().any() else "core"
    protocols = sorted(set(table["protocol"]))
    for place, protocol in enumerate(protocols):
        part, color = table[table["protocol"] == protocol], PALETTE[place % len(PALETTE)]
        of_accuracy.errorbar(
            part["steps"], part["accuracy_mean"], yerr=part["accuracy_std"].fillna(0), color=color, marker="o",
            markersize=4.5, linewidth=1.4, capsize=2, label=protocol,
        )  # fmt: skip
    first = table[table["protocol"] == protocols[0]] if protocols else table
    of_time.plot(first["steps"], first[f"{unit}_hours"], color=PALETTE[0], marker="o", markersize=4.5, linewidth=1.4)
    of_memory.plot(first["steps"], first["gpu_gigabytes"], color=PALETTE[0], marker="o", markersize=4.5, linewidth=1.4)
    of_accuracy.axvline(BEST, color="#777777", linestyle=":", linewidth=1.2, label=f"published peak, T = {BEST}")
    for name, steps, hours, gigabytes in PUBLISHED:
        for axes, value in ((of_time, hours), (of_memory, gigabytes)):
            if axes is of_time and unit == "core":
                continue  # hours of a card and of cores do not compare
            if steps is None:
                axes.axhline(value, color="#777777", linestyle="--", linewidth=1.2, label=f"{name}, published")
            else:
                axes.plot([steps], [value], color="#777777", marker="D", linestyle="", label=f"{name}, published")
    of_accuracy.set_ylabel(f"{about.split} accuracy (%)")
    of_time.set_ylabel(f"{'GPU' if unit == 'gpu' else 'core'}-hours of one seed, all sizes")
    of_memory.set_ylabel("most memory on a card (GB)")
    for axes in (of_accuracy, of_time, of_memory):
        axes.set_xlabel("sampling steps T")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    bars = "one sample standard deviation over n" if table["accuracy_std"].notna().any() else None
    notes = ["measured times, another figure in each run", "published: one A100 of 40 GB, arXiv 2403.03881"]
    n = f"{words_of_n(table['n'], 'replicate')} (seed and student)"
    describe(figure, about, protocol=protocols, n=n, bars=bars, notes=notes)
    return figure
