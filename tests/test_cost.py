"""What a run cost: the records of its jobs, and their sums by stage and method."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from distillery import progress
from distillery.cost import ALL, main, records, summed


def record(stage: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {"stage": stage, "device": "cpu", "threads": 1, "seconds": seconds, "peak_memory_mb": 100.0, **more}


GPU = {"device": "cuda", "gpu": "H200"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run called like the folder of its costs, of two seeds, with a method of that name too."""
    made = {
        "cost/ingest.json": record("ingest", 10.0, device="none"),
        "cost/train_generator-dit.json": record("train_generator", 7200.0, **GPU, peak_gpu_memory_mb=5000.0),
        "seed-1/cost/train_generator-dit.json": record("train_generator", 3600.0, **GPU, peak_gpu_memory_mb=6000.0),
        "cost/lgd/evaluate-10-net-small.json": record("evaluate", 100.0, threads=4, images=50_000),
        "seed-1/cost/lgd/evaluate-10-net-small.json": record("evaluate", 300.0, threads=4, images=50_000),
        "cost/cost/evaluate-10-net-small.json": record("evaluate", 50.0, peak_memory_mb=900.0),
    }
    for path, content in made.items():
        file = tmp_path / "cost" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), "utf-8")
    return tmp_path / "cost"


def test_costs_are_summed_by_stage_and_method(results: Path) -> None:
    costs = summed(records(results))
    assert list(costs) == [("train_generator", ALL), ("evaluate", "lgd"), ("evaluate", "cost"), ("ingest", ALL)]
    generator, evaluate = costs["train_generator", ALL], costs["evaluate", "lgd"]
    assert (generator.jobs, generator.gpu_hours, generator.core_hours) == (2, 3.0, 0.0)
    assert (generator.gpu_memory, generator.longest, generator.cards) == (6000.0, 7200.0, {"H200"})
    assert evaluate.core_hours == pytest.approx(400 / 3600 * 4)
    assert evaluate.images / evaluate.image_seconds == 250.0
    assert costs["evaluate", "cost"].memory == 900.0


def test_the_table_has_a_line_for_each_and_for_all(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(results)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["stage", "method", "jobs"]
    assert [line.split("  ")[0] for line in lines] == [
        *("train_generator", "evaluate", "evaluate", "ingest"),
        *("all stages", "all stages", "all stages", "all", "cards: H200"),
    ]
    assert "3.000" in lines[-2]


def test_hours_of_several_cards_count_each(tmp_path: Path) -> None:
    file = tmp_path / "cost/train_generator-dit.json"
    file.parent.mkdir()
    file.write_text(json.dumps(record("train_generator", 3600.0, **GPU, cards=4, peak_gpu_memory_mb=1.0)), "utf-8")
    assert summed(records(tmp_path))["train_generator", ALL].gpu_hours == 4.0


def test_a_folder_without_records_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no recorded costs" in capsys.readouterr().err


def test_seconds_hold_those_of_killed_attempts() -> None:
    mine, work = time.time() - psutil.Process().create_time(), progress.Work()
    assert work.seconds == pytest.approx(mine, abs=5)
    work.take_over(1000.0)
    work.take_over(400.0)  # of an earlier part of the same work
    assert work.seconds == pytest.approx(mine + 1000, abs=5)


def test_images_are_counted_where_they_are_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WORK", progress.Work())
    with progress.Progress("work", 10, "image") as bar:
        bar.advance(10)
    with progress.Progress("work", 10, "epoch") as bar:
        bar.advance(10)
    assert progress.WORK.images == 10
