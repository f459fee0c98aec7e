"""What tables of the analyses share: spread over replicates, differences over seeds, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from distillery.analysis.statistics import difference_over_seeds
from distillery.report.tables import ABSENT, number
from distillery.report.text import markdown_text


def spread(part: pd.DataFrame, names: Sequence[str]) -> dict[str, float]:
    """Mean and sample standard deviation of these columns; not a number where there is none."""
    return {f"{name}_{what}": float(getattr(part[name], what)()) for name in names for what in ("mean", "std")}


def differences(ours: pd.DataFrame, theirs: pd.DataFrame | None, names: Sequence[str]) -> dict[str, float]:
    """Ours minus theirs of these columns, means of each seed paired, with the 95 % interval over seeds.

    Args:
        ours, theirs: with a column `seed`; None where nothing is compared.
    """
    columns: dict[str, float] = {}
    for name in names:
        values = [
            {} if part is None else {int(str(seed)): float(value) for seed, value in means.items()}
            for part, means in ((part, _by_seed(part, name)) for part in (ours, theirs))
        ]
        compared = difference_over_seeds(values[0], values[1])
        columns |= {
            f"{name}_difference": compared.difference,
            f"{name}_low": compared.low,
            f"{name}_high": compared.high,
        }
    return columns


def _by_seed(part: pd.DataFrame | None, name: str) -> dict[Any, Any]:
    return {} if part is None else part.dropna(subset=[name]).groupby("seed")[name].mean().to_dict()


def difference_text(row: Mapping[Any, Any], name: str, digits: int = 2) -> str:
    """`+0.14 (0.10 to 0.18)`, without the interval where there is none."""
    difference, low, high = (float(row[f"{name}_{what}"]) for what in ("difference", "low", "high"))
    if np.isnan(difference):
        return ABSENT
    interval = "" if np.isnan(low) else f" ({number(low, digits)} to {number(high, digits)})"
    return f"{difference:+.{digits}f}{interval}"


def seed_words(seeds: Iterable[int], compared: bool) -> list[str]:
    """What a single seed leaves out."""
    return ["one seed: differences have no interval"] if compared and len(set(seeds)) == 1 else []


def notes_markdown(notes: Sequence[str]) -> str:
    """What is missing and why, as a list; empty where nothing is."""
    return "".join(["\n", *(f"- {markdown_text(note)}\n" for note in notes)]) if notes else ""
