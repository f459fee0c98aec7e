"""What a table cannot show, and why: sentences below it, one for each kind of gap."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd


def paragraph(sentences: Iterable[str]) -> str:
    """Sentences as a paragraph of Markdown below a table; empty where there are none."""
    words = " ".join(sentences)
    return f"\n{words}\n" if words else ""


def _named(names: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, names)))


def of_accuracy(table: pd.DataFrame) -> list[str]:
    """Why accuracies have no standard deviation."""
    single = table[table["n"] == 1]
    names = "" if len(single) == len(table) else f" of {_named(single['method'])}"
    return [f"No standard deviation{names}: n = 1."] if len(single) else []


def of_redundancy(table: pd.DataFrame, baseline: str | None) -> list[str]:
    """Why redundancies, deviations or reductions are not there."""
    sentences = []
    single = table[table["increments"] == 1]
    if len(single):
        sentences.append(
            f"No redundancy of {_named(single['method'])}: one increment, so there is no other to test on."
        )
    if len(table) and (table["n"] == 1).all():
        sentences.append("No standard deviation: n = 1.")
    if baseline is None:
        sentences.append("No reduction: the experiment names no baseline (`analysis.redundancy.baseline`).")
    elif table["reduction_percent"].isna().all():
        sentences.append("No reduction: the baseline has no redundancy.")
    return sentences


def of_coverage(table: pd.DataFrame, k: int) -> list[str]:
    """Why shares or deviations are not there."""
    sentences = []
    few = table[table["recall_mean"].isna()]
    if len(few):
        sentences.append(f"No recall of {_named(few['method'])}: a set needs more than k = {k} images.")
    if len(table) and (table["n"] == 1).all():
        sentences.append("No standard deviation: one experiment seed.")
    return sentences


def of_increments(table: pd.DataFrame) -> list[str]:
    """Why increments have no accuracy of a student."""
    blind = table[table["student_accuracy"].isna()]
    if len(blind) and (blind["increment"] == 1).all():
        return ["Increment 1 was made before there was a student."]
    return []


def of_statistics(part: pd.DataFrame) -> list[str]:
    """Why spreads, differences or scores of one protocol are not there."""
    sentences = []
    if (part["sets"] <= 1).all():
        sentences.append("No spread between sets: one experiment seed.")
    if part["std_within_set"].isna().all():
        sentences.append("No spread between students: one student of each set.")
    if part["difference"].isna().all():
        sentences.append("No paired difference: no baseline was evaluated at the same size.")
    if part["hlr"].isna().all():
        sentences.append("No HLR and no LRS: labels are soft, or no method takes all real images.")
    if part["ior"].isna().all():
        sentences.append("No IOR and no LRS: no random real images of the same size.")
    return sentences
