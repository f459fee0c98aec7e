"""Files that are replaced whole: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillery.errors import damaged
from distillery.processes import remove_abandoned, temporary_name

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def naming(path: Path, temporary: Path) -> Iterator[None]:
    """Let the error of a disk that takes no more name `path`: that of a write names none, others a temporary file."""
    try:
        yield
    except OSError as error:
        if error.filename == str(temporary) or (error.filename is None and error.errno in _CANNOT_WRITE):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`; the file that is written there takes the place of `path` at the end.

    A kill or a full disk on the way leaves the old file or none. Two writers never share a temporary name, and the next
    one removes the file that a killed writer left.

    Raises:
        OSError: it cannot be written; its `filename` is the path.
    """
    temporary = temporary_name(path)
    try:
        with naming(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # on a disk that takes no change, the reason is told already
            temporary.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove a file that is needed no more, if it is there, and what killed writers of it left."""
    path.unlink(missing_ok=True)
    remove_abandoned(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, with sorted keys."""
    write_bytes(path, (json.dumps(content, sort_keys=True, indent=2) + "\n").encode())


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: Path, made_by: str, *keys: str) -> Any:
    """Read what `write_json` wrote: an object that has these keys.

    Raises:
        DamagedArtifact: it cannot be read, or a key is missing.
    """
    try:
        content = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, made_by, error) from error
    if missing := [key for key in keys if key not in content]:
        raise damaged(path, made_by, f"no key {', '.join(missing)}")
    return content


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically, a piece at a time."""
    with replacing(target) as temporary, source.open("rb") as old, temporary.open("wb") as new:
        shutil.copyfileobj(old, new, 2**22)
