"""The tables of a paper as Markdown, each with a sentence on what it shows and one on each thing that it lacks."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from distillery.report import missing
from distillery.report.tables import (
    ABSENT,
    CELL,
    COUNTED_ON,
    MEAN,
    SHARES,
    SYMBOLS,
    against,
    interval,
    last_epochs,
    markdown_table,
    mean_and_std,
    number,
    words_of_n,
)


def accuracy_markdown(table: pd.DataFrame, abbreviated: Mapping[str, str], split: str = "test") -> str:
    """The accuracy table as a paper prints it: methods and IPC downwards, networks across, one part per protocol.

    Args:
        abbreviated: protocol -> its constants, where its label does not say them.
        split: the images that accuracies are of.
    """
    parts = []
    for protocol, part in table.groupby("protocol"):
        networks = list(dict.fromkeys(part["network"]))
        if len(networks) == 2 and MEAN in networks:
            networks.remove(MEAN)
        constants = f" ({abbreviated[str(protocol)]})" if protocol in abbreviated else ""
        is_mean = part["network"] == MEAN
        over = f"over trained networks, {words_of_n(part.loc[~is_mean, 'n'])} per network"
        if MEAN in networks:
            over += f"; of `mean` over replicates (seed and student), {words_of_n(part.loc[is_mean, 'n'])}"
        for name, title in (("accuracy", "last epoch"), ("best", f"best epoch on the {split} set")):
            cells = {
                (row["method"], row["ipc"], row["network"]): mean_and_std(row[f"{name}_mean"], row[f"{name}_std"])
                for row in part.to_dict("records")
            }
            lines = dict.fromkeys((method, ipc) for method, ipc, _ in cells)
            body = [[m, str(ipc), *(cells.get((m, ipc, network), ABSENT) for network in networks)] for m, ipc in lines]
            parts.append(
                f"Accuracy in percent, {title}, protocol `{protocol}`{constants};"
                f" mean ± sample standard deviation {over}.\n\n" + markdown_table(["method", "IPC", *networks], body)
            )
    return "\n".join(parts) + missing.paragraph(missing.of_accuracy(table))


def diverged_markdown(rows: pd.DataFrame) -> str:
    """The networks that diverged and are in no mean, one line per cell; empty where none did."""
    last = last_epochs(rows)
    lost = last[last["accuracy"].isna()]
    lines = [
        f"- {keys[0]}, IPC {keys[1]}, {keys[2]}, `{keys[3]}`: "
        + " ".join(f"{row.seed}/{row.student}" for row in part.itertuples())
        for keys, part in lost.groupby(CELL)
    ]
    return "" if not lines else "\nDiverged and in no mean (seed/student):\n\n" + "\n".join(lines) + "\n"


def redundancy_markdown(table: pd.DataFrame, baseline: str | None) -> str:
    """The redundancy table as a paper prints it."""
    body = [
        [
            row["method"],
            str(row["increments"]),
            str(row["n"]),
            mean_and_std(row["off_diagonal_mean"], row["off_diagonal_std"]),
            number(row["reduction_percent"], 1, ABSENT),
        ]
        for row in table.to_dict("records")
    ]
    return (
        "Redundancy in percent: accuracy, on one increment, of networks trained on another;"
        " mean ± sample standard deviation over n replicates (seed and student).\n\n"
        + markdown_table(["method", "increments", "n", "redundancy", against(baseline)], body)
        + missing.paragraph(missing.of_redundancy(table, baseline))
    )


def coverage_markdown(table: pd.DataFrame, k: int) -> str:
    """The table of coverages as a paper prints it."""
    header = ["method", "IPC", "n"]
    for name in SHARES:
        header += [name, "95 %"] if name in COUNTED_ON else [name]
    body = []
    for row in table.to_dict("records"):
        cells = [str(row["method"]), str(row["ipc"]), str(row["n"])]
        for name in SHARES:
            cells.append(mean_and_std(row[f"{name}_mean"], row[f"{name}_std"], 2 if name == "density" else 1))
            cells += [interval(row[f"{name}_low"], row[f"{name}_high"])] if name in COUNTED_ON else []
        body.append(cells)
    return (
        f"Of the real training images, in percent, k = {k}: those near a distilled one (coverage), and those in the"
        " reach of a distilled one (recall); of the distilled ones those near a real one (precision), and in how many"
        " balls of real ones they lie (density); mean ± sample standard deviation over n seeds, and the Wilson interval"
        " over the images of one set.\n\n"
        + markdown_table(header, body)
        + missing.paragraph(missing.of_coverage(table, k))
    )


def front_markdown(table: pd.DataFrame, ipc: int, baseline: str | None) -> str:
    """Accuracy against redundancy; Pareto-optimal methods are marked."""
    body = [
        [
            row["method"],
            *(row[key] or ABSENT for key in SYMBOLS),
            str(row["n"]),
            mean_and_std(row["accuracy_mean"], row["accuracy_std"]),
            number(row["redundancy"], 1, ABSENT),
            number(row["reduction_percent"], 1, ABSENT),
            "yes" if row["pareto"] else "",
        ]
        for row in table.to_dict("records")
    ]
    header = ["method", *SYMBOLS.values(), "n", "accuracy", "redundancy", against(baseline), "Pareto"]
    words = (
        f"IPC {ipc}, percent, last epoch; accuracy: mean over networks ± sample standard deviation over n replicates"
    )
    return f"{words} (seed and student).\n\n" + markdown_table(header, body)


def increments_markdown(table: pd.DataFrame) -> str:
    """Each increment as a row, in percent: accuracy of the student before it and of the reference."""
    body = [
        [str(row["method"]), str(row["seed"]), str(row["increment"]), str(row["images"])]
        + [number(row[name], 1, ABSENT) for name in ("student_accuracy", "reference_accuracy", "reference_probability")]
        + [number(row["learnability"], 2, ABSENT)]
        for row in table.to_dict("records")
    ]
    header = ["method", "seed", "increment", "images", "student correct", "reference correct", "reference p(y)", "S"]
    below = missing.paragraph(missing.of_increments(table))
    return f"Before training on it, percent.\n\n{markdown_table(header, body)}{below}"
