"""An input that has changed is read again, however it was changed; one that was only touched or moved is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from broken_images import encoded, picture
from clone import PROJECT
from wildcards import Job

from distillery.data import content, verify
from distillery.data.external import external_content
from distillery.data.settings import Dataset, Digits, Folder, Holdout, Parquet
from distillery.data.sources import content_digest
from distillery.job import Job as Run
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.settings import canonical
from distillery.stages import ingest


def pictures(root: Path, seed: int = 0) -> Path:
    """Two classes of three pictures of equal size in bytes, of another content for each seed."""
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for row in range(3):
            (root / name / f"{row}.bmp").write_bytes(encoded(picture(16, seed=100 * seed + 10 * number + row), "BMP"))
    return root


def keep_times(path: Path, change: Callable[[], object]) -> None:
    """Change a file, and put its times back."""
    before = path.stat()
    change()
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def folder(root: Path) -> str:
    return content_digest(Folder(kind="folder", train=str(root)))


@pytest.fixture(params=["whole", "sizes and times"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a folder is compared: the small one of the tests, or as one that is too large to be read."""
    if request.param != "whole":
        monkeypatch.setattr(content, "WHOLE_FILES", 1)
    return str(request.param)


def test_pictures_made_again_under_their_names_are_another_input(tmp_path: Path, way: str) -> None:
    before = folder(pictures(tmp_path / "set"))
    assert folder(tmp_path / "set") == before
    pictures(tmp_path / "set", seed=1)
    assert folder(tmp_path / "set") != before


def test_a_file_more_or_less_or_of_another_name_is_another_input(tmp_path: Path, way: str) -> None:
    root = pictures(tmp_path / "set")
    digests = {folder(root)}
    (root / "cat" / "new.bmp").write_bytes(b"")
    digests.add(folder(root))
    (root / "cat" / "new.bmp").rename(root / "dog" / "new.bmp")
    digests.add(folder(root))
    (root / "dog" / "new.bmp").unlink()
    (root / "dog" / "0.bmp").unlink()
    digests.add(folder(root))
    assert len(digests) == 4


def test_one_picture_of_equal_size_and_kept_times_is_another_input(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set")
    before, theirs = folder(root), external_content(str(root), 3, 0)
    path = root / "dog" / "1.bmp"
    keep_times(path, lambda: path.write_bytes(encoded(picture(16, seed=99), "BMP")))
    assert folder(root) != before and external_content(str(root), 3, 0) != theirs


def test_a_link_that_leads_to_another_version_is_another_input(tmp_path: Path, way: str) -> None:
    pictures(tmp_path / "v1")
    shutil.copytree(tmp_path / "v1", tmp_path / "v2")  # with its times
    path = tmp_path / "v2" / "cat" / "0.bmp"
    keep_times(path, lambda: path.write_bytes(encoded(picture(16, seed=99), "BMP")))
    (tmp_path / "data").symlink_to("v1")
    before = folder(tmp_path / "data")
    (tmp_path / "data").unlink()
    (tmp_path / "data").symlink_to("v2")
    assert folder(tmp_path / "data") != before


def test_a_picture_that_is_a_link_is_what_it_leads_to(tmp_path: Path, way: str) -> None:
    root, versions = pictures(tmp_path / "set"), pictures(tmp_path / "v")
    (root / "cat" / "0.bmp").unlink()
    (root / "cat" / "0.bmp").symlink_to(versions / "cat" / "1.bmp")
    before = folder(root)
    (root / "cat" / "0.bmp").unlink()
    (root / "cat" / "0.bmp").symlink_to(versions / "cat" / "2.bmp")
    assert folder(root) != before


def test_a_touch_and_a_copy_of_a_small_folder_are_the_same_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pictures(Path("set"))
    before = folder(Path("set"))
    for path in Path("set").rglob("*.bmp"):
        path.touch()
    assert folder(Path("set")) == before
    shutil.copytree("set", tmp_path / "there" / "set", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path / "there")
    assert folder(Path("set")) == before


def test_more_files_than_can_be_asked_are_asked_by_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "set")
    monkeypatch.setattr(content, "MOST_STATED", 2)
    asked: list[str] = []
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path, **_: asked.append(str(path)) or lstat(path))
    before = folder(root)
    assert len([path for path in asked if path.endswith(".bmp")]) == 2
    pictures(root, seed=1)
    assert folder(root) != before
    (root / "dog" / "2.bmp").rename(root / "dog" / "3.bmp")  # the names of all count
    assert folder(root) not in (before, folder(pictures(tmp_path / "other")))


@pytest.mark.parametrize("whole", [2**28, 10])
def test_a_file_of_kept_times_is_another_input(tmp_path: Path, whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "WHOLE_BYTES", whole)
    path = tmp_path / "x.parquet"
    path.write_bytes(bytes(2 * content.PIECE))
    before = content.files_digest([str(path)])
    path.touch()
    assert content.files_digest([str(path)]) == before
    keep_times(path, lambda: path.write_bytes(bytes(2 * content.PIECE - 1) + b"\1"))
    assert content.files_digest([str(path)]) != before
    assert content_digest(Parquet(kind="parquet", train=[str(path)])) == content.files_digest([str(path)])
    assert content_digest(Digits(kind="digits")) == content.files_digest([]) == ""


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert content.files_digest([str(tmp_path / "pipe")])
    assert content.folder_digest(str(tmp_path), [str(tmp_path / "pipe")])


def test_every_file_from_elsewhere_is_compared_by_its_content(tmp_path: Path) -> None:
    """Sources, sets, weights, checkpoints of surrogates, experts: the rule that reads them has their digest."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    inputs, path = Inputs(load(config)), tmp_path / "weights.safetensors"
    path.write_bytes(b"one")
    digest = inputs.content(lambda wildcards: ["<results>/not/there", str(path)])
    before = digest(Job())
    keep_times(path, lambda: path.write_bytes(b"two"))
    assert digest(Job()) != before
    assert inputs.content(lambda wildcards: "<results>/not/there")(Job()) == ""


READ_FROM_ELSEWHERE = (
    *("ingest", "import_images", "open_autoencoder", "open_generator"),
    *("train_reference", "select_checkpoints", "match", "measure_gradients"),
)
"""The rules with an input that no job may make."""


@pytest.mark.parametrize("name", READ_FROM_ELSEWHERE)
def test_a_rule_that_reads_files_from_elsewhere_has_their_digest(name: str) -> None:
    text = "".join(path.read_text("utf-8") for path in (PROJECT / "workflow" / "rules").glob("*.smk"))
    assert "        content=inputs." in text.split(f"rule {name}:\n")[1].split("\nrule ")[0]


def test_the_full_look_sees_a_picture_of_equal_size_and_kept_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path / "set")
    settings = ingest.Settings(
        dataset=Dataset(source=Folder(kind="folder", train=str(root)), resolution=16, holdout=Holdout(fraction=0.3))
    )
    files = {name: tmp_path / f"{name}.parquet" for name in ("train", "test", "rejected", "duplicates")}
    ingest.run(settings, **files, job=Run("ingest", canonical(settings), torch.device("cpu"), 1))
    made = files["train"].read_bytes()
    for path in root.rglob("*.bmp"):
        path.touch()
    monkeypatch.setattr(content, "WHOLE_FILES", 1)
    assert verify.main([str(files["train"]), str(files["test"])]) == 0
    assert capsys.readouterr().out.count("unchanged") == 2
    path = root / "dog" / "1.bmp"
    before = folder(root)
    keep_times(path, lambda: path.write_bytes(encoded(picture(16, seed=99), "BMP")))
    assert folder(root) == before
    assert verify.main([str(files["train"])]) == 1
    assert "run again with `--forcerun ingest`" in capsys.readouterr().out
    ingest.run(settings, **files, job=Run("ingest", canonical(settings), torch.device("cpu"), 1))
    assert files["train"].read_bytes() != made
    shutil.rmtree(root)
    assert verify.main([str(files["train"])]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert verify.main([str(path)]) == verify.main([]) == 2
