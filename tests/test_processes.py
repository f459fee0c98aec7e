"""A note tells whether the process that wrote it is alive: not its successor, and none of another machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from clone import PROJECT, wait_until

from distillery.processes import identity, owner_alive, peak_memory_mb, write_owner

SIGN = (
    "import pathlib, sys; from distillery.processes import write_owner; "
    "write_owner(pathlib.Path(sys.argv[1])); sys.stdin.readline()"
)


def test_a_note_holds_while_its_process_lives(tmp_path: Path) -> None:
    write_owner(tmp_path / "notes/mine.json")
    assert owner_alive(tmp_path / "notes/mine.json") is True
    assert owner_alive(tmp_path / "notes/nobodys.json") is None
    theirs = tmp_path / "theirs.json"
    process = subprocess.Popen(
        [sys.executable, "-c", SIGN, str(theirs)],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )
    try:
        wait_until(theirs.exists, 60, "no note")
        assert owner_alive(theirs) is True
        process.send_signal(signal.SIGKILL)
        wait_until(
            lambda: owner_alive(theirs) is False, 10, "the dead process counts as alive"
        )  # not collected yet: a zombie
    finally:
        process.kill()
        process.communicate()
    assert owner_alive(theirs) is False


def test_a_number_that_another_process_got_does_not_count(tmp_path: Path) -> None:
    note = tmp_path / "note.json"
    write_owner(note)
    host, _, signed = json.loads(note.read_text("utf-8"))
    with subprocess.Popen(["sleep", "60"]) as later:  # a parent may have started within the same tick
        note.write_text(json.dumps([host, later.pid, signed]), "utf-8")
        assert owner_alive(note) is False
        later.kill()
    note.write_text(json.dumps(["elsewhere", os.getpid(), signed]), "utf-8")
    assert owner_alive(note) is None


def test_setting_the_clock_makes_nobody_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "note.json"
    write_owner(note)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)  # what a new boot time does to it
    assert owner_alive(note) is True


def test_where_there_is_no_proc_the_second_of_the_start_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.processes.PROC", tmp_path)
    note = tmp_path / "note.json"
    write_owner(note)
    assert owner_alive(note) is True
    done = subprocess.Popen(["true"])
    done.wait()
    assert identity(done.pid) == ""


PEAK = """
import subprocess, sys
from distillery.processes import peak_memory_mb
held = b"1" * (int(sys.argv[1]) * 2**20)
del held
if len(sys.argv) > 2:
    subprocess.run([sys.executable, "-c", open(sys.argv[2]).read(), *sys.argv[3:]], check=True)
print(peak_memory_mb(), flush=True)
"""


def peaks(folder: Path, *megabytes: int) -> list[float]:
    """Peaks of processes that hold so much for a moment, each started by the one before it; the last one first."""
    script = folder / "peak.py"
    script.write_text(PEAK, "utf-8")
    [first, *others] = map(str, megabytes)
    words = [word for held in others for word in (str(script), held)]
    command = [sys.executable, "-c", PEAK, first, *words]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return list(map(float, done.stdout.split()))


def test_the_peak_is_of_a_process_and_of_those_that_it_started_but_not_of_the_one_that_started_it(
    tmp_path: Path,
) -> None:
    nothing, started_nothing, most = peaks(tmp_path, 300, 0, 0)
    assert (
        nothing < 150 and started_nothing < 150
    )  # a program begins with the peak of its parent, as `ru_maxrss` has it
    assert most > 300
    [inner, outer] = peaks(tmp_path, 0, 300)
    assert inner > 300 and outer >= inner


def test_the_peak_of_this_process_is_what_the_system_says() -> None:
    assert peak_memory_mb() >= psutil.Process().memory_info().rss / 2**20 - 1
