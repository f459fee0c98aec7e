"""The table of statistics: spread, paired differences and recovery scores of each cell of the accuracy table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from distillery.analysis.statistics import (
    augmentation_robust_score,
    hard_label_recovery,
    holm,
    improvement_over_random,
    label_robust_score,
    paired_difference,
    root_sum_of_squares,
    std_components,
)
from distillery.proportions import wilson_interval
from distillery.report import missing
from distillery.report.tables import (
    ABSENT,
    CELL,
    MEAN,
    REPLICATE,
    interval,
    last_epochs,
    markdown_table,
    mean_and_std,
    number,
)

COLUMNS = [
    *(*CELL, "n", "trained", "sets", "accuracy_mean", "std_between_sets", "std_within_set", "test_low", "test_high"),
    *("baseline", "difference", "difference_low", "difference_high", "p", "p_holm"),
    *("second_baseline", "second_difference", "second_low", "second_high"),
    *("hlr", "hlr_std", "ior", "ior_std", "lrs", "ars"),
    *("images", "test_images", "parameters", "label_bytes", "diverged"),
]
"""Accuracies, errors, differences, HLR and IOR are points; `diverged` lists networks as `seed/student`.

`n` replicates (seed and student) of which no network has diverged are what spreads are over: `std_between_sets` over
their `sets` (seeds), `std_within_set` over the students of a set. The mean is over `trained` networks.

`test_low` to `test_high` is the Wilson interval, 95 %, of the accuracy over `test_images`, in percent: the
spread between networks and sets is not in it.

`ars` joins the IOR of a protocol with that of the same one without augmentation, which has rows of its own.

`hlr_std` and `ior_std` join the sample standard deviations, over replicates, of the two accuracies that are subtracted.
"""


def statistics_table(
    rows: pd.DataFrame,
    *,
    baseline: str | None,
    random: str | None,
    full: str | None,
    second: str | None = None,
    soft: Sequence[str],
    plain: Mapping[str, str] | None = None,
    order: Sequence[tuple[str, int, str, str]],
) -> pd.DataFrame:
    """One row per method, IPC, network and protocol, after the last epoch; `mean` joins the networks of a replicate.

    A difference to the baseline is paired: the same set and student seed, the same test image. Its interval holds 95 %
    over all three; p values, of these sets and networks, are adjusted for the number of comparisons by Holm's rule,
    protocol by protocol. In the rows `mean` every network of a replicate counts as one more pair, so that the interval
    holds the spread between architectures. Such a row is the mean over networks of their means; its spread and its
    difference are over replicates of which no network has diverged, and there is none where all of one network have.

    Args:
        rows: of `read_rows`, the columns `EVALUATION`.
        baseline, random, full: names of methods; None where there is none.
        second: another method that differences are taken to, without p values; None where there is none.
        soft: protocols with soft labels, for which HLR is not defined.
        plain: label of a protocol -> that of the same one without augmentation, for ARS.
        order: cells (method, ipc, network, protocol) in the order in which they shall stand.
    """
    trained = last_epochs(rows)
    cells = dict(_cells(trained))
    statistics = []
    for cell in [*(key for key in order if key in cells), *(key for key in cells if key not in set(order))]:
        method, ipc, network, protocol = cell
        part = cells[cell]
        mean, sound = _mean(part), _whole(part)
        if network == MEAN and math.isnan(mean):
            continue
        versus = cells.get((baseline or "", ipc, network, protocol)) if method != baseline else None
        another = cells.get((second or "", ipc, network, protocol)) if method != second else None
        chance = cells.get((random or "", ipc, network, protocol))
        everything = next(
            (other for key, other in cells.items() if key[0] == full and key[2:] == (network, protocol)), None
        )
        hlr = hard_label_recovery(_mean(everything), mean) if protocol not in soft and method != full else math.nan
        ior = improvement_over_random(mean, _mean(chance)) if method not in (full, random) else math.nan
        plain_cell = (ipc, network, (plain or {}).get(protocol, ""))
        plain_ior = improvement_over_random(
            _mean(cells.get((method, *plain_cell))), _mean(cells.get((random or "", *plain_cell)))
        )
        bad = part[part["accuracy"].isna()]
        statistics.append(
            {
                **dict(zip(CELL, cell, strict=True)),
                "n": len(sound.groupby(REPLICATE)),
                "trained": int(part["accuracy"].notna().sum()),
                "sets": sound["seed"].nunique(),
                "accuracy_mean": mean,
                **_components(sound),
                **_wilson(mean if len(sound) else math.nan, int(part["test_images"].iloc[0])),
                **_difference(sound, versus, baseline if versus is not None else None),
                **_second(_difference(sound, another, second if another is not None else None)),
                "hlr": hlr,
                "hlr_std": root_sum_of_squares(_std(part), _std(everything)) if not math.isnan(hlr) else math.nan,
                "ior": ior,
                "ior_std": root_sum_of_squares(_std(part), _std(chance)) if not math.isnan(ior) else math.nan,
                "lrs": label_robust_score(hlr, ior) if not math.isnan(hlr + ior) else math.nan,
                "ars": augmentation_robust_score(ior, plain_ior) if not math.isnan(ior + plain_ior) else math.nan,
                **{name: int(part[name].max()) for name in ("images", "test_images", "parameters", "label_bytes")},
                "diverged": " ".join(f"{row.seed}/{row.student}" for row in bad.itertuples()),
            }
        )
    table = pd.DataFrame(statistics).reindex(columns=COLUMNS)
    table["p_holm"] = math.nan
    for _, part in table.groupby("protocol"):
        compared = part[part["p"].notna()]
        table.loc[compared.index, "p_holm"] = holm(compared["p"].tolist())
    return table


def _cells(trained: pd.DataFrame) -> list[tuple[tuple[str, int, str, str], pd.DataFrame]]:
    keys: Any  # pandas has no types of columns
    cells: list[tuple[tuple[str, int, str, str], pd.DataFrame]] = []
    for keys, part in trained.groupby(CELL):
        cells.append(((keys[0], int(keys[1]), keys[2], keys[3]), part))
    for keys, part in trained.groupby(["method", "ipc", "protocol"]):
        if part["network"].nunique() > 1:
            cells.append(((keys[0], int(keys[1]), MEAN, keys[2]), part))
    return cells


def _mean(part: pd.DataFrame | None) -> float:
    """Over networks, of their means; not a number where all of one have diverged."""
    return math.nan if part is None else float(part.groupby("network")["accuracy"].mean().mean(skipna=False))


def _std(part: pd.DataFrame | None) -> float:
    """Sample standard deviation over replicates, of the mean over networks; not a number for a single one."""
    if part is None:
        return math.nan
    return float(_whole(part).groupby(REPLICATE)["accuracy"].mean().std())


def _whole(part: pd.DataFrame) -> pd.DataFrame:
    """The replicates of which no network has diverged."""
    return part[part.groupby(REPLICATE)["accuracy"].transform(lambda values: values.notna().all())]


def _wilson(mean: float, images: int) -> dict[str, float]:
    """The interval of an accuracy over the images of the test set, in percent."""
    low, high = wilson_interval(mean / 100, images)
    return {"test_low": 100 * low, "test_high": 100 * high}


def _components(part: pd.DataFrame) -> dict[str, float]:
    replicates = part.groupby(REPLICATE, as_index=False)["accuracy"].mean()
    sets = [students["accuracy"].tolist() for _, students in replicates.groupby("seed")]
    between, within = std_components(sets) if sets else (math.nan, math.nan)
    return {"std_between_sets": between, "std_within_set": within}


def _difference(ours: pd.DataFrame, theirs: pd.DataFrame | None, baseline: str | None) -> dict[str, Any]:
    absent = {"baseline": baseline, **dict.fromkeys(("difference", "difference_low", "difference_high", "p"), math.nan)}
    if theirs is None:
        return absent
    keys = ["network", *REPLICATE]
    pairs = ours.merge(_whole(theirs), on=keys, suffixes=("", "_theirs")).sort_values(keys)
    if pairs.empty:
        return absent
    correct = [
        np.stack([bits(correct, images) for correct, images in zip(pairs[name], pairs["test_images"], strict=True)])
        for name in ("correct", "correct_theirs")
    ]
    paired = paired_difference(correct[0], correct[1], sets=pairs["seed"].tolist())
    values = {"difference": paired.difference, "difference_low": paired.low, "difference_high": paired.high}
    return {"baseline": baseline, **values, "p": paired.p}


def _second(difference: Mapping[str, Any]) -> dict[str, Any]:
    """A difference under the names of the second one."""
    names = {"baseline": "baseline", "difference": "difference", "difference_low": "low", "difference_high": "high"}
    return {f"second_{short}": difference[name] for name, short in names.items()}


def bits(packed: bytes, images: int) -> np.ndarray:
    """(images,) bool: which test images a network classifies correctly."""
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=images).astype(bool)


def statistics_markdown(table: pd.DataFrame, split: str = "test") -> str:
    """The statistics as a paper would print them in its appendix, one part per protocol.

    Args:
        split: the images that accuracies are of.
    """
    header = ["method", "IPC", "network", "n", "sets", "accuracy", "± sets", "± students", f"{split} set 95 %"]
    header += ["paired difference", "95 %", "p (Holm)"]
    parts = []
    for protocol, part in table.groupby("protocol"):
        baseline = next((name for name in part["baseline"] if isinstance(name, str)), None)
        second = next((name for name in part["second_baseline"] if isinstance(name, str)), None)
        robust = ["ARS"] if part["ars"].notna().any() else []
        columns = [*header, *([f"to {second}", "95 %"] if second else []), "HLR", "IOR", "LRS", *robust, "labels (MB)"]
        body = [
            [
                row["method"],
                str(row["ipc"]),
                row["network"],
                str(row["n"]),
                str(row["sets"]),
                number(row["accuracy_mean"], 1, ABSENT),
                *(number(row[name], 1, ABSENT) for name in ("std_between_sets", "std_within_set")),
                interval(row["test_low"], row["test_high"]),
                number(row["difference"], 1, ABSENT),
                interval(row["difference_low"], row["difference_high"]),
                _probability(row["p_holm"]),
                *([number(row["second_difference"], 1, ABSENT)] if second else []),
                *([interval(row["second_low"], row["second_high"])] if second else []),
                *(mean_and_std(row[name], row[f"{name}_std"]) for name in ("hlr", "ior")),
                *(number(row[name.lower()], 1, ABSENT) for name in ("LRS", *robust)),
                number(row["label_bytes"] / 1e6, 1) if row["label_bytes"] else ABSENT,
            ]
            for row in part.to_dict("records")
        ]
        against = f" Differences are paired with `{baseline}`." if baseline else ""
        parts.append(
            f"Last epoch, protocol `{protocol}`, in points: standard deviation between sets (experiment seeds) and"
            f" between students of one set; Wilson interval over the images of the {split} set.{against}"
            f" Intervals of differences are over sets, students and {split} images, p over {split} images alone.\n\n"
            + markdown_table(columns, body)
            + missing.paragraph(missing.of_statistics(part))
        )
    return "\n".join(parts)


def _probability(p: float) -> str:
    return "< 0.001" if p < 0.0005 else number(p, 3, ABSENT)
