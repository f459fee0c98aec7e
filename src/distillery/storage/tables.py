"""Parquet tables with their provenance.

Parquet has checksums of its pages and none of its footer, which holds names, types and counts: its CRC-32 is in the
metadata, as `crc32`, with the size of the file. A file of another size was written again by another program, which
kept the metadata: its footer is not compared.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distillery.errors import damaged
from distillery.provenance import Provenance
from distillery.storage.atomic import replacing

_EMPTY = b"0" * 20
_CHECKSUM = re.compile(rb"crc32\x18\x14(.{20})", re.DOTALL)
"""As Thrift writes the entry."""


def write_table(path: Path, table: pa.Table, provenance: Provenance) -> None:
    """Write a table as Parquet, atomically; its metadata gains the provenance."""
    described = table.replace_schema_metadata(metadata_of(table, provenance))
    with replacing(path) as temporary, writing_table(temporary, described.schema) as writer:
        writer.write_table(described)


def read_table(path: Path, made_by: str) -> pa.Table:
    """Read a table that `write_table` wrote.

    Raises:
        DamagedArtifact: not a whole Parquet file.
    """
    try:
        verify_footer(path)
        return pq.read_table(path, memory_map=False, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise damaged(path, made_by, str(error).splitlines()[0]) from error


def metadata_of(table: pa.Table, provenance: Provenance) -> dict[bytes, bytes]:
    """The metadata of a table, the provenance, and room for a checksum."""
    about = {b"distillery": json.dumps(provenance, sort_keys=True).encode(), b"crc32": _EMPTY}
    return {**(table.schema.metadata or {}), **about}


@contextmanager
def writing_table(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file to be written a group of rows at a time; checksums reveal a flipped bit.

    Args:
        schema: with the metadata of `metadata_of`.
    """
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        yield writer
    _, position, checksum = _footer_checksum(path)
    with path.open("r+b") as file:
        file.seek(position)
        file.write(checksum)


def verify_footer(path: Path) -> None:
    """Compare the footer of a Parquet file with the checksum that it was written with, if it has one.

    Raises:
        OSError: it cannot be read.
        ValueError: its bytes have changed.
    """
    stated, _, checksum = _footer_checksum(path)
    if stated[8:] == checksum[8:] and stated != checksum:
        raise ValueError("its footer has changed: its CRC-32 is not the crc32 of its metadata")


def _footer_checksum(path: Path) -> tuple[bytes, int, bytes]:
    """The checksum and size that a footer states, their position, and those that it has; empty where it states none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        length = min(int.from_bytes(file.read(4), "little") + 8, size)
        file.seek(size - length)
        footer = file.read()
    if (stated := _CHECKSUM.search(footer)) is None:
        return b"", 0, b""
    start, stop = stated.span(1)
    checksum = zlib.crc32(footer[:start] + _EMPTY + footer[stop:])
    return stated[1], size - length + start, b"%08x%012x" % (checksum, size)
