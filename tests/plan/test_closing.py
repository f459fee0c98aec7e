"""The closing words of a run read its tables aloud, as far as they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from clone import PROJECT

from distillery.plan.closing import closing_words, print_closing_words
from distillery.plan.experiment import Experiment
from distillery.plan.load import load
from distillery.storage.tables import write_table

LGD = {
    **{"method": "lgd", "ipc": 10, "network": "mean", "protocol": "small+epochs=300@1_25@full"},
    **{"baseline": "random", "difference": -0.8, "difference_low": -2.7, "difference_high": 0.9},
    **{"second_baseline": "dit", "second_difference": 2.9, "second_low": 0.4, "second_high": 5.2},
}
RANDOM = {**LGD, "method": "random", **dict.fromkeys(("difference", "difference_low", "difference_high"))}
READ = (
    "At IPC 10, in the mean over networks, lgd is 0.8 points below random (random real images) (paired, 95 % interval"
    " -2.7 to 0.9, which includes 0) and 2.9 points above dit (paired, 95 % interval 0.4 to 5.2)"
)


def experiment(**changes: Any) -> Experiment:
    """The default experiment."""
    return load({**yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8")), **changes})


def write(results: Path, name: str, rows: list[dict[str, Any]], **metadata: Any) -> None:
    """A table of a run."""
    table = pa.Table.from_pylist(rows)
    about = {"distillery_calibration": json.dumps(metadata)}
    write_table(results / f"tables/{name}.parquet", table.replace_schema_metadata(about), {})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The folder of a run with its two tables for readers."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/accuracy.md").write_text("| accuracy |\n\nExperiment digits, data set d, commit: c.\n", "utf-8")
    (tmp_path / "tables/redundancy.md").write_text("| redundancy |\n", "utf-8")
    return tmp_path


def test_they_show_accuracy_and_redundancy_and_where_the_rest_is(results: Path) -> None:
    words = closing_words(experiment(), results)
    assert words.index("| accuracy |") < words.index("| redundancy |") < words.index(f"{results}/tables/")
    assert "commit" not in words
    for absent in ("/figures/", "distilled sets", "index.html", "Calibration"):
        assert absent not in words
    for file in ("figures", "distilled", "report"):
        (results / file).mkdir()
    (results / "report/index.html").touch()
    words = closing_words(experiment(), results)
    for present in ("/figures/", "distilled sets", f"{results}/report/index.html", "python -m distillery compare"):
        assert present in words


def test_of_a_run_without_tables_they_name_what_was_made(tmp_path: Path) -> None:
    (tmp_path / "distilled").mkdir()
    first, second, *_ = closing_words(experiment(name="mine"), tmp_path).strip().splitlines()
    assert first == f"distilled sets: {tmp_path}/distilled/<method>/ipc<n>.parquet"
    assert second == f"publish a set:  python -m distillery export {tmp_path} <method> <n> <new folder>"


def test_a_sentence_reads_the_differences_and_the_redundancy(results: Path) -> None:
    write(results, "statistics", [LGD, RANDOM])
    assert f"{READ}." in closing_words(experiment(), results)
    write(results, "redundancy", [{"method": "lgd", "baseline": "dit", "reduction_percent": 45.63}])
    repeats = "; its increments repeat each other 45.6 % less than those of dit."
    assert READ + repeats in closing_words(experiment(), results)


def test_a_sentence_on_accuracies_of_validation_images_says_so(results: Path) -> None:
    write(results, "statistics", [LGD, RANDOM])
    blocks = experiment().model_dump(mode="json", exclude_none=True)
    changes = {"dataset": {**blocks["dataset"], "validation": {}}}
    words = closing_words(experiment(**changes, evaluation={**blocks["evaluation"], "split": "validation"}), results)
    assert "At IPC 10, in the mean over networks, on validation images, lgd is 0.8 points below random" in words


def test_of_many_methods_the_first_are_read_and_the_rest_counted(results: Path) -> None:
    write(results, "statistics", [{**LGD, "method": f"m{number}"} for number in range(5)])
    words = closing_words(experiment(), results)
    assert words.count("At IPC 10") == 3
    assert f"The other 2 methods: {results}/tables/statistics.md." in words


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (0.03, "λ = 0.5, ω = 3, the smallest strength of its grid; methods.lgd.calibration.relative_strengths may"),
        (0.06, "λ = 0.5, ω = 3, inside its grid."),
        (0.09, "λ = 0.5, ω = 3, the largest strength of its grid; a longer one (methods.lgd.calibration.relative"),
        (0.0, "no strength was valid, so the increments were sampled without guidance."),
    ],
)
def test_a_calibration_says_whether_its_choice_lies_at_the_edge(results: Path, chosen: float, words: str) -> None:
    rows = [
        {"relative_strength": value, "strength": 0.5 if value else 0.0, "reference_weight": 3.0}
        for value in (0.0, 0.03, 0.06, 0.09)
    ]
    rows = [{**row, "chosen": row["relative_strength"] == chosen} for row in rows]
    write(results, "calibration-lgd", rows, relative_strengths=[0.03, 0.06, 0.09])
    assert f"Calibration of lgd: {words}" in closing_words(experiment(), results)


def test_each_seed_has_a_calibration_of_its_own(results: Path) -> None:
    row = {"relative_strength": 0.5, "strength": 2.0, "reference_weight": 1.0, "chosen": True}
    for run in ("", "seed-7/"):
        write(results / run, "calibration-lgd", [row], relative_strengths=[0.5])
    words = closing_words(experiment(seeds=[3, 7]), results)
    assert "Calibration of lgd (seed 3): λ = 2, ω = 1." in words
    assert "Calibration of lgd (seed 7): λ = 2, ω = 1." in words


def test_a_table_that_is_damaged_meanwhile_is_named_and_ends_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tables").mkdir()
    for name in ("accuracy.md", "statistics.parquet"):
        (tmp_path / "tables" / name).touch()
    print_closing_words(experiment(), tmp_path)
    assert f"{tmp_path}/tables/statistics.parquet: cannot be read" in capsys.readouterr().out
