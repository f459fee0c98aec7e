"""Two processes that make the same file at the same time, as an orphan and its successor do: nobody sees a torn one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clone import PROJECT, wait_until

from distillery.storage.atomic import read_json
from distillery.storage.resume import Resume
from distillery.storage.tables import read_table
from distillery.storage.tensors import read_tensors

WRITER = """
import sys, time
from pathlib import Path
import pyarrow as pa, torch
from distillery.storage.atomic import write_json
from distillery.storage.resume import Resume
from distillery.storage.tables import write_table
from distillery.storage.tensors import write_tensors

folder, end = Path(sys.argv[1]), time.time() + float(sys.argv[2])
weights = torch.arange(200_000.0)
table = pa.table({"value": list(range(20_000))})
resume = Resume(folder / "model", "digest", every=0)
(folder / f"ready-{sys.argv[3]}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
times = 0
while time.time() < end or times < 5:
    write_tensors(folder / "weights.safetensors", {"weights": weights}, {"stage": "test"}, step=7)
    write_table(folder / "table.parquet", table, {"stage": "test"})
    write_json(folder / "facts.json", {"facts": list(range(2000))})
    resume.checkpoint(lambda: ({"weights": weights}, {"step": 7}))
    times += 1
    if sys.argv[3] == "1" and times == 3:
        resume.finish()  # the one is done with it while the other still saves
print(times)
"""


@pytest.fixture
def writers(tmp_path: Path) -> list[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    found = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), "3", str(number)],
            env=environment, stdout=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    wait_until((tmp_path / "facts.json").exists, 120, "nothing is written")
    return found


def test_a_reader_finds_whole_files_while_two_write_them(writers: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    resume, read = Resume(tmp_path / "model", "digest"), 0
    seen = {name: set[bytes]() for name in ("weights.safetensors", "table.parquet", "facts.json")}
    while any(writer.poll() is None for writer in writers):
        tensors, about = read_tensors(tmp_path / "weights.safetensors", "test")
        assert (tensors["weights"].numel(), about) == (200_000, {"step": 7})
        if (tmp_path / "table.parquet").exists():
            assert read_table(tmp_path / "table.parquet", "test").num_rows == 20_000
        assert read_json(tmp_path / "facts.json", "test")["facts"][-1] == 1999
        found = resume.restore()  # None between the one's end and the other's next
        assert found is None or found[0]["weights"].numel() == 200_000
        for name, contents in seen.items():
            if (tmp_path / name).exists():
                contents.add((tmp_path / name).read_bytes())
        read += 1
    assert [writer.wait() for writer in writers] == [0, 0]
    assert all(int(writer.communicate()[0]) >= 5 for writer in writers)
    assert read > 1
    assert {name: len(contents) for name, contents in seen.items()} == dict.fromkeys(seen, 1)
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))
