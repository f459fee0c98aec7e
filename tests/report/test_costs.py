"""Accuracy beside cost: the hours of a method are its own jobs and those it shares, as far as they left records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from about import ABOUT
from tiny import job

from distillery.report.costs import cost_figure, cost_table
from distillery.stages import plot_cost
from distillery.storage.tables import write_table

ACCURACY = pd.DataFrame(
    [
        {"method": method, "ipc": ipc, "network": network, "protocol": "p", "n": 4, "trained": 4}
        | {"accuracy_mean": mean + ipc, "accuracy_std": 1.0, "best_mean": 99.0, "best_std": 0.1}
        for method, mean in (("dit", 70.0), ("lgd", 80.0), ("random", 60.0))
        for ipc in (1, 10)
        for network in ("convnet", "mean")
    ]
)
SHARED = {"dit": ["train_generator-dit"], "lgd": ["train_generator-dit", "dit/"], "random": []}


def record(stage: str, hours: float, device: str = "cpu") -> dict[str, Any]:
    """What a job leaves of itself."""
    about: dict[str, Any] = {"stage": stage, "seconds": 3600 * hours, "device": device, "threads": 1}
    return about | {"peak_memory_mb": 1.0} | ({"gpu": "a card", "cards": 1} if device == "cuda" else {})


def records(device: str = "cpu") -> list[tuple[str, str, dict[str, Any]]]:
    """The jobs of three methods."""
    return [
        ("all methods", "train_generator-dit", record("train_generator", 3, device)),
        ("all methods", "train_generator-other", record("train_generator", 50, device)),
        ("dit", "sample-10-0", record("sample", 1, device)),
        ("dit", "evaluate-10-convnet-p", record("evaluate", 9, device)),
        ("lgd", "generate_increment-1-0", record("generate_increment", 2, device)),
        ("lgd", "select_increment-1", record("select_increment", 0.5)),
        ("random", "select-10", record("select", 0.25)),
    ]


def hours(device: str = "cpu", seeds: int = 1) -> dict[str, dict[str, Any]]:
    table = cost_table(ACCURACY, records(device), SHARED, 10, seeds)
    return {row["method"]: row for row in table.to_dict("records")}


def test_hours_are_those_of_making_a_set_and_not_of_evaluating_it() -> None:
    rows = hours()
    assert (rows["dit"]["core_hours_own"], rows["dit"]["core_hours_total"]) == (1, 4)
    assert (rows["random"]["core_hours_own"], rows["random"]["core_hours_total"]) == (0.25, 0.25)


def test_a_set_that_begins_with_that_of_another_method_bears_its_cost() -> None:
    assert (hours()["lgd"]["core_hours_own"], hours()["lgd"]["core_hours_total"]) == (2.5, 6.5)


def test_the_accuracy_is_the_mean_over_networks_at_the_largest_size() -> None:
    assert (hours()["dit"]["network"], hours()["dit"]["accuracy_mean"], hours()["dit"]["n"]) == ("mean", 80, 4)


def test_hours_are_those_of_one_seed() -> None:
    assert hours(seeds=2)["dit"]["core_hours_total"] == 2


def test_jobs_with_a_card_count_as_gpu_hours_alone() -> None:
    rows = hours("cuda")
    assert (rows["lgd"]["gpu_hours_total"], rows["lgd"]["core_hours_total"]) == (6, 0.5)
    figure = cost_figure(pd.DataFrame(rows.values()), 10, 1, ABOUT)
    assert figure.axes[0].get_xlabel().startswith("GPU-hours")
    figure.draw_without_rendering()
    assert not any("$" in text.get_text() for text in figure.axes[0].get_xticklabels())
    assert "no job with a card (random)" in figure.texts[-1].get_text().replace("\n", " ")


def test_a_method_without_records_is_named_and_the_rest_stands() -> None:
    table = cost_table(ACCURACY, records()[:4], SHARED, 10, 1)
    row = table[table["method"] == "lgd"].iloc[0]
    assert math.isnan(row["core_hours_total"])
    words = cost_figure(table, 10, 1, ABOUT).texts[-1].get_text().replace("\n", " ")
    assert "no recorded cost (lgd, random)" in words


def test_without_any_record_the_accuracies_remain() -> None:
    figure = cost_figure(cost_table(ACCURACY, [], SHARED, 10, 1), 10, 1, ABOUT)
    assert "no recorded cost (dit, lgd, random)" in figure.texts[-1].get_text().replace("\n", " ")
    assert figure.axes[0].get_xlabel().startswith("core-hours")


def test_the_stage_reads_the_records_beside_its_figure(tmp_path: Path) -> None:
    import pyarrow as pa

    (tmp_path / "cost" / "dit").mkdir(parents=True)
    (tmp_path / "cost" / "dit" / "sample-10-0.json").write_text(json.dumps(record("sample", 1)), "utf-8")
    write_table(tmp_path / "accuracy.parquet", pa.Table.from_pandas(ACCURACY), {})
    settings = plot_cost.Settings(ipc=10, seeds=1, shared=SHARED, about=ABOUT)
    files = {end: tmp_path / "cost" / f"accuracy.{end}" for end in ("png", "svg", "csv")}
    plot_cost.run(settings, accuracy=tmp_path / "accuracy.parquet", **files, job=job("plot_cost", settings))
    lines = files["csv"].read_text("utf-8").splitlines()
    assert lines[1].startswith("dit,p,10,mean,4,80.00,1.00,0.00,0.00,1.00,1.00")
    assert lines[2].startswith("lgd,p,10,mean,4,90.00,1.00,,,,,tiny,")
