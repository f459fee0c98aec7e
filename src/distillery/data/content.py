"""Whether an input has changed: digests of files and of folders that differ when what is in them differs.

They are taken at every start, so what is read is bounded. A file of up to `WHOLE_BYTES` is read as a whole, of a
larger one its size and pieces throughout it. A folder of up to `WHOLE_FILES` files that have up to `WHOLE_BYTES`
together is read as a whole: other times, or another place, change nothing. Of a larger folder each file has its
name, size, time of change in nanoseconds, and the place that a link leads to; beyond `MOST_STATED` files it is every
n-th of them, in the order of their names. `python -m distillery.data.verify` reads everything.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

from distillery.storage.files import irregular

T = TypeVar("T")

WHOLE_BYTES, WHOLE_FILES = 2**28, 50_000
MOST_STATED = 2_000_000
PIECE, PIECES = 2**14, 256
THREADS, BATCH = 16, 500


def files_digest(paths: Sequence[str]) -> str:
    """A digest of some files, in this order; empty where there are none."""
    return _joined(_each(paths, _of_file)) if paths else ""


def folder_digest(root: str, files: Sequence[str], whole: int = WHOLE_BYTES) -> str:
    """A digest of a folder.

    Args:
        files: paths that begin with `root`, in an order that depends on their names alone.
        whole: bytes up to which a folder is read as a whole.
    """
    step = max(-(-len(files) // MOST_STATED), 1)
    total, statuses = 0, hashlib.sha256()
    for size, status in _each(files[::step], _status):
        total += size
        statuses.update(os.fsencode(status) + b"\0")
    facts: Iterable[str]
    if step == 1 and len(files) <= WHOLE_FILES and total <= whole:
        facts = _each(files, _of_whole)
    else:
        folders = sorted({path.rpartition("/")[0] for path in files})
        start = "/" if Path(root).is_absolute() else os.path.realpath(".")
        facts = [statuses.hexdigest(), *(os.path.relpath(os.path.realpath(folder), start) for folder in folders)]
    return _joined(chain((path.removeprefix(root) for path in files), [""], facts))


def _joined(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(os.fsencode(line) + b"\0")
    return digest.hexdigest()[:16]


def _each(paths: Sequence[str], of: Callable[[str], T]) -> Iterator[T]:
    """The answers for all paths, in their order; threads ask, as a network file system is slow to answer each."""
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with ThreadPoolExecutor(THREADS) as pool:
        for answers in pool.map(lambda batch: [of(path) for path in batch], batches):
            yield from answers


def _status(path: str) -> tuple[int, str]:
    """Size, and size, time of change and place of a link; what the system says of a file that cannot be asked."""
    try:
        about = os.lstat(path)
        target = str(Path(path).readlink()) if stat.S_ISLNK(about.st_mode) else ""
        about = Path(path).stat() if target else about
    except OSError as error:
        return 0, str(error.errno)
    return about.st_size, f"{about.st_size} {about.st_mtime_ns} {target}"


def _of_whole(path: str) -> str:
    """The digest of all that a file holds."""
    try:
        if irregular(Path(path).stat().st_mode):  # a pipe would never end
            return "no file"
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return str(error.errno)


def _of_file(path: str) -> str:
    """The digest of a small file, or the size and pieces of a large one; the last bytes are one of them."""
    try:
        about = Path(path).stat()
        if about.st_size <= WHOLE_BYTES or irregular(about.st_mode):
            return _of_whole(path)
        digest = hashlib.sha256(str(about.st_size).encode())
        with Path(path).open("rb", buffering=0) as file:
            for piece in range(PIECES):
                file.seek(piece * (about.st_size - PIECE) // (PIECES - 1))
                digest.update(file.read(PIECE))
    except OSError as error:
        return str(error.errno)
    return digest.hexdigest()
