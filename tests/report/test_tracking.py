"""Histories reach the tools that track experiments: real packages, which write to this disk."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from about import ABOUT
from clone import clean_environment
from edits import changed, faults, put

from distillery.plan import targets
from distillery.plan.load import load
from distillery.report.tracking import Trackio, curves
from distillery.settings import canonical
from distillery.stages.send_histories import Settings
from distillery.storage.tables import write_table

LOSSES = {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "learning_rate": [0.1, 0.1, 0.1]}


def settings(tracking: dict[str, Any]) -> Settings:
    blocks = {
        "seed": 0,
        "about": ABOUT.model_dump(),
        "panels": ["generator dit", "convnet3, IPC 10"],
        "names": ["", "lgd"],
    }
    return Settings.model_validate({**blocks, "tracking": {"project": "trial", **tracking}})


class Place:
    """A folder with two histories, from which the stage is run as Snakemake runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.receipt = folder, folder / "tracking/receipt.json"
        self.write("generator", LOSSES)
        self.write("lgd", {"epoch": [1, 1, 2, 2], "network": [0, 1, 0, 1], "loss": [4.0, 2.0, 1.0, float("nan")]})

    def write(self, name: str, columns: dict[str, list[Any]]) -> None:
        write_table(self.folder / f"{name}.parquet", pa.table(columns), {})

    def send(self, tracking: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
        files = [str(self.folder / f"{name}.parquet") for name in ("generator", "lgd")]
        command = ["-m", "distillery", "send_histories", "--settings", canonical(settings(tracking))]
        command += ["--histories", *files, "--receipt", str(self.receipt), "--cost", str(self.folder / "cost.json")]
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env={**clean_environment(), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environment},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_curve_is_the_mean_over_networks_of_what_is_finite() -> None:
    table = pa.table({"epoch": [1, 1, 2], "network": [0, 1, 0], "loss": [4.0, 2.0, float("inf")], "b": [1.0, 1.0, 2.0]})
    assert list(curves(table)) == [(1, {"loss": 3.0, "b": 1.0}), (2, {"b": 2.0})]
    assert list(curves(pa.table({"loss": pa.array([], pa.float64())}))) == []


def test_tensorboard_has_event_files_that_are_replaced(place: Place) -> None:
    from tensorboardX.proto.event_pb2 import Event

    def scalars(folder: Path) -> list[tuple[str, int, float]]:
        (file,) = folder.glob("events.*")
        data, values, start = file.read_bytes(), [], 0
        while start < len(data):  # length, its checksum, the event, its checksum
            size = int.from_bytes(data[start : start + 8], "little")
            event = Event.FromString(data[start + 12 : start + 12 + size])
            values += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            start += 16 + size
        return [value for value in values if "facts" not in value[0]]

    done = place.send({"kind": "tensorboard", "folder": "events"})
    assert done.returncode == 0, done.stderr
    run = place.folder / "events/trial"
    folder = next(path for path in run.rglob("generator-dit") if path.is_dir())
    assert [row for row in scalars(folder) if row[0] == "loss"] == [
        ("loss", 1, 3.0),
        ("loss", 2, 2.0),
        ("loss", 3, 1.0),
    ]
    other = next(run.rglob("lgd"))
    assert [row[1:] for row in scalars(other) if row[0] == "loss"] == [(1, 3.0), (2, 1.0)]
    receipt = json.loads(place.receipt.read_text("utf-8"))
    assert (receipt["kind"], receipt["project"]) == ("tensorboard", "trial")
    assert [row["steps"] for row in receipt["trainings"]] == [3, 2]
    before, same = place.receipt.read_bytes(), next(other.glob("events.*"))
    place.write("generator", {**LOSSES, "loss": [9.0, 8.0, 7.0]})
    assert place.send({"kind": "tensorboard", "folder": "events"}).returncode == 0
    assert [row[2] for row in scalars(folder) if row[0] == "loss"] == [9.0, 8.0, 7.0]
    assert same.exists() and place.receipt.read_bytes() == before  # what has not changed is not sent again


def test_trackio_has_every_step_in_its_data_base(place: Place) -> None:
    pytest.importorskip("trackio")
    done = place.send({"kind": "trackio"}, TRACKIO_DIR=str(place.folder / "trackio"), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(place.folder / "trackio/trial.db") as base:
        rows = base.execute("select run_name, step, metrics from metrics order by run_name, step").fetchall()
    assert len(rows) == 5 and len({run for run, _, _ in rows}) == 2
    assert [(step, json.loads(values)["loss"]) for run, step, values in rows if "dit" in run] == [
        (1, 3),
        (2, 2),
        (3, 1),
    ]


def test_wandb_writes_a_run_of_each_training_offline(place: Place) -> None:
    quiet = {"WANDB_MODE": "offline", "WANDB_DIR": str(place.folder), "WANDB_SILENT": "true"}
    done = place.send({"kind": "wandb"}, HOME=str(place.folder), **quiet)
    assert done.returncode == 0, done.stderr
    runs = list(place.folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    written = b"".join(run.read_bytes() for run in runs)
    assert b"generator dit" in written and b"learning_rate" in written


def test_mlflow_has_every_value_in_its_store(place: Place) -> None:
    store = place.folder / "mlruns"
    done = place.send({"kind": "mlflow"}, MLFLOW_TRACKING_URI=store.as_uri(), MLFLOW_ALLOW_FILE_STORE="true")
    assert done.returncode == 0, done.stderr
    losses = sorted(path.read_text("utf-8").splitlines() for path in store.glob("*/*/metrics/loss"))
    assert [[line.split()[1:3] for line in lines] for lines in losses if len(lines) == 3] == [
        [["3.0", "1"], ["2.0", "2"], ["1.0", "3"]]
    ]
    assert len(losses) == 2


def test_a_tool_that_is_not_reached_is_said_in_one_line_and_leaves_no_receipt(place: Place) -> None:
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = place.send({"kind": "mlflow"}, **away)
    assert done.returncode == 1 and "Traceback" not in done.stderr and not place.receipt.exists()
    assert "tracking: mlflow did not take demo" in done.stderr.replace(ABOUT.experiment, "demo")
    assert "run the same command again" in done.stderr


# ---- planning --------------------------------------------------------------------------------------------------------


def test_an_experiment_asks_for_a_receipt_of_each_seed() -> None:
    assert targets.receipts(load(changed(put("seeds", [0, 1])))) == []
    config = changed(put("tracking", {"kind": "tensorboard"})) | {"seeds": [0, 1]}
    assert len(targets.receipts(load(config))) == 2


def test_a_package_that_is_missing_is_said_at_planning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trackio, "package", "no_such_package")
    assert faults(put("tracking", {"kind": "trackio"})) == [
        "tracking.kind: no_such_package is not installed; `pip install 'distillery[trackio]'` brings it"
    ]


@pytest.mark.parametrize("key", ["api_key", "token", "password"])
def test_an_experiment_file_holds_no_secret(key: str) -> None:
    lines = faults(put("tracking", {"kind": "wandb", key: "x"}))
    assert len(lines) == 1 and lines[0].startswith(f"tracking.{key}: no such key")
