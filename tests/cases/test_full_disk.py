"""A disk that is full, cannot be written, or loses its folder ends a stage with one line and leaves what there was."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clone import PROJECT

import distillery.__main__ as command_line
from distillery.storage.images import ImageSet, encode_png, write_images
from distillery.storage.spool import Spool
from distillery.storage.tensors import growing_tensors, partial_name, writing_tensors

COUNT = 40


@pytest.fixture
def call(tmp_path: Path) -> Callable[[Path], list[str]]:
    """The command of a stage that reads a set and writes it, of more than 100 kB, to a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 32, 32), dtype=np.uint8)
    columns = {"slot": np.arange(COUNT)}
    names = [f"{number}.png" for number in range(COUNT)]
    images = ImageSet([encode_png(image) for image in pixels], np.zeros(COUNT, np.int64), ["a"], names, columns)
    write_images(tmp_path / "parts" / "part.parquet", images, {})

    def command(output: Path) -> list[str]:
        settings = ["collect", "--settings", json.dumps({"ipc": COUNT})]
        return [*settings, "--parts", str(tmp_path / "parts" / "part.parquet"), "--images", str(output)]

    return command


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a stage ends with status 1."""
    assert command_line.main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in the memory with some options; where it is."""
    folder = tmp_path / "disk"

    def mount(options: str) -> Path:
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk_that_is_full(
    mounted: Callable[[str], Path], call: Callable[[Path], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output = mounted("size=64k") / "set.parquet"
    output.write_bytes(b"old")
    line = refused(call(output), capsys)
    assert line == (
        f"distillery collect: {output}: No space left on device; make room there; then run the same command again"
    )
    assert [*output.parent.iterdir()] == [output] and output.read_bytes() == b"old"


def test_a_disk_that_cannot_be_written(
    mounted: Callable[[str], Path], call: Callable[[Path], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    output = mounted("ro") / "set.parquet"
    assert "set.parquet: Read-only file system; mount it to be written" in refused(call(output), capsys)
    assert f"{output.parent}/new: Read-only" in refused(call(output.parent / "new" / "set.parquet"), capsys)


def _small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def test_a_limit_on_the_size_of_files(call: Callable[[Path], list[str]], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distillery", *call(tmp_path / "set.parquet")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(
        command, preexec_fn=_small_files, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"distillery collect: {tmp_path}/set.parquet: File too large; raise the limit on the size of files "
        "(ulimit -f); then run the same command again\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_an_error_when_the_file_is_brought_to_the_disk(
    number: int,
    call: Callable[[Path], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    line = refused(call(tmp_path / "set.parquet"), capsys)
    assert line.startswith(f"distillery collect: {tmp_path}/set.parquet: {os.strerror(number)}; ")
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_a_folder_that_is_removed_while_a_stage_runs(
    call: Callable[[Path], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: shutil.rmtree(tmp_path / "results"))
    line = refused(call(tmp_path / "results" / "set.parquet"), capsys)
    assert line.startswith(f"distillery collect: {tmp_path}/results/set.parquet: No such file or directory; something")
    shutil.rmtree(tmp_path / "parts")
    assert command_line.main(call(tmp_path / "set.parquet")) == 2
    assert "part.parquet: no such file" in capsys.readouterr().err


def test_the_record_of_costs_is_an_output_like_others(
    call: Callable[[Path], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = [*call(tmp_path / "set.parquet"), "--cost", str(tmp_path / "file" / "cost.json")]
    assert command_line.main(arguments) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"distillery collect: {tmp_path}/file: ")


@pytest.mark.parametrize("grows", [False, True])
def test_tensors_that_are_written_row_by_row(mounted: Callable[[str], Path], grows: bool) -> None:
    path, tensors = mounted("size=64k") / "rows", {"rows": (np.dtype(np.float16), (10, 10_000))}
    writing = growing_tensors(path, tensors, {}, False) if grows else writing_tensors(path, tensors, {})
    with pytest.raises(OSError, match="No space left on device") as full, writing as writer:
        for row in range(10):
            writer.put("rows", row, np.ones((1, 10_000), np.float16))
            writer.flush()
    assert full.value.filename == str(path)
    assert [*path.parent.iterdir()] == ([partial_name(path)] if grows else [])


def test_a_buffer_in_a_full_folder_of_temporary_files(mounted: Callable[[str], Path]) -> None:
    spool = Spool(mounted("size=64k"), in_memory=0)
    with pytest.raises(OSError, match=r"No space left on device: '.*/disk'"):
        for _ in range(100):
            spool.put(b"1" * 10_000)
