"""Parquet files in the Hugging Face image layout as a source."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.data.settings import Parquet
from distillery.data.source import (
    Record,
    Split,
    check_digests,
    class_sizes,
    count,
    names_of,
    no_test_images,
    records,
    shown,
)
from distillery.errors import SourceError
from distillery.storage.atomic import parse_json
from distillery.storage.files import no_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS, MOST_LABELS, BATCH_BYTES = 64, 2**16, 2**28

MOST_UNPACKED = 100
"""Times that images take more room after decompression; they are compressed already."""


@names_of.register
def _(source: Parquet, split: Split) -> list[str]:
    _check_files(source)
    if names := [name for name in _label_counts(source, split) if name is not None]:
        return names
    raise SourceError(f"dataset.source.{split}: no row of {_files(source, split)[0]} has a label; give labelled images")


@check_digests.register
def _(source: Parquet) -> None:
    for path, wanted in source.sha256.items():
        if path not in source.files:
            raise SourceError(f"dataset.source.sha256: {path} is neither in train nor in test")
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != wanted:
            where = source.origin or "fetch it again"
            raise SourceError(f"dataset.source: {path}: sha256 {digest}, and the experiment names {wanted}; {where}")


@class_sizes.register
def _(source: Parquet) -> dict[str, int]:
    _check_files(source)
    return {name: images for name, images in _label_counts(source, "train").items() if name is not None}


@count.register
def _(source: Parquet, split: Split, classes: Collection[str]) -> int:
    counts = _label_counts(source, split)
    return sum(images for name, images in counts.items() if name is None or name in classes)


@records.register
def _(source: Parquet, split: Split, classes: Collection[str]) -> Iterator[Record]:
    return _parquet_records(source, split, classes)


def _files(source: Parquet, split: Split) -> list[str]:
    files = source.train if split == "train" else source.test
    if not files:
        raise no_test_images()
    return files


def _check_files(source: Parquet) -> None:
    """Refuse a file that is named twice, and each that is not a Parquet file with the columns."""
    twice = [path for path, times in Counter(map(os.path.realpath, source.files)).items() if times > 1]
    if twice:
        raise SourceError(f"dataset.source: a file is named more than once in train and test: {shown(twice)}")
    splits: dict[Split, list[str]] = {"train": source.train, "test": source.test}
    for split, paths in splits.items():
        for path in paths:
            with _open(source, split, path) as file:
                _check_contents(source, f"dataset.source.{split}: {path}", path, file.metadata)


def _check_contents(source: Parquet, key: str, path: str, about: pq.FileMetaData) -> None:
    """Refuse a file that holds no images, or unpacks to more than can be images, by its footer alone."""
    if about.num_rows > Path(path).stat().st_size:
        raise SourceError(f"{key}: {about.num_rows} rows in {Path(path).stat().st_size} bytes; give a table of images")
    nulls = 0
    for number in range(about.num_row_groups):
        for column in _chunks(about.row_group(number), source.image_column):
            packed, unpacked = column.total_compressed_size, column.total_uncompressed_size
            if unpacked > BATCH_BYTES and unpacked > MOST_UNPACKED * packed:
                raise SourceError(
                    f"{key}: row group {number} of {source.image_column!r} unpacks from {packed} to {unpacked} bytes, "
                    "and no images do; make the file again"
                )
            if column.path_in_schema in (source.image_column, f"{source.image_column}.bytes"):
                nulls += column.statistics.null_count or 0 if column.is_stats_set else 0
    if nulls == about.num_rows > 0:
        raise SourceError(
            f"{key}: its images are paths without bytes; write it with the bytes of the files in "
            f"`{source.image_column}.bytes`, or give a folder of class folders"
        )


def _chunks(group: pq.RowGroupMetaData, *columns: str) -> Iterator[pq.ColumnChunkMetaData]:
    """What the footer says of these columns of a row group, and of what is nested in them."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema.split(".")[0] in columns or column.path_in_schema in columns:
            yield column


def _batches(file: pq.ParquetFile, columns: list[str], most: int) -> Iterator[pa.RecordBatch]:
    """The rows of a file in groups of at most `most`, and of so few that they fit into memory.

    A value that a dictionary holds once may stand in every row: so many rows are read as would fit if each were as
    large as the whole column.
    """
    for number in range(file.num_row_groups):
        sizes = [column.total_uncompressed_size for column in _chunks(file.metadata.row_group(number), *columns)]
        rows = max(min(most, BATCH_BYTES // max(*sizes, 1)), 1)
        yield from file.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False)


def _open(source: Parquet, split: Split, path: str) -> pq.ParquetFile:
    """An open file whose columns are as the settings say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = f"dataset.source.{split}: {path}"
    if what := no_file(path):
        where = source.origin or "give the path of a Parquet file"
        if what == "a folder":
            where = "name each of its Parquet files, or take `kind: folder` for class folders"
        raise SourceError(f"{key}: {what}; {where} (a relative path starts at {Path.cwd()})")
    try:
        # Buffered without reading ahead: a row group of any size is read in small pieces.
        file = pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
        schema = file.schema_arrow
        parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (OSError, pa.ArrowException, ValueError, RecursionError) as error:  # of names or metadata, too
        if _is_lfs_pointer(path):
            raise SourceError(f"{key}: a Git LFS pointer, not the data; fetch it with `git lfs pull`") from error
        raise SourceError(f"{key}: not a whole Parquet file ({_first_line(error)}); fetch or make it again") from error
    for option, column, fits, wanted in (
        ("image_column", source.image_column, _holds_images, "a struct with `bytes`, or plain bytes"),
        ("label_column", source.label_column, _holds_labels, "integers or text"),
    ):
        if schema.names.count(column) != 1:
            raise SourceError(
                f"dataset.source.{option}: {path} has no column {column!r}; it has: {shown(schema.names)}"
            )
        kind = schema.field(column).type
        if not fits(kind):
            raise SourceError(f"dataset.source.{option}: {path}: column {column!r} holds {kind}, not {wanted}")
    return file


def _is_lfs_pointer(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(23) == b"version https://git-lfs"
    except OSError:
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _is_bytes(kind.field(position).type)
    return _is_bytes(kind)


def _holds_labels(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return pa.types.is_integer(kind) or any(is_text(kind) for is_text in texts)


def _declared_names(source: Parquet, split: Split, path: str, file: pq.ParquetFile) -> list[str] | None:
    """Class names in the order of the integer labels, as Hugging Face `datasets` leaves them in the schema.

    Raises:
        SourceError: two classes have one name.
    """
    try:
        text = (file.schema_arrow.metadata or {})[b"huggingface"]
        names = parse_json(text)["info"]["features"][source.label_column]["names"]
        names = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list):
        return None
    numbers: dict[str, int] = {}
    for number, name in enumerate(map(str, names)):
        if (other := numbers.setdefault(name, number)) != number:
            raise SourceError(
                f"dataset.source.{split}: {path}: classes {other} and {number} are both called {name!r}; give each a "
                f"name of its own in the names of its ClassLabel {source.label_column!r}"
            )
    return list(numbers)


def _class_of(label: int | str | None, names: list[str] | None) -> str | None:
    if isinstance(label, int) and names is not None:
        return names[label] if 0 <= label < len(names) else None  # -1 is the field's mark of a hidden test label
    return None if label is None else str(label)


def _place(label: int | str | None, names: list[str] | None, file: int) -> tuple[int, int, int, str]:
    """Where a label stands in the order of the classes: as its file declares, else by number, else by text."""
    if isinstance(label, int):
        return (1, 0, label, "") if names is None else (0, file, label, "")
    return (2, 0, 0, label or "")


def _label_counts(source: Parquet, split: Split) -> dict[str | None, int]:
    """How many rows each class has, in the order of the labels; None counts those whose label names no class."""
    import pyarrow as pa

    counts: Counter[str | None] = Counter()
    places: dict[str | None, tuple[int, int, int, str]] = {}
    for number, path in enumerate(_files(source, split)):
        with _open(source, split, path) as file:
            names = _declared_names(source, split, path, file)
            try:
                for batch in _batches(file, [source.label_column], MOST_LABELS):
                    for pair in batch.column(source.label_column).value_counts().to_pylist():
                        name = _class_of(pair["values"], names)
                        counts[name] += pair["counts"]
                        places.setdefault(name, _place(pair["values"], names, number))
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(split, path, error) from error
    return {name: counts[name] for name in sorted(counts, key=places.__getitem__)}


def _unreadable(split: Split, path: str, error: BaseException) -> SourceError:
    return SourceError(f"dataset.source.{split}: {path}: damaged ({_first_line(error)}); fetch or make it again")


def _paths_identify(source: Parquet, split: Split) -> bool:
    """Whether every image of a split has a path of its own, which then is its id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    seen: set[int] = set()
    rows = 0
    for path in _files(source, split):
        with _open(source, split, path) as file:
            kind = file.schema_arrow.field(source.image_column).type
            if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
                return False
            try:
                for batch in _batches(file, [f"{source.image_column}.path"], MOST_LABELS):
                    names = pc.struct_field(batch.column(0), "path").to_pylist()
                    if not all(names):
                        return False
                    rows += len(names)
                    seen.update(map(hash, names))
                    if len(seen) < rows:
                        return False
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(split, path, error) from error
    return True


def _parquet_records(source: Parquet, split: Split, classes: Collection[str]) -> Iterator[Record]:
    import pyarrow as pa

    by_path = _paths_identify(source, split)
    stems = Counter(Path(path).stem for path in _files(source, split))
    for path in _files(source, split):
        stem = Path(path).stem if stems[Path(path).stem] == 1 else path
        row = -1
        with _open(source, split, path) as file:
            names = _declared_names(source, split, path, file)
            columns = [source.image_column, source.label_column]
            try:
                for batch in _batches(file, columns, BATCH_ROWS):
                    labels = batch.column(source.label_column).to_pylist()
                    for image, label in zip(batch.column(source.image_column), labels, strict=True):
                        row += 1
                        name = _class_of(label, names)
                        if name is not None and name not in classes:
                            continue
                        value = image.as_py()
                        about = value if isinstance(value, dict) else {"bytes": value}
                        identity = about["path"] if by_path else f"{stem}/{row:07d}"
                        origin = f"{path}, row {row}" + (f", {about['path']}" if about.get("path") else "")
                        file_name = Path(about.get("path") or "").name
                        yield Record(identity, origin, name, about["bytes"] or b"", file_name)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(split, path, error) from error
