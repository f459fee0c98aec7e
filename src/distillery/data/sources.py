"""Sources of labelled images: the built-in digits, a folder of class folders, Parquet files.

A source is read lazily and in an order that depends on names alone, so that a data set larger than the memory passes
through, and so that two machines with the same files see the same records.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distillery.data.identity import same_class
from distillery.data.settings import Dataset, Digits, Folder, Parquet, Source
from distillery.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Split = Literal["train", "test"]

BATCH_ROWS = 64
SHOWN_NAMES = 10
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of folders that hold class folders; no data set has nothing but such classes."""

MOST_BYTES = 2**28
"""A larger file is no image that anybody trains on, and is not read."""


DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
"""How many images of each digit scikit-learn ships; counted here, because importing it takes seconds."""


@dataclass(frozen=True)
class Record:
    """One image of a source, not decoded.

    Attributes:
        id: stable name, unique within a split: `digits/00017`, `tench/n01440764_10026.JPEG`.
        origin: where a user finds the image.
        class_name: its class; None where its label names no class.
        content: the encoded file, or the path to it.
        name: of its file, without folders; empty where there is none.
    """

    id: str
    origin: str
    class_name: str | None
    content: bytes | Path
    name: str = ""

    def read(self) -> bytes:
        """The encoded file.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(self.content, bytes):
            return self.content
        if not self.content.is_file():  # a dangling link; or a pipe, which would never end
            raise FileNotFoundError(2, "no such file")
        if self.content.stat().st_size > MOST_BYTES:  # an archive, a film: it would be read whole
            raise OSError(errno.EFBIG, f"larger than {MOST_BYTES // 2**20} MiB")
        return self.content.read_bytes()


@singledispatch
def class_names(source: Source) -> list[str]:
    """Names of the classes of the training images, in plain order of text. No image is read.

    Raises:
        SourceError: a folder or file of either split is missing or not what it should be.
    """
    raise TypeError(f"{type(source).__name__}: no source of images")


@singledispatch
def class_sizes(source: Source) -> dict[str, int]:
    """Class -> number of training images, readable or not, before any is held out. No image is read.

    Raises:
        SourceError: as `class_names`.
    """
    raise TypeError(f"{type(source).__name__}: no source of images")


@singledispatch
def count(source: Source, split: Split, classes: Collection[str]) -> int:
    """How many records `records` yields. No image is read."""
    raise TypeError(f"{type(source).__name__}: no source of images")


@singledispatch
def records(source: Source, split: Split, classes: Collection[str]) -> Iterator[Record]:
    """The images of these classes, and those whose label names no class, in a fixed order, a few in memory at a time.

    Raises:
        SourceError: as `class_names`; or a Parquet file is damaged.
    """
    raise TypeError(f"{type(source).__name__}: no source of images")


@singledispatch
def check_digests(source: Source) -> None:
    """Compare files with the sha256 that the settings name.

    Raises:
        SourceError: a file is another one, or none of the source.
    """


def class_list(dataset: Dataset) -> list[str]:
    """The classes of a data set in the order of their labels.

    Without `dataset.classes` it is the plain order of text, in which "10" precedes "2": it is the order of
    torchvision's `ImageFolder`, hence of labels and soft labels that others have published.

    Raises:
        SourceError: a class that the source lacks or that is named twice, fewer than two classes, or as `class_names`.
    """
    known = class_names(dataset.source)
    if dataset.classes is None:
        if len(known) < 2:
            raise SourceError(
                f"dataset.source.train: {len(known)} classes found ({_some(known)}), at least two are needed"
            )
        return known
    meant = {name: same_class(name, known) for name in dataset.classes}
    missing = sorted(name for name, same in meant.items() if same is None)
    if missing:
        raise SourceError(
            f"dataset.classes: not in dataset.source.train: {_some(missing)}; the classes there are: {_some(known)}"
        )
    named = [str(meant[name]) for name in dataset.classes]
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        raise SourceError(f"dataset.classes: named more than once: {_some(twice)}")
    return named


def input_files(source: Source) -> list[str]:
    """The files that a source consists of, where they are few enough to be declared as inputs of a rule."""
    return list(source.files)


@singledispatch
def listing_digest(source: Source) -> str:
    """Digest of the names of the files in a folder source: it changes when one is added, removed or renamed.

    Only names are looked at, because a million `stat` calls take minutes on a network file system. Empty for other
    sources.
    """
    return ""


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:SHOWN_NAMES])
    return shown if len(names) <= SHOWN_NAMES else f"{shown}, … ({len(names)} in all)"


# ---- digits ----------------------------------------------------------------------------------------------------------


@class_names.register
def _(source: Digits) -> list[str]:
    return [str(digit) for digit in range(10)]


@class_sizes.register
def _(source: Digits) -> dict[str, int]:
    return {str(digit): size for digit, size in enumerate(DIGITS)}


@count.register
def _(source: Digits, split: Split, classes: Collection[str]) -> int:
    return sum(1 for _ in _digits(classes))


@records.register
def _(source: Digits, split: Split, classes: Collection[str]) -> Iterator[Record]:
    return _digits(classes)


def _digits(classes: Collection[str]) -> Iterator[Record]:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for row, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if str(label) in classes:
            buffer = io.BytesIO()
            Image.fromarray(np.floor(values * 255 / 16 + 0.5).astype(np.uint8)).save(buffer, "PNG")
            yield Record(f"digits/{row:05d}", f"sklearn.datasets.load_digits, row {row}", str(label), buffer.getvalue())


# ---- folder ----------------------------------------------------------------------------------------------------------


@class_names.register
def _(source: Folder) -> list[str]:
    names = sorted(_text(name) for name, _ in _class_folders(source.train, "train", source.origin))
    if source.test is not None:
        _class_folders(source.test, "test", source.origin)
        if os.path.realpath(source.test) == os.path.realpath(source.train):
            raise SourceError(
                f"dataset.source.test: {source.test}: the folder of train; give another one, or leave it out and "
                "say what dataset.holdout keeps back"
            )
    if len(names) > 1 and SPLITS.issuperset(map(str.lower, names)):
        inside = next((name for name in names if name.lower().startswith("train")), names[0])
        raise SourceError(
            f"dataset.source.train: {source.train}: holds the folders {', '.join(names)}, which would be its "
            f"classes; give {Path(source.train, inside)}"
        )
    return names


@class_sizes.register
def _(source: Folder) -> dict[str, int]:
    return {_text(name): len(_image_files(path)) for name, path in _class_folders(source.train, "train")}


@count.register
def _(source: Folder, split: Split, classes: Collection[str]) -> int:
    folders = _class_folders(_folder(source, split), split)
    return sum(len(_image_files(folder)) for name, folder in folders if _text(name) in classes)


@records.register
def _(source: Folder, split: Split, classes: Collection[str]) -> Iterator[Record]:
    return _folder_records(_folder(source, split), split, classes)


@listing_digest.register
def _(source: Folder) -> str:
    digest = hashlib.sha256()
    for split, folder in (("train", source.train), ("test", source.test)):
        if folder is not None:
            for _, class_folder in _class_folders(folder, "train" if split == "train" else "test"):
                for path in _image_files(class_folder):
                    digest.update(os.fsencode(os.path.relpath(path, folder)) + b"\0")
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _folder(source: Folder, split: Split) -> str:
    folder = source.train if split == "train" else source.test
    if folder is None:
        raise SourceError("dataset.source.test: the source has no test images")
    return folder


def _text(name: str) -> str:
    """A file name as text that UTF-8 can hold: a name of other bytes is shown with escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _class_folders(folder: str, split: Split, origin: str | None = None) -> list[tuple[str, str]]:
    """Names and paths of the class folders, sorted. Links are followed: subsets are often made of links."""
    key = f"dataset.source.{split}: {folder}"
    try:
        with os.scandir(folder) as entries:
            folders = sorted((e.name, e.path) for e in entries if not e.name.startswith(".") and e.is_dir())
    except FileNotFoundError:
        where = origin or "give the folder that holds one folder of images per class"
        where += "; ~ does not stand for the home folder here" if folder.startswith("~") else ""
        raise SourceError(f"{key}: no such folder; {where} (a relative path starts at {Path.cwd()})") from None
    except NotADirectoryError:
        raise SourceError(f"{key}: a file; give the folder that holds one folder of images per class") from None
    except OSError as error:
        raise SourceError(f"{key}: cannot be read: {error.strerror}") from error
    if not folders:
        raise SourceError(f"{key}: holds no class folder; give the folder that holds one folder of images per class")
    return folders


def _image_files(folder: str) -> list[str]:
    """Paths of all files below a class folder, sorted, without hidden ones."""
    files, waiting = [], [folder]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        if not (entry.is_symlink() and _encloses(entry.path, current)):
                            waiting.append(entry.path)
                    elif entry.is_file() or entry.is_symlink():  # a dangling link is an image that cannot be read
                        files.append(entry.path)
        except OSError as error:
            raise SourceError(f"{current}: cannot be read: {error.strerror}; put its permissions right") from error
    return sorted(files)


def _encloses(link: str, folder: str) -> bool:
    """Whether a link leads back to a folder that holds it: following it would never end."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(link))


def _folder_records(folder: str, split: Split, classes: Collection[str]) -> Iterator[Record]:
    for name, class_folder in _class_folders(folder, split):
        if _text(name) in classes:
            for path in _image_files(class_folder):
                identity = _text(Path(os.path.relpath(path, folder)).as_posix())
                yield Record(identity, _text(path), _text(name), Path(path), _text(Path(path).name))


# ---- Parquet ---------------------------------------------------------------------------------------------------------


@class_names.register
def _(source: Parquet) -> list[str]:
    _check_files(source)
    counts = [_label_counts(source, "train", path) for path in source.train]
    return sorted({name for names in counts for name in names if name is not None})


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
    sizes: Counter[str] = Counter()
    for path in source.train:
        sizes.update({name: size for name, size in _label_counts(source, "train", path).items() if name is not None})
    return dict(sizes)


@count.register
def _(source: Parquet, split: Split, classes: Collection[str]) -> int:
    return sum(
        images
        for path in _files(source, split)
        for name, images in _label_counts(source, split, path).items()
        if name is None or name in classes
    )


@records.register
def _(source: Parquet, split: Split, classes: Collection[str]) -> Iterator[Record]:
    return _parquet_records(source, split, classes)


def _files(source: Parquet, split: Split) -> list[str]:
    files = source.train if split == "train" else source.test
    if not files:
        raise SourceError("dataset.source.test: the source has no test images")
    return files


def _check_files(source: Parquet) -> None:
    """Refuse a file that is named twice, and each that is not a Parquet file with the columns."""
    twice = [path for path, times in Counter(map(os.path.realpath, source.files)).items() if times > 1]
    if twice:
        raise SourceError(f"dataset.source: a file is named more than once in train and test: {_some(twice)}")
    for path in source.train:
        _open(source, "train", path).close()
    for path in source.test:
        _open(source, "test", path).close()


def _open(source: Parquet, split: Split, path: str) -> pq.ParquetFile:
    """An open file whose columns are as the settings say."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = f"dataset.source.{split}: {path}"
    if not Path(path).exists():
        where = source.origin or "give the path of a Parquet file"
        raise SourceError(f"{key}: no such file; {where} (a relative one starts at {Path.cwd()})")
    if Path(path).is_dir():
        raise SourceError(f"{key}: a folder; name each of its Parquet files, or take `kind: folder` for class folders")
    try:
        # Buffered without reading ahead: a row group of any size is read in small pieces.
        file = pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        if _is_lfs_pointer(path):
            raise SourceError(f"{key}: a Git LFS pointer, not the data; fetch it with `git lfs pull`") from error
        raise SourceError(f"{key}: not a whole Parquet file ({_first_line(error)}); fetch or make it again") from error
    schema = file.schema_arrow
    for option, column, fits, wanted in (
        ("image_column", source.image_column, _holds_images, "a struct with `bytes`, or plain bytes"),
        ("label_column", source.label_column, _holds_labels, "integers or text"),
    ):
        if schema.names.count(column) != 1:
            raise SourceError(
                f"dataset.source.{option}: {path} has no column {column!r}; it has: {_some(schema.names)}"
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

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


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
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _declared_names(source: Parquet, file: pq.ParquetFile) -> list[str] | None:
    """Class names in the order of the integer labels, as Hugging Face `datasets` leaves them in the schema."""
    try:
        text = (file.schema_arrow.metadata or {})[b"huggingface"]
        names = json.loads(text)["info"]["features"][source.label_column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _class_of(label: int | str | None, names: list[str] | None) -> str | None:
    if isinstance(label, int) and names is not None:
        return names[label] if 0 <= label < len(names) else None  # -1 is the field's mark of a hidden test label
    return None if label is None else str(label)


def _label_counts(source: Parquet, split: Split, path: str) -> dict[str | None, int]:
    """How many rows of one file each class has; None counts those whose label names no class."""
    import pyarrow as pa

    counts: Counter[str | None] = Counter()
    with _open(source, split, path) as file:
        names = _declared_names(source, file)
        try:
            for batch in file.iter_batches(2**16, columns=[source.label_column], use_threads=False):
                for pair in batch.column(source.label_column).value_counts().to_pylist():
                    counts[_class_of(pair["values"], names)] += pair["counts"]
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(split, path, error) from error
    return counts


def _unreadable(split: Split, path: str, error: BaseException) -> SourceError:
    return SourceError(f"dataset.source.{split}: {path}: damaged ({_first_line(error)}); fetch or make it again")


def _paths_identify(source: Parquet, split: Split) -> bool:
    """Whether every image of a split has a path of its own, which then is its id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = []
    for path in _files(source, split):
        with _open(source, split, path) as file:
            kind = file.schema_arrow.field(source.image_column).type
            if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
                return False
            try:
                table = file.read(columns=[f"{source.image_column}.path"], use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(split, path, error) from error
        paths = pc.struct_field(table[source.image_column], "path").cast(pa.large_string())
        if paths.null_count or pc.any(pc.equal(paths, "")).as_py():
            return False
        chunks += paths.chunks
    paths = pa.chunked_array(chunks, pa.large_string())
    return pc.count_distinct(paths).as_py() == len(paths)


def _parquet_records(source: Parquet, split: Split, classes: Collection[str]) -> Iterator[Record]:
    import pyarrow as pa

    by_path = _paths_identify(source, split)
    stems = Counter(Path(path).stem for path in _files(source, split))
    for path in _files(source, split):
        stem = Path(path).stem if stems[Path(path).stem] == 1 else path
        row = -1
        with _open(source, split, path) as file:
            names = _declared_names(source, file)
            columns = [source.image_column, source.label_column]
            try:
                for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
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
