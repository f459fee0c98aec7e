"""The encoded images of a set, one after another: a few in memory, many in a file that goes with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import overload

import numpy as np

MOST_IN_MEMORY = 2**25
"""Bytes of one set that are kept in memory. A job that joins increments opens many sets."""


class _Spool:
    """Bytes, put once and read often."""

    def __init__(self) -> None:
        # It lives as long as somebody can ask for its images, so no block of code can own it.
        self._file = tempfile.SpooledTemporaryFile(MOST_IN_MEMORY, prefix="distillery-")  # noqa: SIM115
        self._lock = Lock()

    def __del__(self) -> None:
        self._file.close()

    def put(self, content: bytes) -> None:
        self._file.write(content)

    def get(self, start: int, stop: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(stop - start)


class Spooled(Sequence[bytes]):
    """Encoded images that need not fit into the memory.

    What is more than `MOST_IN_MEMORY` lies in a file without a name in the folder of temporary files (`TMPDIR`). A
    choice of images and several sets in one share the files of the sets that they come from.
    """

    def __init__(self, images: Iterable[bytes] = ()) -> None:
        spool, ends = _Spool(), [0]
        for image in images:
            spool.put(image)
            ends.append(ends[-1] + len(image))
        self._spools = [spool]
        self._places = np.array([np.zeros(len(ends) - 1, np.int64), ends[:-1], ends[1:]]).T

    @classmethod
    def _of(cls, spools: list[_Spool], places: np.ndarray) -> Spooled:
        made = cls.__new__(cls)
        made._spools, made._places = spools, places
        return made

    @classmethod
    def joined(cls, sets: Sequence[Spooled]) -> Spooled:
        """One after another."""
        spools: list[_Spool] = []
        places = []
        for one in sets:
            places.append(one._places + np.array([len(spools), 0, 0]))
            spools += one._spools
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
