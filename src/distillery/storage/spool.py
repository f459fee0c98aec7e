"""The only buffer on the disk: a file without a name, which goes with the process that fills it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, overload

import numpy as np

from distillery.errors import BadInput
from distillery.storage.atomic import naming

if TYPE_CHECKING:
    from torch import Tensor

MOST_IN_MEMORY = 2**25
"""Bytes of one set that are kept in memory. A job that joins increments opens many sets."""


MOST_NUMBERS = 2**30
"""Bytes of numbers that are kept in memory."""


def no_room_for_temporary(size: int) -> BadInput:
    """The error of a full folder of temporary files."""
    folder = tempfile.gettempdir()
    return BadInput(f"{folder}: no room for {size / 2**30:.2f} GiB of images; set TMPDIR to a folder that has it")


def mapped_bytes(size: int) -> np.ndarray:
    """Room for so many bytes, (size,) uint8, in the folder of temporary files: the system keeps in memory what is used.

    Raises:
        BadInput: that folder has no room for it.
    """
    with tempfile.TemporaryFile(prefix="distillery-") as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a hole that cannot be filled later ends the process
                os.posix_fallocate(file.fileno(), 0, size)
            elif size > shutil.disk_usage(tempfile.gettempdir()).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            else:
                file.truncate(size)
        except OSError as error:
            raise no_room_for_temporary(size) from error
        return np.memmap(file, np.uint8, "r+", shape=(size,))


def mapped_floats(rows: int, numbers: int) -> Tensor:
    """Room for rows of so many numbers, (rows, numbers) fp32: in memory, or in a file where it is more than 1 GiB.

    Raises:
        BadInput: the folder of temporary files has no room for it.
    """
    import torch

    if 4 * rows * numbers <= MOST_NUMBERS:
        return torch.empty(rows, numbers)
    return torch.from_numpy(mapped_bytes(4 * rows * numbers).view(np.float32)).view(rows, numbers)


class Spool:
    """Pieces of bytes, put once and read often."""

    def __init__(self, folder: Path | None = None, in_memory: int | None = None) -> None:
        """The folder is that of temporary files (`TMPDIR`) unless given; `in_memory` bytes need no file."""
        most = MOST_IN_MEMORY if in_memory is None else in_memory
        self._folder = folder or Path(tempfile.gettempdir())
        # It lives as long as somebody can ask for its pieces, so no block of code can own it.
        self._file = tempfile.SpooledTemporaryFile(most, prefix="distillery-", dir=str(self._folder))  # noqa: SIM115
        if not most:
            self._file.rollover()
        self._end = 0
        self._lock = Lock()

    def __del__(self) -> None:
        self._file.close()

    def put(self, content: bytes) -> tuple[int, int]:
        """Add a piece; its place, for `get`."""
        with naming(self._folder, self._folder):
            self._file.write(content)
        self._end += len(content)
        return self._end - len(content), self._end

    def get(self, start: int, stop: int) -> bytes:
        """The piece at a place; nothing can be put any more."""
        with self._lock:
            self._file.seek(start)
            return self._file.read(stop - start)


class Spooled(Sequence[bytes]):
    """Encoded images that need not fit into the memory.

    What is more than `MOST_IN_MEMORY` lies in a file without a name in the folder of temporary files (`TMPDIR`). A
    choice of images and several sets in one share the files of the sets that they come from.
    """

    def __init__(self, images: Iterable[bytes] = ()) -> None:
        spool = Spool()
        places = (position for image in images for position in (0, *spool.put(image)))
        self._spools, self._places = [spool], np.fromiter(places, np.int64).reshape(-1, 3)

    @classmethod
    def placed(cls, spool: Spool, places: Iterable[tuple[int, int]]) -> Spooled:
        """Images at these places of a buffer."""
        positions = (position for place in places for position in (0, *place))
        return cls._of([spool], np.fromiter(positions, np.int64).reshape(-1, 3))

    @classmethod
    def _of(cls, spools: list[Spool], places: np.ndarray) -> Spooled:
        images = cls.__new__(cls)
        images._spools, images._places = spools, places
        return images

    @classmethod
    def joined(cls, sets: Sequence[Spooled]) -> Spooled:
        """One after another."""
        spools: list[Spool] = []
        places = []
        for images in sets:
            places.append(images._places + np.array([len(spools), 0, 0]))
            spools += images._spools
        return cls._of(spools, np.concatenate(places))

    def take(self, rows: np.ndarray) -> Spooled:
        """The images of these rows, in this order."""
        return self._of(self._spools, self._places[rows])

    def __len__(self) -> int:
        return len(self._places)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Spooled: ...
    def __getitem__(self, index: int | slice) -> bytes | Spooled:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        spool, start, stop = self._places[index].tolist()
        return self._spools[spool].get(start, stop)
