"""One test cluster per machine, and one user of it at a time; none has to run for these tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from clone import wait_until
from on_slurm import HERE, OURS, own_jobs


def cluster(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the script says of a cluster that lies in a folder, to a process that did not start it."""
    places = {"SLURM_TEST_ROOT": str(folder / "cluster"), "SLURM_TEST_LOCK": str(folder / "test.lock")}
    environment = {**os.environ, **places, "SLURM_TEST_OWNER": "1"}
    return subprocess.run(
        ["bash", str(HERE / "cluster.sh"), command], env=environment, text=True, capture_output=True, check=False
    )


def note(folder: Path, process: int, start: str) -> None:
    (folder / "test.owner").write_text(f"{process} {start}\n", "ascii")


def start_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[19]


@pytest.mark.parametrize(("command", "status"), [("check", 3), ("start", 3), ("stop", 1), ("restart", 1)])
def test_a_cluster_in_use_is_left_alone(command: str, status: int, tmp_path: Path) -> None:
    note(tmp_path, os.getpid(), start_of(os.getpid()))
    done = cluster(command, tmp_path)
    assert done.returncode == status
    assert f"is in use by process {os.getpid()} (" in done.stderr
    assert (tmp_path / "test.owner").exists()
    assert not (tmp_path / "cluster").exists()


def test_a_dead_user_holds_no_cluster(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    note(tmp_path, process.pid, start_of(process.pid))
    assert "is in use" in cluster("check", tmp_path).stderr
    process.kill()
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, 10, "it lives")
    assert "is in use" not in cluster("check", tmp_path).stderr
    process.communicate()
    note(tmp_path, os.getpid(), "1")  # another process that had this number
    assert "is in use" not in cluster("check", tmp_path).stderr


def test_jobs_of_others_do_not_count() -> None:
    listed = f"1 {OURS}_a-b\n2 distillery_0123456789ab_c\n3 {OURS}_alone\n4 wrap\n"
    assert own_jobs(listed) == ["1", "3"]
    assert own_jobs("") == []
