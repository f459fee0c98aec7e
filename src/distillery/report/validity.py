"""Probability by the reference against the loss of the student: of candidates, and of those chosen with and without
the reference term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from distillery.report.about import About
from distillery.report.over_seeds import difference_text, differences, notes_markdown, seed_words, spread
from distillery.report.style import describe, legend, method_styles, panels_of, styled
from distillery.report.tables import markdown_table, mean_and_std, words_of_n

COLUMNS = [
    *("method", "seed", "increment", "label", "slot", "candidate"),
    *("student_loss", "reference_probability", "judge_probability", "chosen", "chosen_by_loss"),
]
"""One row per candidate that a student scored."""

PARTS = {"candidates": None, "chosen": "chosen", "chosen by loss alone": "chosen_by_loss"}
"""The images of a row of the table, and the column that marks them; the last would be chosen without reference term."""

VALUES = ["student_loss", "reference_probability", "low_confidence", "judge_probability"]
LOW = 0.5
"""Probability by the reference below which an image counts as one of low confidence."""

LEAST_LOSS = 1e-4
"""Where the axis of losses begins."""


def validity_table(rows: pd.DataFrame, methods: Sequence[str], baseline: str | None) -> pd.DataFrame:
    """Candidates, chosen ones and those of largest loss, method by method: means of each seed, and over seeds.

    Probabilities are percent. Differences are those of the chosen images from the chosen ones of the baseline, paired
    over seeds.

    Args:
        rows: the columns `COLUMNS`.
        methods: in the order of the rows.
    """
    percent = rows.assign(
        low_confidence=100.0 * (rows["reference_probability"] < LOW),
        reference_probability=100 * rows["reference_probability"],
        judge_probability=100 * rows["judge_probability"].astype(float),
    )
    means = {}
    for method in methods:
        of_method = percent[percent["method"] == method]
        for name, mark in PARTS.items():
            some = of_method if mark is None else of_method[of_method[mark]]
            values: Any = {"images": ("slot", "size"), **{value: (value, "mean") for value in VALUES}}
            means[method, name] = some.groupby("seed", as_index=False).agg(**values)
    table = []
    for (method, name), part in means.items():
        if part.empty:
            continue
        theirs = means.get((baseline, name)) if name == "chosen" and baseline not in (None, method) else None
        row = {"method": method, "part": name, "images": int(part["images"].max()), "n": len(part)}
        table.append({**row, **spread(part, VALUES), "baseline": baseline or "", **differences(part, theirs, VALUES)})
    columns = [
        "method",
        "part",
        "images",
        "n",
        *(f"{v}_{what}" for v in VALUES for what in ("mean", "std")),
        "baseline",
    ]
    columns += [f"{value}_{what}" for value in VALUES for what in ("difference", "low", "high")]
    return pd.DataFrame(table, columns=columns)


def missing(
    rows: pd.DataFrame,
    methods: Sequence[str],
    baseline: str | None,
    weights: Mapping[str, float | str],
    judge: str | None,
) -> list[str]:
    """What table and figure lack, and why.

    Args:
        weights: method -> weight of its reference term.
    """
    per_slot = rows.groupby("method")["candidate"].nunique().to_dict()
    notes = [f"{name}: one increment, so no student scored candidates" for name in methods if name not in per_slot]
    notes += [f"{name}: one candidate per slot, so there is no choice" for name in methods if per_slot.get(name) == 1]
    if 0 not in weights.values():
        notes.append("no method that is guided without reference term (ω = 0) is among them")
    if judge is None:
        notes.append("no judge: the reference that guidance rewards is the only one asked")
    return notes + seed_words(rows["seed"], baseline in per_slot and len(per_slot) > 1)


def validity_markdown(table: pd.DataFrame, baseline: str | None, judge: str | None, notes: Sequence[str]) -> str:
    """The table of losses and probabilities."""
    names = ["student loss", "reference p(y) (%)", f"reference p(y) < {LOW:g} (%)", f"p(y) by {judge} (%)"]
    shown = dict(zip(VALUES, names, strict=True))
    if judge is None:
        shown.pop("judge_probability")
    compared = [value for value in ("student_loss", "reference_probability") if baseline]
    header = ["method", "images", "number", "n", *shown.values(), *(f"{shown[v]} minus {baseline}" for v in compared)]
    body = [
        [
            row["method"],
            row["part"],
            str(row["images"]),
            str(row["n"]),
            *(mean_and_std(row[f"{value}_mean"], row[f"{value}_std"], _digits(value)) for value in shown),
            *(difference_text(row, value, _digits(value)) for value in compared),
        ]
        for row in table.to_dict("records")
    ]
    return (
        "Candidates of increments 2 and later before they are trained on: loss of the student so far, probability of "
        "the label by the reference. Chosen by loss alone: what S without its reference term would choose among the "
        "same candidates. Mean ± sample standard deviation over n seeds; differences of chosen images, paired over "
        "seeds, with their 95 % interval.\n\n" + markdown_table(header, body) + notes_markdown(notes)
    )


def _digits(value: str) -> int:
    return 2 if value == "student_loss" else 1


@styled
def validity_figure(
    rows: pd.DataFrame, methods: Sequence[str], weights: Mapping[str, float | str], notes: Sequence[str], about: About
) -> Figure:
    """A panel per method: all candidates, the chosen ones, and those that the loss alone would choose.

    Args:
        rows: the columns `COLUMNS`.
        methods: in the order of the panels; those without candidates are left out.
        weights: method -> weight of its reference term, for the titles.
        notes: what is missing and why.
        about: of the experiment.
    """
    shown = [name for name in methods if name in set(rows["method"])]
    figure, grid = panels_of(max(1, len(shown)), 3.9, 3.4, share_y=True)
    styles = method_styles(shown)
    for axes, method in zip(grid, shown, strict=False):
        part = rows[rows["method"] == method].assign(student_loss=lambda some: some["student_loss"].clip(LEAST_LOSS))
        look = styles[method]
        chosen, alone = part[part["chosen"]], part[part["chosen_by_loss"]]
        at = ("student_loss", "reference_probability")
        axes.plot(*(part[name] for name in at), ".", color="#bbbbbb", markersize=4, label="candidates", zorder=1)
        filled: dict[str, Any] = {"marker": look.marker, "markersize": 4, "color": look.color, "alpha": 0.6}
        axes.plot(*(chosen[name] for name in at), linestyle="", **filled, label=f"chosen, {method}", zorder=2)
        hollow: dict[str, Any] = {"marker": "o", "color": "#333333", "markersize": 6.5, "markerfacecolor": "none"}
        axes.plot(
            *(alone[name] for name in at),
            linestyle="",
            **hollow,
            label="chosen by loss alone",
            zorder=3,
        )
        for some, color in ((chosen, look.color), (alone, "#333333")):
            axes.axhline(some["reference_probability"].mean(), color=color, linestyle="--", linewidth=1, zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # figures read no mathematics
        axes.set_xlabel("loss of the student before the increment")
        weight = weights[method]
        axes.set_title(f"{method}, ω {'chosen by its pilot' if isinstance(weight, str) else f'= {weight:g}'}")
        axes.set_ylim(-0.03, 1.03)
    grid[0].set_ylabel("probability of the label by the reference")
    if shown:
        legend(figure, grid)
    seeds = rows.groupby("method")["seed"].nunique()
    n = (
        f"n = {len(rows)} candidates in all, {words_of_n(seeds, 'seed')} per method"
        if len(rows)
        else "n = 0 candidates"
    )
    facts = ["increments 2 and later", "dashed: mean of the chosen", f"losses below {LEAST_LOSS:g} are drawn there"]
    describe(figure, about, n=n, notes=[*facts, *notes])
    return figure
