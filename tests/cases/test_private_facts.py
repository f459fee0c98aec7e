"""Facts of the user and the machine are seen wherever a file may hold them.

That a finished run publishes none is tested where one is: in tests/workflow/test_default.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image, PngImagePlugin
from private_facts import USER, private_facts, private_words

from distillery.storage.tables import write_table
from distillery.storage.tensors import write_tensors


def picture(path: Path) -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("Author", USER, zip=True)
    Image.new("L", (8, 8)).save(path, pnginfo=about)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.json": lambda path: path.write_text(f'{{"user": "{USER}"}}', "utf-8"),
    "a.html": lambda path: path.write_text(f"<!-- {USER} -->", "utf-8"),
    "a.png": picture,
    "a.parquet": lambda path: write_table(path, pa.table({"a": [USER] * 2000}), {}),
    "b.parquet": lambda path: write_table(path, pa.table({"a": [1]}), {"user": USER}),
    "a.safetensors": lambda path: write_tensors(path, {"a": torch.ones(1)}, {"user": USER}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_private_fact_is_seen(name: str, tmp_path: Path) -> None:
    words = private_words(tmp_path)
    (tmp_path / "cost").mkdir()
    for path in (tmp_path / name, tmp_path / "cost" / name):
        WRITERS[name](path)
    assert private_facts(tmp_path, words) == [f"{name}: {USER}"]
    (tmp_path / name).unlink()
    assert private_facts(tmp_path, words) == []
