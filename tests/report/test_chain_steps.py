"""Accuracy, time and memory over the steps of LD3M's chain, beside the published ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from about import ABOUT
from tiny import job

from distillery.report.chain_steps import BEST, COLUMNS, PUBLISHED, steps_figure, steps_table
from distillery.report.tables import MEAN
from distillery.stages import plot_steps
from distillery.storage.tables import write_table

STEPS = {"short": 10, "long": 40}


def accuracies() -> pd.DataFrame:
    """Two networks and their mean, of two methods over steps and one that is none."""
    rows = [
        {"method": method, "protocol": "ld3m", "ipc": 1, "network": network, "n": 3, "accuracy_mean": mean}
        for method, mean in (("short", 40.0), ("long", 44.0), ("random", 20.0))
        for network in ("a", "b", MEAN)
    ]
    return pd.DataFrame(rows).assign(accuracy_std=1.5)


def record(stage: str, hours: float, device: str = "cuda", memory: float = 0.0) -> dict[str, Any]:
    card = {"gpu": "card", "peak_gpu_memory_mb": memory} if device == "cuda" else {"threads": 2}
    return {"stage": stage, "seconds": 3600 * hours, "device": device, "peak_memory_mb": 1.0, **card}


def test_hours_and_memory_are_those_of_the_jobs_that_optimise() -> None:
    records = [
        ("short", "match-1-0", record("match", 2.0, memory=8000)),
        ("short", "match-10-0", record("match", 3.0, memory=9000)),
        ("short", "evaluate-1", record("evaluate", 50.0, memory=70_000)),
        ("long", "match-1-0", record("match", 12.0, memory=9500)),
    ]
    table = steps_table(accuracies(), records, STEPS, ipc=1, seeds=1)
    assert list(table.columns) == list(COLUMNS) and table["method"].tolist() == ["short", "long"]
    assert table["steps"].tolist() == [10, 40] and set(table["network"]) == {MEAN}
    assert table["gpu_hours"].tolist() == [5.0, 12.0] and table["gpu_gigabytes"].tolist() == [9.0, 9.5]
    assert table["accuracy_mean"].tolist() == [40.0, 44.0]
    assert steps_table(accuracies(), records, STEPS, ipc=1, seeds=2)["gpu_hours"].tolist() == [2.5, 6.0]


def test_the_figure_has_the_published_peak_and_the_published_time_and_memory() -> None:
    records = [(name, "match-1-0", record("match", 2.0, memory=8000)) for name in STEPS]
    figure = steps_figure(steps_table(accuracies(), records, STEPS, ipc=1, seeds=1), ABOUT)
    of_accuracy, of_time, of_memory = figure.axes
    assert [BEST, BEST] in [list(line.get_xdata()) for line in of_accuracy.lines]
    (_, steps, hours, gigabytes), (_, nothing, of_glad, held) = PUBLISHED
    assert (steps, nothing, hours, gigabytes, of_glad, held) == (20, None, 574 / 60, 29.4, 693 / 60, 31.2)
    for axes, values in ((of_time, {hours, of_glad}), (of_memory, {29.4, 31.2})):
        assert values <= {float(value) for line in axes.lines for value in line.get_ydata()}


def test_without_a_card_there_are_hours_of_cores_and_no_published_ones() -> None:
    records = [(name, "match-1-0", record("match", 1.5, device="cpu")) for name in STEPS]
    table = steps_table(accuracies(), records, STEPS, ipc=1, seeds=1)
    assert table["core_hours"].tolist() == [pytest.approx(3.0)] * 2 and table["gpu_hours"].isna().all()
    assert all(math.isnan(value) for value in table["gpu_gigabytes"])
    _, of_time, _ = steps_figure(table, ABOUT).axes
    assert of_time.get_ylabel().startswith("core-hours") and len(of_time.lines) == 1


def test_the_stage_draws_from_the_records_beside_it(tmp_path: Path) -> None:
    table = accuracies().assign(trained=3, best_mean=0.0, best_std=0.0)
    write_table(tmp_path / "accuracy.parquet", pa.Table.from_pandas(table, preserve_index=False), {})
    for name in STEPS:
        (tmp_path / "cost" / name).mkdir(parents=True)
        (tmp_path / "cost" / name / "match-1-0.json").write_text(json.dumps(record("match", 2.0, memory=8000)), "utf-8")
    settings = plot_steps.Settings(ipc=1, seeds=1, steps=STEPS, about=ABOUT)
    files = {end: tmp_path / "cost" / f"steps.{end}" for end in ("png", "svg", "csv")}
    plot_steps.run(settings, accuracy=tmp_path / "accuracy.parquet", **files, job=job("plot_steps", settings))
    assert files["svg"].read_text("utf-8").rstrip().endswith("</svg>") and files["png"].stat().st_size
    rows = [line for line in files["csv"].read_text("utf-8").splitlines() if line.startswith(("short", "long"))]
    assert len(rows) == 2
