"""Parquet files as other tools write them are read, or refused by their footer in one line that names them."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_images import encoded, picture

from distillery.data import parquet as parquet_module
from distillery.data.external import check_external
from distillery.data.settings import Parquet
from distillery.data.sources import class_names, class_sizes, count, records
from distillery.diffusion.weights import read_config
from distillery.errors import DamagedArtifact, WeightsError
from distillery.storage.atomic import read_json
from distillery.storage.images import read_classes
from distillery.storage.tensors import described_tensors

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
DEEP = "[" * 100_000


def source(*paths: Path) -> Parquet:
    return Parquet(kind="parquet", train=[str(path) for path in paths])


def contents(rows: int) -> list[bytes]:
    return [encoded(picture(16, seed=row)) for row in range(rows)]


def write(path: Path, images: pa.Array | None = None, labels: Any = None, rows: int = 4, **options: Any) -> Path:
    if images is None:
        images = pa.array([{"bytes": one, "path": f"{row}.png"} for row, one in enumerate(contents(rows))], STRUCT)
    table = pa.table({"image": images, "label": ["a", "b"] * (len(images) // 2) if labels is None else labels})
    pq.write_table(table.replace_schema_metadata(options.pop("metadata", None)), path, **options)
    return path


def taken(path: Path) -> list[tuple[str, str | None, bytes]]:
    return [(row.id, row.class_name, row.read()) for row in records(source(path), "train", ["a", "b"])]


# ---- types -----------------------------------------------------------------------------------------------------------


VIEWS = pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])


@pytest.mark.parametrize(
    "kind", [STRUCT, VIEWS, pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])]
)
@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()])
def test_views_and_large_columns_are_read_as_others(tmp_path: Path, kind: pa.DataType, text: pa.DataType) -> None:
    images = pa.array([{"bytes": one, "path": f"{row}.png"} for row, one in enumerate(contents(4))], kind)
    path = write(tmp_path / "x.parquet", images, pa.array(["a", "b"] * 2, text))
    assert class_sizes(source(path)) == {"a": 2, "b": 2}
    assert taken(path) == [(f"{row}.png", "ab"[row % 2], one) for row, one in enumerate(contents(4))]


def test_a_column_of_views_without_paths_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", pa.array(contents(4), pa.binary_view()))
    assert [content for *_, content in taken(path)] == contents(4)


# ---- paths without bytes ---------------------------------------------------------------------------------------------


def test_paths_without_bytes_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    images = pa.array([{"bytes": None, "path": f"pics/{row}.png"} for row in range(4)], STRUCT)
    path = write(tmp_path / "x.parquet", images, row_group_size=2)
    said = r"dataset.source.train: .*x.parquet: its images are paths without bytes; write it with the bytes"
    with pytest.raises(ValueError, match=said):
        class_names(source(path))
    [fault] = check_external("methods.theirs", str(path), [2], [0], ["a", "b"])
    assert fault.startswith("methods.theirs.images: ") and "paths without bytes" in fault


# ---- size ------------------------------------------------------------------------------------------------------------


def test_a_row_group_that_unpacks_to_more_than_images_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "BATCH_BYTES", 2**20)
    images = pa.array([{"bytes": bytes(2**21), "path": f"{row}"} for row in range(4)], STRUCT)
    path = write(tmp_path / "x.parquet", images, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"x.parquet: row group 0 of 'image' unpacks from \d+ to 8\d{6} bytes"):
        class_names(source(path))


def test_a_value_of_a_dictionary_is_in_memory_a_few_times_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4,000 rows of one image of 100 KB: 400 MB in memory, were they read together."""
    monkeypatch.setattr(parquet_module, "BATCH_BYTES", 2**22)
    image = os.urandom(100_000)
    images = pa.array([{"bytes": image, "path": "same"}] * 4000, STRUCT)
    path = write(tmp_path / "x.parquet", images)
    del images
    assert path.stat().st_size < 10**6
    before = pa.total_allocated_bytes()
    most = 0
    for _ in records(source(path), "train", ["a", "b"]):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 5 * 2**22


def test_more_rows_than_bytes_are_no_images(tmp_path: Path) -> None:
    rows = 1_000_000
    images = pa.StructArray.from_arrays(
        [pa.repeat(pa.scalar(b"x", pa.binary()), rows), pa.repeat("same", rows)], fields=list(STRUCT)
    )
    path = write(tmp_path / "x.parquet", images, pa.repeat("a", rows), compression="zstd")
    with pytest.raises(ValueError, match=r"x.parquet: 1000000 rows in \d+ bytes; give a table of images"):
        class_names(source(path))


def test_any_size_of_row_groups_gives_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = taken(write(tmp_path / "one.parquet", rows=10))
    monkeypatch.setattr(parquet_module, "BATCH_BYTES", 1)
    assert taken(tmp_path / "one.parquet") == one
    assert taken(write(tmp_path / "many.parquet", rows=10, row_group_size=3)) == one
    assert count(source(tmp_path / "many.parquet"), "train", ["a"]) == 5


# ---- metadata --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"\xff\xfe{}", b"{", DEEP.encode(), b'{"info": "\xc3("}'])
def test_broken_metadata_are_no_whole_file(tmp_path: Path, text: bytes) -> None:
    path = write(tmp_path / "x.parquet", labels=[0, 1, 0, 1], metadata={"huggingface": text})
    with pytest.raises(ValueError, match=r"dataset.source.train: .*x.parquet: not a whole Parquet file \("):
        class_names(source(path))


@pytest.mark.parametrize("about", [{}, {"info": None}, {"info": {"features": {"label": {"names": None}}}}, [], 3])
def test_metadata_of_other_tools_name_no_class(tmp_path: Path, about: Any) -> None:
    path = write(tmp_path / "x.parquet", labels=[0, 1, 0, 1], metadata={"huggingface": json.dumps(about)})
    assert class_names(source(path)) == ["0", "1"]


def test_a_name_of_a_column_that_is_no_text_is_no_whole_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"label", b"\xffabel"))
    with pytest.raises(ValueError, match=r"x.parquet: not a whole Parquet file|has no column 'label'"):
        class_names(source(path))


def test_other_files_from_elsewhere_with_deep_json_are_damaged_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(DEEP)
    with pytest.raises(WeightsError, match=r"config.json: cannot be read \(nested too deep\)"):
        read_config(tmp_path)
    with pytest.raises(DamagedArtifact, match="nested too deep"):
        read_json(tmp_path / "config.json", "ingest")
    header = ('{"a":' + DEEP).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="safetensors"):
        described_tensors(tmp_path / "x.safetensors")
    path = write(tmp_path / "x.parquet", metadata={"huggingface": DEEP})
    with pytest.raises(DamagedArtifact, match="nested too deep"):
        read_classes(path, "ingest")


# ---- no file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["a named pipe", "cannot be opened", "no such file", "a folder"])
def test_what_is_no_file_is_refused_unopened(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.parquet"
    if what == "a named pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    elif what == "cannot be opened":  # a link to itself
        path.symlink_to(path)
    found: list[BaseException] = []

    def ask() -> None:
        try:
            class_names(source(path))
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # opening a pipe would wait for its other end
    thread.start()
    thread.join(30)
    assert found and f"{path}: {what}" in str(found[0])
