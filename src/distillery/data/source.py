"""What is asked of every source of labelled images, whatever it is made of.

A source is read lazily and in an order that depends on names alone, so that a data set larger than the memory passes
through, and so that two machines with the same files see the same records. Each kind has a module of its own, which
registers its answers; `distillery.data.sources` knows all of them.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Literal

from distillery.data.content import WHOLE_BYTES, files_digest
from distillery.data.settings import Source
from distillery.errors import SourceError
from distillery.storage.files import irregular

Split = Literal["train", "test"]

SHOWN_NAMES = 10

MOST_BYTES = 2**28
"""A larger file is no image that anybody trains on, and is not read."""


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
        about = self.content.stat()
        if kind := irregular(about.st_mode):  # reading a pipe would never end
            raise OSError(errno.EINVAL, kind)
        if about.st_size > MOST_BYTES:  # an archive, a film: it would be read whole
            raise OSError(errno.EFBIG, f"larger than {MOST_BYTES // 2**20} MiB")
        return self.content.read_bytes()


@singledispatch
def names_of(source: Source, split: Split) -> list[str]:
    """Names of the classes of a split, in the order of their labels. No image is read.

    Raises:
        SourceError: a folder or file of either split is missing or not what it should be; or two classes have one name.
    """
    raise TypeError(f"{type(source).__name__}: no source of images")


@singledispatch
def class_sizes(source: Source) -> dict[str, int]:
    """Class -> number of training images, readable or not, before any is held out. No image is read.

    Raises:
        SourceError: as `names_of`.
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
        SourceError: as `names_of`; or a Parquet file is damaged.
    """
    raise TypeError(f"{type(source).__name__}: no source of images")


@singledispatch
def check_digests(source: Source) -> None:
    """Compare files with the sha256 that the settings name.

    Raises:
        SourceError: a file is another one, or none of the source.
    """


@singledispatch
def content_digest(source: Source, whole: int = WHOLE_BYTES) -> str:
    """A digest that changes with what is in the files of a source (`distillery.data.content`); empty without files.

    Args:
        whole: bytes up to which a folder is read as a whole.
    """
    return files_digest(source.files)


@singledispatch
def passed_over(source: Source) -> str:
    """The files beside the images of a source that are not read, counted, in words; empty where there are none.

    Raises:
        SourceError: as `names_of`.
    """
    return ""


def shown(names: Sequence[str]) -> str:
    """Names for a message, the first of many."""
    first = ", ".join(map(repr, names[:SHOWN_NAMES]))
    return first if len(names) <= SHOWN_NAMES else f"{first}, … ({len(names)} in all)"


def no_test_images() -> SourceError:
    """The error of a source that is asked for test images and has none."""
    return SourceError("dataset.source.test: the source has no test images")
