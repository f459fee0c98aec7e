"""The image files of a folder, without the files and folders that systems and tools leave beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from distillery.errors import SourceError

SIDE_NAMES = frozenset(
    {
        *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot"),  # of a NAS
        *("$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("__macosx", "icon\r", "lost+found", "__pycache__"),
    }
)
"""What systems leave in folders, in small letters; whatever begins with a dot is hidden as well."""

OTHER_FILES = frozenset(
    f".{end}"
    for end in (
        *("txt", "json", "jsonl", "xml", "csv", "tsv", "yaml", "yml", "toml", "ini", "cfg", "log", "md", "rst", "html"),
        *("htm", "pdf", "doc", "docx", "xls", "xlsx", "py", "ipynb", "sh", "m", "js", "css", "db", "sqlite", "lock"),
        *("zip", "tar", "gz", "tgz", "bz2", "xz", "zst", "7z", "rar", "md5", "sha1", "sha256", "part", "crdownload"),
        *("npy", "npz", "mat", "pt", "pth", "pkl", "h5", "hdf5", "parquet", "arrow", "lmdb", "tfrecord", "safetensors"),
        *("mp4", "m4v", "mov", "avi", "mkv", "webm", "mp3", "wav", "flac", "ogg"),
    )
)
"""Ends of the names of files that are no images, in small letters. A file of any other name is tried as one."""


@dataclass
class Listing:
    """What lies below a folder.

    Attributes:
        files: paths of the images by name, readable or not, sorted.
        side: what systems leave, by name -> how often.
        other: files that are no images by name, by the end of the name -> how many.
    """

    files: list[str] = field(default_factory=list)
    side: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)


def passed_over(listings: Iterable[Listing]) -> str:
    """What was passed over in some folders, in words; empty where it is nothing."""
    side: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for listing in listings:
        side += listing.side
        other += listing.other
    words = (
        f"{sum(counts.values())} {what} ({', '.join(f'{name}: {times}' for name, times in sorted(counts.items()))})"
        for what, counts in (("side files and folders", side), ("files that are no images by name", other))
        if counts
    )
    return "; ".join(words)


def class_folders(folder: str) -> tuple[list[tuple[str, str]], Listing]:
    """Names and paths of the class folders, sorted, and what lies beside them. Links are followed.

    Raises:
        OSError: the folder cannot be listed.
        SourceError: a link in it leads nowhere: the class that it stands for would be left out.
    """
    folders, beside = [], Listing()
    with os.scandir(folder) as entries:
        for entry in entries:
            if side := _side(entry.name):
                beside.side[side] += 1
            elif _is_folder(entry):
                folders.append((entry.name, entry.path))
            elif entry.is_symlink() and not Path(entry.path).exists():
                raise SourceError(f"{entry.path}: a link that leads nowhere, or to itself; mend it, or remove it")
            else:
                beside.other["outside class folders"] += 1
    return sorted(folders), beside


def files_below(folder: str) -> Listing:
    """What lies below a class folder. Links are followed, but not back to a folder on the way.

    Raises:
        SourceError: a folder cannot be listed.
    """
    listing = Listing()
    waiting: list[tuple[str, tuple[str, ...]]] = [(folder, ())]
    while waiting:
        current, way = waiting.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    if side := _side(entry.name):
                        listing.side[side] += 1
                    elif _is_folder(entry):
                        linked = (*way, os.path.realpath(current)) if entry.is_symlink() else way
                        if entry.is_symlink() and _encloses(entry.path, linked):
                            listing.side["links to a folder above"] += 1
                        else:
                            waiting.append((entry.path, linked))
                    elif (end := Path(entry.name).suffix.lower()) in OTHER_FILES:
                        listing.other[end] += 1
                    else:  # also a pipe or a dangling link: an image that cannot be read
                        listing.files.append(entry.path)
        except OSError as error:
            raise SourceError(f"{current}: cannot be read: {error.strerror}; put its permissions right") from error
    listing.files.sort()
    return listing


def _side(name: str) -> str:
    """What a name is counted as that a system leaves; empty for any other."""
    return "hidden" if name.startswith(".") else name.strip() if name.lower() in SIDE_NAMES else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _encloses(link: str, folders: Iterable[str]) -> bool:
    """Whether a link leads back to one of these folders, or to one that holds it: following it would never end."""
    target = os.path.realpath(link)
    return any(Path(folder).is_relative_to(target) for folder in folders)
