"""The closing words of a run read its tables aloud, as far as they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from clone import PROJECT
from edits import changed, put

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


def searched(**calibration: Any) -> Experiment:
    """The smoke experiment, whose pilot chooses the strength of `lgd`."""
    return load(changed(lambda config: config["methods"]["lgd"]["calibration"].update(calibration)))


CHOSEN = {"strength": 0.5, "reference_weight": 3.0, "mode_strength": None, "mode_stop": None, "chosen": True}
LARGEST = "λ = 0.5, ω = 3, the largest strength that was measured; "


@pytest.mark.parametrize(
    ("chosen", "largest", "calibration", "words"),
    [
        ({}, False, {}, "λ = 0.5, ω = 3.\n"),
        ({}, True, {}, LARGEST + "a larger methods.lgd.calibration.most_settings may give a larger one.\n"),
        (
            {},
            True,
            {"extend": False},
            LARGEST + "methods.lgd.calibration.extend, or more methods.lgd.calibration.relative_strengths, may give",
        ),
        ({"mode_strength": 0.1, "mode_stop": 25.0}, False, {}, "λ = 0.5, ω = 3, mode strength 0.1, mode stop 25.\n"),
        ({"mode_stop": 0.0}, False, {}, "λ = 0.5, ω = 3, mode stop 0.\n"),
        (
            {"strength": 0.0},
            False,
            {},
            "no strength of learnability was better than none, so the increments were sampled without it.\n",
        ),
        (
            {"strength": 0.0, "mode_strength": 0.2},
            False,
            {},
            "no strength of learnability was better than none, so the increments were sampled without it, mode strength"
            " 0.2.\n",
        ),
    ],
)
def test_they_say_what_a_calibration_chose_and_whether_a_larger_strength_may_be_better(
    results: Path, chosen: dict[str, float], largest: bool, calibration: dict[str, Any], words: str
) -> None:
    rows = [{**CHOSEN, "strength": 0.25, "mode_strength": 9.0, "mode_stop": 9.0, "chosen": False}, {**CHOSEN, **chosen}]
    write(results, "calibration-lgd", rows, largest=largest)
    assert f"Calibration of lgd: {words}" in closing_words(searched(**calibration), results)


def test_each_seed_has_a_calibration_of_its_own(results: Path) -> None:
    for run in ("", "seed-7/"):
        write(results / run, "calibration-lgd", [CHOSEN], largest=False)
    words = closing_words(load(changed(put("seeds", [3, 7]))), results)
    assert "Calibration of lgd (seed 3): λ = 0.5, ω = 3." in words
    assert "Calibration of lgd (seed 7): λ = 0.5, ω = 3." in words


def test_a_table_that_is_damaged_meanwhile_is_named_and_ends_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tables").mkdir()
    for name in ("accuracy.md", "statistics.parquet"):
        (tmp_path / "tables" / name).touch()
    print_closing_words(experiment(), tmp_path)
    assert f"{tmp_path}/tables/statistics.parquet: cannot be read" in capsys.readouterr().out
