"""Files that are replaced whole: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillery.errors import damaged


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`; what is written there takes the place of `path` at the end.

    A kill or a full disk on the way leaves the old file or none. Two writers never share a temporary name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, with sorted keys."""
    write_bytes(path, (json.dumps(content, sort_keys=True, indent=2) + "\n").encode())


def read_json(path: Path, made_by: str) -> Any:
    """Read what `write_json` wrote."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, made_by, error) from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically, a piece at a time."""
    with replacing(target) as temporary, source.open("rb") as old, temporary.open("wb") as new:
        shutil.copyfileobj(old, new, 2**22)
