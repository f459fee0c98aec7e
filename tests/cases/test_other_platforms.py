"""What Linux, its file systems and its terminals have and others lack: the core runs without."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from clone import PROJECT, Clone

from distillery import cost, parallel
from distillery.devices import bound_cores, lease_card
from distillery.errors import BadInput
from distillery.processes import SCHEDULED, drop_lock, scheduled, take_lock
from distillery.snakemake_internals import tell_jobs
from distillery.storage import spool
from distillery.storage.tensors import growing_tensors, partial_name

# ---- a Mac -----------------------------------------------------------------------------------------------------------

MAC = """
import os, pkgutil, sys
for name in ("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise"):
    if hasattr(os, name):
        delattr(os, name)
import importlib, json
from pathlib import Path
import yaml
import distillery
from distillery.__main__ import main
from distillery.plan import rules
from distillery.plan.load import load
from distillery.storage.spool import mapped_bytes

for module in pkgutil.walk_packages(distillery.__path__, "distillery."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
experiment = load(yaml.safe_load(Path("experiments/smoke.yaml").read_text("utf-8")))
out = Path(sys.argv[1])
def run(stage, wildcards, **files):
    class Job(dict):
        __getattr__ = dict.__getitem__
    words = [stage, "--settings", rules.settings(experiment, stage)(Job(wildcards))]
    words += [word for name, path in files.items() for word in (f"--{name.replace('_', '-')}", str(out / path))]
    assert main(words) == 0
run("ingest", {}, train="train.parquet", test="test.parquet", rejected="rejected.parquet", duplicates="copies.parquet")
reference = {"images": "train.parquet", "model": "real.safetensors", "by_class": "real.csv"}
reference["history"] = "history.parquet"
run("train_reference", {"run": "", "reference": "real"}, **reference)
room = mapped_bytes(2**20)
room[:] = 7
print("ran", int(room.sum()))
"""


def test_the_core_runs_without_the_names_that_a_mac_lacks(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", MAC, str(tmp_path)],
        cwd=PROJECT,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"ran {7 * 2**20}"


def test_a_folder_without_room_is_told_where_nothing_can_be_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    assert spool.mapped_bytes(4096).shape == (4096,)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4095))
    with pytest.raises(BadInput, match=r"no room for .* set TMPDIR"):
        spool.mapped_bytes(4096)


def test_cores_are_those_of_the_machine_where_the_system_binds_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert bound_cores() == os.cpu_count()


# ---- a file system without locks -------------------------------------------------------------------------------------

NO_LOCKS = """
import errno, fcntl, sys
def flock(file, how):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
"""
HOLDER = f"""{NO_LOCKS}
from pathlib import Path
from distillery.processes import take_lock
path = Path(sys.argv[1])
print(take_lock(path.open("a"), path), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: Any, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_lock_without_locks_ends_with_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "0.lock"
    words: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], **words) as holder, path.open("a") as file:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        assert not take_lock(file, path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert take_lock(file, path)
        assert not take_lock(file, path)  # this process holds it
        drop_lock(path)
        assert take_lock(file, path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["0.lock", "0.lock.owner"]


@pytest.mark.usefixtures("no_locks")
def test_a_file_that_grows_has_one_writer_and_leaves_no_note(tmp_path: Path) -> None:
    path, tensors = tmp_path / "soft.safetensors", {"logits": (np.dtype(np.float16), (2, 3))}
    with growing_tensors(path, tensors, {}, False) as writer:
        with pytest.raises(BadInput, match="another process writes it"), growing_tensors(path, tensors, {}, True):
            pass
        writer.put("logits", 0, np.ones((2, 3)))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert not partial_name(path).exists()


def test_another_error_of_a_lock_is_no_missing_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: Any, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / "lock").open("a") as file, pytest.raises(OSError, match="Input/output error"):
        take_lock(file, tmp_path / "lock")


@pytest.mark.usefixtures("no_locks")
def test_a_card_is_leased_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert lease_card() == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert lease_card() == "1"


# ---- an interactive allocation of Slurm ------------------------------------------------------------------------------


def test_a_local_run_in_an_allocation_leases_and_a_submitted_job_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1", SCHEDULED: ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(SCHEDULED)
    tell_jobs(SimpleNamespace(remote_exec=False))
    assert not scheduled() and lease_card() == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    tell_jobs(SimpleNamespace(remote_exec=True))
    assert scheduled() and lease_card() is None
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    parallel.choose_card(["0", "1"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


# ---- a terminal without the sign ± -----------------------------------------------------------------------------------


def test_a_finished_run_ends_well_on_a_terminal_that_cannot_show_its_table(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "accuracy.md").write_text("| dit | 97.3 ± 0.4 |\n", "utf-8")
    code = "import sys, yaml; from pathlib import Path; from distillery.plan import closing, load\n"
    code += "experiment = load.load(yaml.safe_load(Path(sys.argv[2]).read_text('utf-8')))\n"
    code += "closing.print_closing_words(experiment, Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code, str(tmp_path), str(PROJECT / "config.yaml")]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| dit | 97.3 +- 0.4 |" in done.stdout


def test_a_refusal_is_one_message_on_a_terminal_that_cannot_show_it(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    clone.edit("config.yaml", "seeds:", "Häuser: 1\nseeds:")
    command = [sys.executable, "-m", "snakemake", "-n"]
    environment = {**clone.environment, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=clone.folder, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout and "Logging error" not in done.stderr + done.stdout
    assert r"H\N{LATIN SMALL LETTER A WITH DIAERESIS}user: no such key" in done.stderr + done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["distillery", "Häuser"],
        ["distillery.cost", "Häuser"],
        ["distillery.report.pictures", "Häuser.parquet", "Bäume"],
        ["distillery.diffusion.weights_convert", "Bäume"],
    ],
)
def test_no_command_dies_of_a_character(words: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )
    assert "UnicodeEncodeError" not in done.stderr and done.returncode in (0, 1, 2)


def test_every_command_accepts_all_characters() -> None:
    """`print` in a module that is a command of its own comes after the call."""
    modules = [
        path for path in (PROJECT / "src/distillery").rglob("*.py") if "sys.exit(main(" in path.read_text("utf-8")
    ]
    assert Path(cost.__file__) in modules
    assert [path.name for path in modules if "accept_all_characters()" not in path.read_text("utf-8")] == []
    assert "print_closing_words" in (PROJECT / "Snakefile").read_text("utf-8")
