"""Several splits of one data set as one result: what holds over splits, experiment seeds, students and networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from distillery.report.tables import ABSENT, interval, last_epochs, mean_and_std

SPLIT = "dataset.holdout.seed"
"""The setting in which splits of one data set differ."""

WORDS = (
    "A unit is one experiment seed on one split: an autoencoder, a generator, sets and students of its own. Its"
    " accuracy is the mean over networks and students, of last epochs, in percent. Differences are paired by unit;"
    " intervals are Student's t, 95 %, over units, which share test images within a split and training images between"
    " splits."
)


class Interval(NamedTuple):
    """A mean over units with its interval; NaN ends where there is one unit."""

    mean: float
    low: float
    high: float
    n: int


def t_interval(values: Sequence[float]) -> Interval:
    """The mean and Student's interval of 95 %."""
    n, mean = len(values), float(np.mean(values)) if len(values) else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def units(evaluations: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Accuracy by method, ipc, protocol, split and seed; a unit of which a network has diverged is left out.

    Args:
        evaluations: the columns `EVALUATION` of each split.
    """
    parts = [last_epochs(rows).assign(split=number) for number, rows in enumerate(evaluations)]
    keys = ["method", "ipc", "protocol", "split", "seed"]
    by_network = (
        pd.concat(parts)
        .groupby([*keys, "network"], sort=False)["accuracy"]
        .agg(lambda values: values.mean(skipna=False))
    )
    return by_network.groupby(keys, sort=False).agg(lambda values: values.mean(skipna=False)).dropna().reset_index()


def difference(rows: pd.DataFrame, method: str, ipc: int, other: str | None, other_ipc: int) -> Interval:
    """The mean difference of a method to another one, paired by unit.

    Args:
        rows: of `units`, of one protocol.
    """
    keys = ["split", "seed"]
    ours, theirs = (
        rows[(rows["method"] == name) & (rows["ipc"] == size)].set_index(keys)["accuracy"]
        for name, size in ((method, ipc), (other, other_ipc))
    )
    return t_interval((ours - theirs).dropna().tolist())


def pooled_rows(
    evaluations: Sequence[pd.DataFrame], redundancies: Sequence[pd.DataFrame], yardsticks: Mapping[str, str | None]
) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the pooled table.

    Args:
        redundancies: the table of each split that has one.
        yardsticks: title of a column -> the method that differences are taken to; `full` is compared at every size.
    """
    rows = units(evaluations)
    full = set(rows["ipc"][rows["method"] == "full"])
    named = {title: name for title, name in yardsticks.items() if name in set(rows["method"])}
    header = ["method", "IPC", "protocol", "units", "accuracy"]
    header += [cell for title in named for cell in (f"over {title}", "95 %")]
    header += ["redundancy", "reduction (%)"] if len(redundancies) else []
    lines = []
    cells = list(dict.fromkeys(rows[["method", "ipc", "protocol"]].itertuples(index=False, name=None)))
    for method, ipc, protocol in cells:
        of_protocol = rows[rows["protocol"] == protocol]
        part = of_protocol[(of_protocol["method"] == method) & (of_protocol["ipc"] == ipc)]
        std = part["accuracy"].std(ddof=1) if len(part) > 1 else math.nan
        line = [method, str(ipc), protocol, str(len(part)), mean_and_std(part["accuracy"].mean(), std)]
        for name in named.values():
            size = min(full) if name == "full" and full else ipc
            change = difference(of_protocol, method, ipc, name, size)
            known = change.n > 0 and name != method
            line += [f"{change.mean:+z.1f}", interval(change.low, change.high)] if known else [ABSENT, ABSENT]
        lines.append(line + (_redundancy(redundancies, method) if len(redundancies) else []))
    return header, lines


def _redundancy(tables: Sequence[pd.DataFrame], method: str) -> list[str]:
    """Redundancy and its reduction, the mean over splits and the range of the reductions."""
    own = [table[table["method"] == method] for table in tables]
    found: list[Any] = [part.iloc[0].to_dict() for part in own if len(part)]
    if not found:
        return [ABSENT, ABSENT]
    reductions = [row["reduction_percent"] for row in found if not pd.isna(row["reduction_percent"])]
    words = f"{np.mean(reductions):.1f} ({min(reductions):.1f} to {max(reductions):.1f})" if reductions else ABSENT
    return [f"{np.mean([row['off_diagonal_mean'] for row in found]):.1f}", words]
