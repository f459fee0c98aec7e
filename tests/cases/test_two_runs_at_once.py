"""Two runs of Snakemake in one folder: the second one ends at once and says why; the first one is not disturbed.

That two processes which write the same file leave it whole is tested in tests/storage/test_two_writers.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clone import Clone, wait_until

OWN = {
    "name": "own",
    "dataset": {"source": {"kind": "digits"}, "resolution": 16, "channels": "grey", "holdout": {"fraction": 0.5}},
    "generators": {},
    "methods": {"chance": {"kind": "random"}},
    "ipc": [3],
    "evaluation": {"networks": ["convnet1_w8"]},
}
INGEST = ("snakemake", "--cores", "1", "--configfile", "own.yaml", "--", "results/own/data/train.parquet")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Clone, subprocess.Popen[str]]]:
    """A run whose first job waits for the file `go`."""
    clone = Clone.of_project(tmp_path / "clone")
    (clone.folder / "own.yaml").write_text(yaml.safe_dump(OWN), "utf-8")
    line = "    from distillery.data.ingest import ingest_images\n"
    waits = "    import time, pathlib\n    while not pathlib.Path('go').exists():\n        time.sleep(0.05)\n"
    clone.edit("src/distillery/stages/ingest.py", line, line + waits)
    process = subprocess.Popen(
        INGEST,
        cwd=clone.folder,
        env=clone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until((clone.folder / ".snakemake/holder.json").exists, 120, "the run does not start")
        yield clone, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_the_second_run_is_refused_and_the_first_one_ends_well(
    running: tuple[Clone, subprocess.Popen[str]],
) -> None:
    clone, first = running
    second = clone.run(*INGEST)
    assert second.returncode == 1
    assert "Directory cannot be locked" in second.stdout and "Traceback" not in second.stdout
    assert clone.dry_run("--configfile", "own.yaml")[0] == 0  # a plan takes no lock
    assert [*(clone.folder / ".snakemake/locks").glob("*.lock")]
    holder = json.loads((clone.folder / ".snakemake/holder.json").read_text("utf-8"))
    assert holder[1] == first.pid and len(holder) > 3
    (clone.folder / "go").touch()
    printed, _ = first.communicate(timeout=300)
    assert first.returncode == 0, printed
    assert (clone.folder / "results/own/data/train.parquet").exists()


def test_after_a_kill_the_lock_is_taken_over_by_the_next_run(running: tuple[Clone, subprocess.Popen[str]]) -> None:
    clone, first = running
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert [*(clone.folder / ".snakemake/locks").glob("*.lock")]
    (clone.folder / "go").touch()
    done = clone.run(*INGEST)
    assert done.returncode == 0, done.stdout
