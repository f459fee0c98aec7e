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

from distillery.processes import identity, owner_alive, write_owner

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
    note.write_text(json.dumps([host, os.getppid(), signed]), "utf-8")
    assert owner_alive(note) is False
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
