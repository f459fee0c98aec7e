"""Class folders as a source: a folder that holds one folder of images per class."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path

from distillery.data import listing
from distillery.data.content import WHOLE_BYTES, folder_digest
from distillery.data.listing import files_below
from distillery.data.settings import Folder
from distillery.data.source import (
    Record,
    Split,
    class_sizes,
    content_digest,
    count,
    names_of,
    no_test_images,
    passed_over,
    records,
)
from distillery.errors import SourceError
from distillery.storage.files import no_file

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of folders that hold class folders; no data set has nothing but such classes."""


@names_of.register
def _(source: Folder, split: Split) -> list[str]:
    if split == "test":
        return [name for name, _ in _class_folders(_folder(source, split), split, source.origin)]
    names = [name for name, _ in _class_folders(source.train, "train", source.origin)]
    if source.test is not None and os.path.realpath(source.test) == os.path.realpath(source.train):
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
    return {name: len(files_below(path).files) for name, path in _class_folders(source.train, "train")}


@count.register
def _(source: Folder, split: Split, classes: Collection[str]) -> int:
    folders = _class_folders(_folder(source, split), split)
    return sum(len(files_below(folder).files) for name, folder in folders if name in classes)


@records.register
def _(source: Folder, split: Split, classes: Collection[str]) -> Iterator[Record]:
    return _folder_records(_folder(source, split), split, classes)


@content_digest.register
def _(source: Folder, whole: int = WHOLE_BYTES) -> str:
    digests = []
    for split, folder in _splits(source).items():
        try:
            files = [path for _, below in _class_folders(folder, split) for path in files_below(below).files]
        except SourceError as error:  # whoever reads the folder says so, in one line
            return str(error)
        digests.append(folder_digest(folder, files, whole))
    return " ".join(digests)


@passed_over.register
def _(source: Folder) -> str:
    return listing.passed_over(_listings(source))


def _listings(source: Folder) -> Iterator[listing.Listing]:
    """What lies beside the class folders, and below each of them."""
    for split, folder in _splits(source).items():
        folders = _class_folders(folder, split)
        yield listing.class_folders(folder)[1]
        for _, path in folders:
            yield files_below(path)


def _splits(source: Folder) -> dict[Split, str]:
    return {"train": source.train, **({"test": source.test} if source.test is not None else {})}


def _folder(source: Folder, split: Split) -> str:
    folder = source.train if split == "train" else source.test
    if folder is None:
        raise no_test_images()
    return folder


def _text(name: str) -> str:
    """A file name as text that UTF-8 can hold: a name of other bytes is shown with escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _class_folders(folder: str, split: Split, origin: str | None = None) -> list[tuple[str, str]]:
    """Names, as text, and paths of the class folders, sorted."""
    key = f"dataset.source.{split}: {folder}"
    try:
        folders, _ = listing.class_folders(folder)
    except FileNotFoundError:
        where = origin or "give the folder that holds one folder of images per class"
        where += "; ~ does not stand for the home folder here" if folder.startswith("~") else ""
        raise SourceError(f"{key}: no such folder; {where} (a relative path starts at {Path.cwd()})") from None
    except OSError as error:
        if (what := no_file(folder) or "a file") == "a folder":
            raise SourceError(f"{key}: cannot be read: {error.strerror}; put its permissions right") from error
        raise SourceError(f"{key}: {what}; give the folder that holds one folder of images per class") from error
    except SourceError as error:
        raise SourceError(f"dataset.source.{split}: {error}") from error
    if not folders:
        raise SourceError(f"{key}: holds no class folder; give the folder that holds one folder of images per class")
    named = sorted((_text(name), path) for name, path in folders)
    for (name, path), (other, again) in pairwise(named):
        if name == other:  # bytes that are no text, and a text that shows them
            raise SourceError(f"{key}: {path!r} and {again!r} are both class {name!r}; rename one")
    return named


def _folder_records(folder: str, split: Split, classes: Collection[str]) -> Iterator[Record]:
    for name, class_folder in _class_folders(folder, split):
        if name in classes:
            for path in files_below(class_folder).files:
                identity = _text(Path(os.path.relpath(path, folder)).as_posix())
                yield Record(identity, _text(path), name, Path(path), _text(Path(path).name))
