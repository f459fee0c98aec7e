"""Several experiments beside the first of them: what differs in their settings, and what changed in their results.

A difference is ours minus that of the first experiment, in points. Where both have the same test images, it is paired
by test image, and by seed and student (`analysis.statistics.paired_difference`). Elsewhere its interval is Welch's.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from distillery.analysis.statistics import paired_difference
from distillery.report.pooled import SPLIT, WORDS, pooled_rows
from distillery.report.statistics import bits
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
from distillery.report.text import markdown_text

NOT_THERE = "not there"
LONGEST_VALUE = 80

UNPAIRED = (
    "Unpaired intervals: difference ± t √(s₁²/n₁ + s₂²/n₂), 95 %, with the sample standard deviations s over n"
    " replicates and Welch's degrees of freedom; the test images are not in them."
)
PAIRED = (
    "Paired intervals: 95 %, a bootstrap over seeds, students and test images (doi:10.1214/07-AOAS122), over networks"
    " of the same seed and student on the same test images."
)


@dataclass(frozen=True)
class Results:
    """The results of one experiment.

    Attributes:
        label: what it is called; no two are alike.
        settings: the resolved experiment.
        tables: by name, those that are there: `accuracy`, `redundancy`, `coverage`.
        evaluations: the columns `EVALUATION` of all evaluations; None where there are none.
        dataset: in words; None where no table says it.
        commit: of the tables; None where no table says it.
        test: a digest of the images that its networks are tested on; None where they are not there.
        missing: what it lacks, a sentence each.
    """

    label: str
    settings: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    evaluations: pd.DataFrame | None
    dataset: str | None
    commit: str | None
    test: str | None
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of a comparison: paragraphs, and a table with a header."""

    title: str
    paragraphs: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default=())


def compared(results: Sequence[Results]) -> list[Section]:
    """All sections of a comparison with the first of several experiments."""
    if pools(results):
        return [_experiments(results), _pooled(results)]
    notes = [note for each in results[1:] for note in _warnings(results[0], each)]
    return [
        _experiments(results, notes),
        _settings(results),
        _accuracies(results),
        _means(results, "redundancy", ["method"], {"off_diagonal": "redundancy"}, "Redundancy in percent"),
        _means(
            results,
            "coverage",
            ["method", "ipc"],
            {name: name for name in ("coverage", "recall", "precision")},
            "Shares of the real and the distilled images in percent",
        ),
    ]


def _experiments(results: Sequence[Results], notes: Sequence[str] = ()) -> Section:
    facts = [[each.label, each.dataset or NOT_THERE, each.commit or NOT_THERE] for each in results]
    lacking = [f"{each.label}: {sentence}" for each in results for sentence in each.missing]
    return Section("Experiments", [*lacking, *notes], ["experiment", "data set", "commit"], facts)


def pools(results: Sequence[Results]) -> bool:
    """Whether the experiments are one on several splits of its data, so that their results are one result."""
    paths = [path for path, _ in differing([dict(each.settings) for each in results])]
    evaluated = all(each.evaluations is not None for each in results)
    return evaluated and SPLIT in paths and set(paths) <= {SPLIT, "name"}


def _pooled(results: Sequence[Results]) -> Section:
    settings = results[0].settings
    methods: Mapping[str, Any] = settings.get("methods") or {}
    random = next((name for name, block in methods.items() if block.get("kind") == "random"), None)
    baseline = (settings.get("evaluation") or {}).get("baseline")
    baseline = baseline or ((settings.get("analysis") or {}).get("redundancy") or {}).get("baseline")
    yardsticks = {str(name): name for name in (random, baseline) if name} | {"all images": "full"}
    evaluations = [each.evaluations for each in results if each.evaluations is not None]
    redundancies = [each.tables["redundancy"] for each in results if "redundancy" in each.tables]
    header, rows = pooled_rows(evaluations, redundancies, yardsticks)
    words = f"The experiments differ in {SPLIT} alone and are one result over {len(results)} splits."
    return Section("Pooled over splits", [words, WORDS], header, rows)


def _warnings(first: Results, other: Results) -> Iterator[str]:
    """Why results do not compare."""
    if first.settings.get("dataset") != other.settings.get("dataset"):
        yield f"{first.label} and {other.label} have different data sets, so no difference of results is shown."
        return
    for name in ("redundancy", "coverage"):
        both = name in first.tables and name in other.tables
        if both and _measured_by(first, name) != _measured_by(other, name):
            yield f"{first.label} and {other.label} measured {name} with different settings, so no difference is shown."
    protocols = [_protocols(each) for each in (first, other)]
    if all(protocols) and not protocols[0] & protocols[1]:
        named = [", ".join(sorted(own)) for own in protocols]
        words = f"{first.label} has {named[0]}; {other.label} has {named[1]}"
        yield f"No protocol is common ({words}), so no accuracy compares."


def _measured_by(results: Results, name: str) -> list[Any]:
    """The settings that a table has to share with another one, so that their numbers compare."""
    settings = results.settings
    analysis, evaluation = settings.get("analysis") or {}, settings.get("evaluation") or {}
    if name == "redundancy":
        own = {**(analysis.get(name) or {}), "methods": None, "baseline": None}
        own["network"] = own.get("network") or (evaluation.get("networks") or [None])[0]
        protocols = evaluation.get("protocol")
        return [settings.get("dataset"), own, protocols[0] if isinstance(protocols, list) else protocols]
    if name == "coverage":
        own = analysis.get(name) or {}
        return [settings.get("dataset"), own, (settings.get("references") or {}).get(own.get("features"))]
    return [settings.get("dataset")]


def _protocols(results: Results) -> set[str]:
    table = results.tables.get("accuracy")
    return set() if table is None else set(table["protocol"])


# ---- settings --------------------------------------------------------------------------------------------------------


def _settings(results: Sequence[Results]) -> Section:
    rows = [
        [path, *map(_short, values)]
        for path, values in differing([dict(each.settings) for each in results])
        if path != "name"
    ]
    words = [] if rows else ["The resolved settings are equal, but for the name."]
    return Section("Settings that differ", words, ["setting", *(each.label for each in results)] if rows else [], rows)


def differing(values: Sequence[Any], path: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Path and values of what differs between several trees of settings; `NOT_THERE` stands for a missing branch."""
    if all(value == values[0] and type(value) is type(values[0]) for value in values):
        return
    if all(isinstance(value, Mapping) for value in values):
        for key in dict.fromkeys(key for value in values for key in value):
            branches = [value.get(key, NOT_THERE) for value in values]
            yield from differing(branches, f"{path}.{key}" if path else str(key))
    else:
        yield path, list(values)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


# ---- results ---------------------------------------------------------------------------------------------------------


def _accuracies(results: Sequence[Results]) -> Section:
    """Accuracy of each cell in each experiment, with its difference to the first."""
    first = results[0]
    tables = [each.tables.get("accuracy") for each in results]
    cells = _keys(tables, CELL)
    header = [*("method", "IPC", "network", "protocol"), first.label]
    for other in results[1:]:
        header += [other.label, "difference", "95 %", "how"]
    rows, kinds = [], set()
    for cell in cells:
        own = [_row(table, CELL, cell) for table in tables]
        line = [str(part) for part in cell] + [_mean_of(own[0], "accuracy")]
        for other, row in zip(results[1:], own[1:], strict=True):
            change = _accuracy_change(first, other, cell, own[0], row)
            kinds.add(change.how)
            line += [_mean_of(row, "accuracy"), *change.words]
        rows.append(line)
    words = ["Test accuracy in percent after the last epoch: mean ± sample standard deviation (n)."]
    words += [text for how, text in (("paired", PAIRED), ("unpaired", UNPAIRED)) if how in kinds]
    if not rows:
        return Section("Accuracy", ["No experiment has a table of accuracies."])
    return Section("Accuracy", words, header, rows)


@dataclass(frozen=True)
class _Change:
    """A difference with its interval; NaN where there is none."""

    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    how: str = ABSENT

    @property
    def words(self) -> list[str]:
        sign = ABSENT if math.isnan(self.difference) else f"{self.difference:+z.1f}"
        return [sign, interval(self.low, self.high), self.how]


def _accuracy_change(
    first: Results, other: Results, cell: tuple[Any, ...], ours: dict[str, Any] | None, theirs: dict[str, Any] | None
) -> _Change:
    if ours is None or theirs is None or _measured_by(first, "accuracy") != _measured_by(other, "accuracy"):
        return _Change()
    if first.test is not None and first.test == other.test:
        pairs = _pairs(first.evaluations, other.evaluations, cell)
        if pairs is not None and len(pairs):
            images = int(pairs["test_images"].iloc[0])
            correct = [
                np.stack([bits(packed, images) for packed in pairs[name]]) for name in ("correct_other", "correct")
            ]
            paired = paired_difference(correct[0], correct[1], sets=pairs["seed"].tolist())
            return _Change(paired.difference, paired.low, paired.high, "paired")
    return welch(*(row[name] for row in (theirs, ours) for name in ("accuracy_mean", "accuracy_std", "n")))


def _pairs(first: pd.DataFrame | None, other: pd.DataFrame | None, cell: tuple[Any, ...]) -> pd.DataFrame | None:
    """The networks of a cell that both have, by seed and student; of `mean`, replicates with all networks of both."""
    if first is None or other is None:
        return None
    method, ipc, network, protocol = cell
    parts = []
    for evaluations in (first, other):
        rows = last_epochs(evaluations)
        chosen = (rows["method"] == method) & (rows["ipc"] == ipc) & (rows["protocol"] == protocol)
        part = rows[chosen if network == MEAN else chosen & (rows["network"] == network)]
        whole = part.groupby(REPLICATE)["accuracy"].transform(lambda values: values.notna().all())
        parts.append(part[whole.astype(bool)] if len(part) else part)
    if {*parts[0]["network"]} != {*parts[1]["network"]}:
        return None
    keys = ["network", *REPLICATE]
    return parts[0].merge(parts[1], on=[*keys, "test_images"], suffixes=("", "_other")).sort_values(keys)


def welch(mean: float, std: float, n: int, other_mean: float, other_std: float, other_n: int) -> _Change:
    """The first mean minus the second, with Welch's interval of 95 %; without one where a spread is not known."""
    if any(value is None or math.isnan(value) for value in (mean, other_mean)):
        return _Change()
    difference = mean - other_mean
    if any(value is None or math.isnan(value) for value in (std, other_std)):
        return _Change(difference, how="no interval: one replicate")
    variances = (std**2 / n, other_std**2 / other_n)
    error = math.sqrt(sum(variances))
    if error == 0:
        return _Change(difference, how="no interval: no spread")
    from scipy.stats import t

    freedom = sum(variances) ** 2 / (variances[0] ** 2 / (n - 1) + variances[1] ** 2 / (other_n - 1))
    half = float(t.ppf(0.975, freedom)) * error
    return _Change(difference, difference - half, difference + half, "unpaired")


def _means(results: Sequence[Results], name: str, keys: list[str], columns: Mapping[str, str], title: str) -> Section:
    """Means of another table in each experiment, with Welch's interval of the differences to the first."""
    tables = [each.tables.get(name) for each in results]
    heading = name.capitalize()
    if sum(table is not None for table in tables) == 0:
        return Section(heading, [f"No experiment has a table of {name}."])
    header = [*keys, "measure", results[0].label]
    for other in results[1:]:
        header += [other.label, "difference", "95 %", "how"]
    rows = []
    for cell in _keys(tables, keys):
        own = [_row(table, keys, cell) for table in tables]
        for column, measure in columns.items():
            line = [*map(str, cell), measure, _mean_of(own[0], column)]
            for other, row in zip(results[1:], own[1:], strict=True):
                same = _measured_by(results[0], name) == _measured_by(other, name)
                change = _Change()
                if row is not None and own[0] is not None and same:
                    spread = (f"{column}_mean", f"{column}_std", "n")
                    change = welch(*(values[part] for values in (row, own[0]) for part in spread))
                line += [_mean_of(row, column), *change.words]
            rows.append(line)
    return Section(heading, [f"{title}: mean ± sample standard deviation (n).", UNPAIRED], header, rows)


def _keys(tables: Sequence[pd.DataFrame | None], keys: list[str]) -> list[tuple[Any, ...]]:
    """The cells of all tables, in the order of the first that has one."""
    found: dict[tuple[Any, ...], None] = {}
    for table in tables:
        if table is not None:
            found |= dict.fromkeys(table[keys].itertuples(index=False, name=None))
    return list(found)


def _row(table: pd.DataFrame | None, keys: list[str], cell: tuple[Any, ...]) -> dict[str, Any] | None:
    if table is None:
        return None
    chosen = np.logical_and.reduce([table[key] == value for key, value in zip(keys, cell, strict=True)])
    rows: list[Any] = table[chosen].to_dict("records")
    return rows[0] if rows else None


def _mean_of(row: dict[str, Any] | None, name: str) -> str:
    if row is None or row.get(f"{name}_mean") is None or math.isnan(row[f"{name}_mean"]):
        return ABSENT
    std = row[f"{name}_std"]
    return f"{mean_and_std(row[f'{name}_mean'], math.nan if std is None else std)} ({number(row['n'], 0)})"


# ---- words -----------------------------------------------------------------------------------------------------------


def as_markdown(sections: Sequence[Section]) -> str:
    """A comparison as Markdown."""
    parts = ["# Comparison of experiments\n"]
    for section in sections:
        parts.append(f"## {section.title}\n")
        parts += [f"{markdown_text(words)}\n" for words in section.paragraphs]
        if section.rows:
            parts.append(markdown_table(section.header, section.rows))
    return "\n".join(parts)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of experiments</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #8886; padding: .25rem .6rem; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
</style>
</head>
<body>
<h1>Comparison of experiments</h1>
{}
</body>
</html>
"""


def as_html(sections: Sequence[Section]) -> str:
    """A comparison as one page of HTML without scripts; all text from data is escaped."""
    parts = []
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(words)}</p>" for words in section.paragraphs]
        if section.rows:
            head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in section.header)
            body = "\n".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows
            )
            table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
            parts.append(f'<div class="wide" tabindex="0" role="region" aria-label="{section.title}">{table}</div>')
    return _PAGE.format("\n".join(parts))
