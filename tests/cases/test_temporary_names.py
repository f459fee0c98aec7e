"""Temporary files: none is left by a kill, whoever writes, and none has a name that somebody else can take first."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from clone import PROJECT

import distillery.__main__ as command_line
from distillery.devices import lease_card
from distillery.errors import BadInput
from distillery.processes import temporary_name, write_owner
from distillery.storage.atomic import copy_file, write_bytes, write_json
from distillery.storage.images import ImageSet, encode_png, write_images
from distillery.storage.tables import write_table
from distillery.storage.tensors import growing_tensors, partial_name, save_tensors, write_tensors, writing_tensors

PIXELS = np.zeros((3, 8, 8), np.uint8)
ROWS = {"rows": (np.dtype(np.float16), (4, 3))}


def row_by_row(path: Path) -> None:
    with writing_tensors(path, ROWS, {}) as writer:
        writer.put("rows", 0, np.ones((4, 3), np.float16))


def tensors(write: Callable[..., None]) -> Callable[[Path], None]:
    def written(path: Path) -> None:
        import torch

        write(path, {"a": torch.zeros(9)}, {})

    return written


WRITERS: dict[str, Callable[[Path], None]] = {
    "write_bytes": lambda path: write_bytes(path, b"content"),
    "write_json": lambda path: write_json(path, {"a": 1}),
    "copy_file": lambda path: copy_file(Path(__file__), path),
    "write_table": lambda path: write_table(path, pa.table({"a": [1]}), {}),
    "write_images": lambda path: write_images(
        path, ImageSet([encode_png(PIXELS)], np.zeros(1, np.int64), ["a"], ["a"]), {}
    ),
    "writing_tensors": row_by_row,
    "write_tensors": tensors(write_tensors),
    "save_tensors": tensors(save_tensors),  # resume files
}


def kill_all(folder: Path) -> None:
    """Kill each writer before its file is in its place: forks of a process that has no threads."""
    for name, write in WRITERS.items():
        if (child := os.fork()) == 0:
            os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            write(folder / name)
            sys.exit()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which each writer was killed."""
    folder = tmp_path_factory.mktemp("killed")
    paths = os.pathsep.join([str(PROJECT / "src"), str(PROJECT / "tests" / "support")])
    subprocess.run([sys.executable, __file__, str(folder)], env={**os.environ, "PYTHONPATH": paths}, check=True)
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_killed_writer_left_goes_with_the_next_write(name: str, killed: Path) -> None:
    path = killed / name
    [left] = killed.glob(f".{name}.*")
    assert left.suffix == ".tmp" and not path.exists()
    WRITERS[name](path)
    assert path.exists() and not left.exists()


def test_labels_that_were_half_stored_keep_one_name(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    with pytest.raises(KeyboardInterrupt), growing_tensors(path, ROWS, {}, False):
        raise KeyboardInterrupt  # nothing is cleaned up on the way, so that a kill leaves the same
    assert [*tmp_path.iterdir()] == [partial_name(path)]
    with growing_tensors(path, ROWS, {}, True):
        pass
    assert [*tmp_path.iterdir()] == [path]


BUFFER = """
import os, sys
from pathlib import Path
from distillery.storage.spool import Spool, mapped_bytes
spool = Spool(in_memory=0)
spool.put(b"1" * 100_000)
held = mapped_bytes(100_000)
print(*os.listdir(os.environ["TMPDIR"]), flush=True)
os._exit(9)
"""


def test_a_buffer_has_no_name(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", BUFFER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, "\n", "")
    assert [*tmp_path.iterdir()] == []


def writes(tree: ast.AST) -> Iterator[str]:
    """The calls of a module that write a file under a name."""
    named = ("write_text", "save_file", "save_pretrained", "to_json_file", "to_parquet", "imwrite", "touch", "mkdtemp")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        modes = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        opens = name == "open" and any(set(mode) & set("wax+") and len(mode) < 4 for mode in modes)
        bare = name == "write_bytes" and isinstance(node.func, ast.Attribute)
        if name in named or opens or bare or ast.unparse(node.func) in ("tempfile.mktemp", "tempfile.mkstemp"):
            yield f"{ast.unparse(node)[:60]} in line {node.lineno}"


WRITE_THEMSELVES = {"storage/atomic.py", "storage/tensors.py", "storage/tables.py", "processes.py", "provenance.py"}
WRITE_THEMSELVES |= {"devices.py", "commands/export.py", "report/export.py"}
"""They write under a name of `temporary_name`, a lock without content, or into a new folder with a random name."""


def test_every_other_module_writes_through_the_storage() -> None:
    """So the folders of models, the figures and the tables are covered by the tests above, file by file."""
    root = PROJECT / "src" / "distillery"
    found = {str(path.relative_to(root)): [*writes(ast.parse(path.read_text("utf-8")))] for path in root.rglob("*.py")}
    assert {name for name, calls in found.items() if calls} == WRITE_THEMSELVES, found


# ---- names that others can tell --------------------------------------------------------------------------------------


def test_a_temporary_name_cannot_be_told_before_it_is_there(tmp_path: Path) -> None:
    names = {temporary_name(tmp_path / "a").name for _ in range(100)}
    assert len(names) == 100
    write_owner(tmp_path / "note")
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def folder_of_locks(folder: Path) -> Path:
    return folder / f"distillery-cards-{os.getuid()}"


def by_another(path: Path) -> None:
    path.mkdir()
    os.chown(path, 12345, 12345)


def a_link(path: Path) -> None:
    (path.parent / "theirs").mkdir()
    path.symlink_to("theirs")


def for_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(by_another, marks=pytest.mark.skipif(os.getuid() != 0, reason="root alone gives a folder away")),
        *(a_link, for_all, Path.touch),
    ],
)
def test_a_folder_of_locks_that_somebody_else_controls_is_refused(
    make: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    make(path := folder_of_locks(tmp_path))
    with pytest.raises(BadInput, match="its locks cannot be trusted; remove it, or set TMPDIR"):
        lease_card()
    assert not path.is_dir() or not [*path.iterdir()]
    (tmp_path / "set").touch()
    files = [f"--{name}={tmp_path / 'set'}" for name in ("images", "autoencoder", "latents")]
    assert command_line.main(["encode_latents", "--settings", "{}", *files]) == 1
    assert capsys.readouterr().err.startswith(f"distillery encode_latents: {path}: ")


def test_a_folder_of_locks_is_its_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = os.umask(0)
    try:
        assert lease_card() == "0"
    finally:
        os.umask(before)
    assert folder_of_locks(tmp_path).stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_place_of_half_stored_labels_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    partial_name(tmp_path / "labels").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"), growing_tensors(tmp_path / "labels", ROWS, {}, False):
        pytest.fail("it was opened")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_link_in_the_place_of_an_output_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "table.csv").symlink_to("precious")
    write_bytes(tmp_path / "table.csv", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "table.csv").is_symlink()


if __name__ == "__main__":
    kill_all(Path(sys.argv[1]))
