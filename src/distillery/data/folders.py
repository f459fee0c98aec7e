"""Class folders as a source: a folder that holds one folder of images per class."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from distillery.data.content import WHOLE_BYTES, folder_digest
from distillery.data.settings import Folder
from distillery.data.source import (
    Record,
    Split,
    class_names,
    class_sizes,
    content_digest,
    count,
    no_test_images,
    records,
)
from distillery.errors import SourceError

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of folders that hold class folders; no data set has nothing but such classes."""


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


@content_digest.register
def _(source: Folder, whole: int = WHOLE_BYTES) -> str:
    splits: dict[Split, str] = {"train": source.train, **({"test": source.test} if source.test is not None else {})}
    files = {
        split: [path for _, class_folder in _class_folders(folder, split) for path in _image_files(class_folder)]
        for split, folder in splits.items()
    }
    return " ".join(folder_digest(folder, files[split], whole) for split, folder in splits.items())


def _folder(source: Folder, split: Split) -> str:
    folder = source.train if split == "train" else source.test
    if folder is None:
        raise no_test_images()
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
