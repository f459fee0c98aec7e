"""The last words of a run: its main tables, one sentence that reads them, and where the rest is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillery.errors import DamagedArtifact
from distillery.methods.lgd import LGD
from distillery.plan import layout
from distillery.plan.experiment import Experiment
from distillery.plan.targets import calibrated
from distillery.processes import accept_all_characters

MOST_READ = 3
"""So many methods are read in words; the tables hold all."""

_ASCII = str.maketrans(
    {
        **{"±": "+-", "λ": "lambda", "ω": "omega"},
        **dict.fromkeys("\N{EN DASH}\N{MINUS SIGN}", "-"),
        "\N{GREEK SMALL LETTER GAMMA}": "gamma",
    }
)


def print_closing_words(experiment: Experiment, results: Path) -> None:
    """Print `closing_words`, in ASCII where the terminal cannot show all of its characters."""
    accept_all_characters()
    try:
        words = closing_words(experiment, results)
    except DamagedArtifact as error:  # the run itself has ended well
        words = str(error)
    try:
        words.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        words = words.translate(_ASCII)
    print(words)


def closing_words(experiment: Experiment, results: Path) -> str:
    """The main tables of a finished run, what they say, and where the rest is, as far as it was made."""
    parts = [_text(results, name) for name in ("accuracy", "redundancy")]
    parts += [" ".join(_readings(experiment, results)), "\n".join(_calibrations(experiment, results))]
    parts += ["\n".join(_places(experiment, results))]
    return "\n" + "\n\n".join(part for part in parts if part)


def _file(results: Path, pattern: str) -> Path:
    return results / pattern.removeprefix(layout.RESULTS)


def _text(results: Path, name: str) -> str:
    """A table for readers, without the line of its origin."""
    file = _file(results, layout.table(name)["markdown"])
    if not file.exists():
        return ""
    lines = file.read_text("utf-8").rstrip().splitlines()
    return "\n".join(lines[:-1] if lines and lines[-1].startswith("Experiment ") else lines).rstrip()


def _rows(path: Path, made_by: str) -> tuple[list[dict[str, Any]], dict[bytes, bytes]]:
    """The rows and metadata of a table; none where it was not made."""
    from distillery.storage.tables import read_table

    if not path.exists():
        return [], {}
    table = read_table(path, made_by)
    return table.to_pylist(), table.schema.metadata or {}


def _readings(experiment: Experiment, results: Path) -> Iterator[str]:
    """What the tables say of each method that is no yardstick, at the largest size."""
    statistics, _ = _rows(_file(results, layout.table("statistics")["parquet"]), "tabulate_statistics")
    redundancies, _ = _rows(_file(results, layout.table("redundancy")["parquet"]), "tabulate_redundancy")
    repeated = {row["method"]: row for row in redundancies}
    compared = [row for row in statistics if row["difference"] is not None or row["second_difference"] is not None]
    of_mean = [row for row in compared if row["network"] == "mean"] or compared
    if not of_mean:
        return
    ipc, protocol = max(row["ipc"] for row in of_mean), experiment.evaluation.protocols[0].label
    network = of_mean[0]["network"]
    yardsticks = {name for row in statistics for name in (row["baseline"], row["second_baseline"])}
    read = [row for row in of_mean if (row["ipc"], row["protocol"], row["network"]) == (ipc, protocol, network)]
    read = [row for row in read if row["method"] not in yardsticks] or read
    for row in read[:MOST_READ]:
        differences = [
            _difference(experiment, row["baseline"], *(row[f"difference{end}"] for end in ("", "_low", "_high"))),
            _difference(experiment, row["second_baseline"], *(row[f"second_{end}"] for end in _SECOND)),
        ]
        repeats, known = "", repeated.get(row["method"])
        if known is not None and (percent := known["reduction_percent"]) is not None:
            repeats = f"; its increments repeat each other {abs(percent):.1f} % {'less' if percent >= 0 else 'more'}"
            repeats += f" than those of {known['baseline']}"
        over = "in the mean over networks" if network == "mean" else f"on {network}"
        over += ", on validation images" if experiment.evaluation.split == "validation" else ""
        yield f"At IPC {ipc}, {over}, {row['method']} is {' and '.join(filter(None, differences))}{repeats}."
    if len(read) > MOST_READ:
        yield f"The other {len(read) - MOST_READ} methods: {_file(results, layout.table('statistics')['markdown'])}."


_SECOND = ("difference", "low", "high")


def _difference(
    experiment: Experiment, baseline: str | None, points: float | None, low: float | None, high: float | None
) -> str:
    """A paired difference in words; empty where there is none."""
    if baseline is None or points is None or low is None or high is None:
        return ""
    name = f"{baseline} (random real images)" if baseline == experiment.first_of("random") else baseline
    side = f"{abs(points):.1f} points {'above' if points >= 0 else 'below'}"
    sure = "" if low > 0 or high < 0 else ", which includes 0"
    return f"{side} {name} (paired, 95 % interval {low:.1f} to {high:.1f}{sure})"


def _calibrations(experiment: Experiment, results: Path) -> Iterator[str]:
    """What each calibration chose, and whether it is the largest strength that was measured."""
    for run in experiment.runs:
        for method in calibrated(experiment):
            pattern = layout.fill(layout.CALIBRATION_CURVE, run=run, method=method)
            rows, metadata = _rows(_file(results, pattern), "calibrate_guidance")
            facts = json.loads(metadata.get(b"distillery_calibration", b"{}"))
            where = f" (seed {experiment.seed(run)})" if len(experiment.runs) > 1 else ""
            for row in (row for row in rows if row["chosen"]):
                key = f"methods.{method}.calibration"
                way_out = f"a larger {key}.most_settings may give a larger one"
                if not experiment.method_of(method, LGD).calibration.extend:
                    way_out = f"{key}.extend, or more {key}.relative_strengths, may give a larger one"
                yield f"Calibration of {method}{where}: {_choice(row, way_out if facts.get('largest') else '')}"


def _choice(row: dict[str, Any], way_out: str) -> str:
    """The chosen setting in words; `way_out` where it is the largest strength that was measured."""
    named = {"λ =": "strength", "ω =": "reference_weight", "mode strength": "mode_strength", "mode stop": "mode_stop"}
    words = [f"{name} {row[column]:.3g}" for name, column in named.items() if row[column] is not None]
    if not row["strength"]:
        modes = "".join(f", {word}" for word in words[2:])
        return f"no strength of learnability was better than none, so the increments were sampled without it{modes}."
    if way_out:
        return f"{', '.join(words)}, the largest strength that was measured; {way_out}."
    return f"{', '.join(words)}."


def _places(experiment: Experiment, results: Path) -> Iterator[str]:
    """Where the rest of a run is, and the commands for more."""
    places = {
        "report/index.html": ("report:", f"{results}/report/index.html"),
        "tables": ("tables:", f"{results}/tables/"),
        "figures": ("figures:", f"{results}/figures/"),
        "distilled": ("distilled sets:", f"{results}/distilled/<method>/ipc<n>.parquet"),
    }
    for file, (what, where) in places.items():
        if (results / file).exists():
            yield f"{what:15} {where}"
    if (results / "distilled").exists():
        yield f"{'publish a set:':15} python -m distillery export {results} <method> <n> <new folder>"
    if (results / "tables").exists():
        yield f"{'compare runs:':15} python -m distillery compare {results} results/<another experiment>"
    analyses = Path(f"experiments/{experiment.name}-analyses.yaml")
    if analyses.exists():
        yield f"{'analyses:':15} snakemake --cores all --configfile {analyses}"
