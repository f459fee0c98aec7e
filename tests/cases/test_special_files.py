"""Pipes, sockets, devices, loops of links and files from the future: one line that names them, and nobody waits."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from broken_images import encoded, picture

from distillery.data import folders
from distillery.data.settings import Dataset, Folder, Holdout
from distillery.data.sources import content_digest
from distillery.errors import ExperimentError, SourceError
from distillery.job import Job
from distillery.plan.load import load
from distillery.settings import canonical
from distillery.stages import ingest
from distillery.storage.tables import read_table

Config = dict[str, Any]


def classes(root: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for row in range(3):
            (root / name / f"{row}.png").write_bytes(encoded(picture(16, seed=10 * number + row)))
    return root


def table(path: Path, rows: int = 6) -> Path:
    images = pa.array([{"bytes": encoded(picture(16, seed=row)), "path": f"{row}.png"} for row in range(rows)])
    pq.write_table(pa.table({"image": images, "label": ["cat", "dog"] * (rows // 2)}), path)
    return path


def faults(source: Config, **blocks: Config) -> list[str]:
    """What planning says of an experiment on these images, within half a minute."""
    config: Config = {
        "name": "x",
        "dataset": {"source": source, "resolution": 16, "holdout": {"fraction": 0.4}},
        "methods": {"random": {"kind": "random"}, **blocks.pop("methods", {})},
        "ipc": [1],
        "evaluation": {"protocol": "small", "networks": ["convnet2_w8"], "full_data": False},
        **blocks,
    }
    lines: list[list[str]] = []

    def ask() -> None:
        try:
            load(config)
        except ExperimentError as error:
            lines.append(str(error).splitlines())
        else:
            lines.append([])

    thread = threading.Thread(target=ask, daemon=True)  # opening a pipe would wait for its other end
    thread.start()
    thread.join(30)
    assert lines, "planning waits"
    return lines[0]


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


# ---- in a class folder -----------------------------------------------------------------------------------------------


def test_what_is_no_file_is_a_row_of_the_rejected_and_ends_nothing(tmp_path: Path) -> None:
    root = classes(tmp_path / "set")
    pipe(root / "cat" / "a pipe.png")
    loop(root / "cat" / "a loop.png")
    (root / "cat" / "one.png").symlink_to("other.png")
    (root / "cat" / "other.png").symlink_to("one.png")
    (root / "cat" / "to a pipe.png").symlink_to("a pipe.png")
    (root / "cat" / "null.png").symlink_to("/dev/null")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(root / "dog")  # the path of a socket is short
    try:
        server.bind("a socket.png")
    finally:
        os.chdir(here)
    settings = ingest.Settings(
        dataset=Dataset(
            source=Folder(kind="folder", train=str(root)), resolution=16, holdout=Holdout(), max_rejected=0.9
        )
    )
    files = {name: tmp_path / f"{name}.parquet" for name in ("train", "test", "rejected", "duplicates")}
    ingest.run(settings, **files, job=Job("ingest", canonical(settings), torch.device("cpu"), 1))
    server.close()
    rows = read_table(files["rejected"], "ingest").to_pylist()
    assert {Path(row["path"]).name: row["reason"].removeprefix("cannot be read: ") for row in rows} == {
        "a pipe.png": "a named pipe",
        "a loop.png": "Too many levels of symbolic links",
        "one.png": "Too many levels of symbolic links",
        "other.png": "Too many levels of symbolic links",
        "to a pipe.png": "a named pipe",
        "null.png": "a device",
        "a socket.png": "a socket",
    }
    assert faults({"kind": "folder", "train": str(root)}) == []
    assert content_digest(Folder(kind="folder", train=str(root)))


# ---- in place of an input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"), [(pipe, "a named pipe"), (loop, "cannot be opened: Too many levels of symbolic links")]
)
def test_an_input_that_is_no_file_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    path, images = str(make(tmp_path / "x")), {"kind": "folder", "train": str(classes(tmp_path / "set"))}
    [line] = faults({"kind": "parquet", "train": [path]})
    assert line.startswith(f"dataset.source.train[0]: {path}: {words}; ")
    [line] = faults({"kind": "folder", "train": path})
    assert line.startswith(f"dataset.source.train: {path}: {words}; ")
    [line] = faults(images, methods={"theirs": {"kind": "external", "images": path}})
    assert line.startswith(f"methods.theirs.images: {path}: {words}; ")
    training = {"network": "convnet2_w8", "training": "reference"}
    [line] = faults(images, surrogates={"s": {**training, "checkpoints": path}})
    assert line.startswith("surrogates.s.checkpoints: ") and path in line
    [line] = faults(images, references={"r": {**training, "weights": path}})
    assert line.startswith(f"references.r.weights: {path}: ")


def test_a_config_of_weights_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe(tmp_path / "config.json")
    images = {"kind": "folder", "train": str(classes(tmp_path / "set"))}
    lines = faults(images, autoencoder={"kind": "pretrained", "weights": str(tmp_path)})
    assert any("config.json: a named pipe; give a folder in the layout of diffusers" in line for line in lines)


def test_a_class_that_is_a_loop_is_one_line_at_planning(tmp_path: Path) -> None:
    root = classes(tmp_path / "set")
    loop(root / "owl")
    [line] = faults({"kind": "folder", "train": str(root)})
    assert line == f"dataset.source.train: {root}/owl: a link that leads nowhere, or to itself; mend it, or remove it"


def test_a_folder_that_cannot_be_listed_is_one_line_at_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = classes(tmp_path / "set")

    def refuse(folder: str) -> None:
        raise SourceError(f"{folder}: cannot be read: Permission denied; put its permissions right")

    monkeypatch.setattr(folders, "files_below", refuse)
    [line] = faults({"kind": "folder", "train": str(root)})
    assert line.endswith("cat: cannot be read: Permission denied; put its permissions right")
    assert "Permission denied" in content_digest(Folder(kind="folder", train=str(root)))


# ---- from the future -------------------------------------------------------------------------------------------------


def test_a_file_from_the_future_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet")
    assert faults({"kind": "parquet", "train": [str(path)]}) == []
    later = time.time() + 3600
    os.utime(path, (later, later))
    [line] = faults({"kind": "parquet", "train": [str(path)]})
    assert line.startswith(f"dataset.source: {path}: was changed in the future, at ")
    assert line.endswith(f"; put its time right with `touch {path}`")
    path.touch()
    assert faults({"kind": "parquet", "train": [str(path)]}) == []


def test_sets_and_weights_from_the_future_are_refused_and_pictures_in_folders_are_not(
    tmp_path: Path,
) -> None:
    source: Config = {"kind": "folder", "train": str(classes(tmp_path / "set"))}
    path, later = table(tmp_path / "theirs.parquet", rows=2), time.time() + 3600
    for file in [path, *(tmp_path / "set").rglob("*.png")]:
        os.utime(file, (later, later))
    assert faults(source) == []
    [line] = faults(source, methods={"theirs": {"kind": "external", "images": str(path)}})
    assert line.startswith(f"methods.theirs.images: {path}: was changed in the future")
    reference = {"network": "convnet2_w8", "training": "reference", "weights": str(path)}
    [line] = faults(source, references={"r": reference})
    assert line.startswith(f"references.r.weights: {path}: was changed in the future")
