"""Every table says which experiment, data set and commit it is of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from about import ABOUT
from clone import PROJECT

from distillery import provenance
from distillery.plan.load import load
from distillery.report.tables import write_formats

ORIGIN = {"experiment": "tiny", "dataset": "digits (4 classes of 16 px)"}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A table in its three formats."""
    table = pd.DataFrame([{"method": "a|b", "n": 3, "accuracy_mean": 97.25}])
    paths = [tmp_path / f"t.{end}" for end in ("csv", "parquet", "md")]
    write_formats(table, "| a |\n", *paths, {"stage": "test"}, ABOUT)
    return tmp_path


def test_a_csv_table_is_read_without_options_and_has_its_origin_in_columns(written: Path) -> None:
    table = pd.read_csv(written / "t.csv")
    assert list(table.columns) == ["method", "n", "accuracy_mean", "experiment", "dataset", "commit"]
    assert table.iloc[0, 1:].tolist() == [3, 97.25, *ORIGIN.values(), provenance.commit()]


def test_a_parquet_table_has_its_origin_in_its_metadata(written: Path) -> None:
    metadata = json.loads(pq.read_schema(written / "t.parquet").metadata[b"distillery"])
    assert metadata == {"stage": "test", **ORIGIN, "commit": provenance.commit()}
    assert pq.read_table(written / "t.parquet").column_names == ["method", "n", "accuracy_mean"]


def test_a_markdown_table_has_its_origin_in_a_line_below(written: Path) -> None:
    last = (written / "t.md").read_text("utf-8").splitlines()[-1]
    assert last == f"Experiment tiny, data set {ORIGIN['dataset']}, commit: {provenance.commit()}."


def test_no_setting_of_a_stage_holds_the_commit() -> None:
    """So another commit runs nothing again."""
    experiment = load(yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8")))
    assert set(experiment.about.model_dump()) == {"experiment", "dataset", "protocols", "split"}


def commit_of(source: Path) -> str:
    """What the package in a folder says of its commit."""
    program = "from distillery.provenance import commit; print(commit())"
    environment = {**os.environ, "PYTHONPATH": str(source), "GIT_DIR": "/nowhere"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The few files of the package that tell the commit, outside any checkout."""
    package = tmp_path / "clone/src/distillery"
    package.mkdir(parents=True)
    for name in ("__init__.py", "provenance.py", "processes.py"):
        shutil.copy(PROJECT / "src/distillery" / name, package)
    return package.parent


def git(folder: Path, *arguments: str) -> str:
    """The output of a command of git."""
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", *named, "-C", str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_checkout_and_says_whether_the_package_has_changes(source: Path) -> None:
    assert commit_of(source) == "not a checkout"
    git(source.parent, "init", "-q")
    assert commit_of(source) == "not a checkout"
    git(source.parent, "add", ".")
    git(source.parent, "commit", "-qm", "all")
    head = git(source.parent, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", head) and commit_of(source) == head
    (source.parent / "config.yaml").write_text("name: mine\n")
    assert commit_of(source) == head
    with (source / "distillery/processes.py").open("a") as file:
        file.write("# changed\n")
    assert commit_of(source) == f"{head} with changes"


def test_a_package_inside_the_checkout_of_another_project_has_no_commit(source: Path) -> None:
    git(source.parent, "init", "-q")
    (source.parent / ".gitignore").write_text("src\n")
    git(source.parent, "add", ".")
    git(source.parent, "commit", "-qm", "another project")
    assert commit_of(source) == "not a checkout"
