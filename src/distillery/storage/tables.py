"""Parquet tables with their provenance."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distillery.errors import damaged
from distillery.provenance import Provenance
from distillery.storage.atomic import replacing


def write_table(path: Path, table: pa.Table, provenance: Provenance) -> None:
    """Write a table as Parquet, atomically; its metadata gains the provenance."""
    with replacing(path) as temporary:
        described = table.replace_schema_metadata(metadata_of(table, provenance))
        pq.write_table(described, temporary, compression="zstd", write_page_checksum=True)


def read_table(path: Path, made_by: str) -> pa.Table:
    """Read a table that `write_table` wrote.

    Raises:
        DamagedArtifact: not a whole Parquet file.
    """
    try:
        return pq.read_table(path, memory_map=False, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, made_by, str(error).splitlines()[0]) from error


def metadata_of(table: pa.Table, provenance: Provenance) -> dict[bytes, bytes]:
    """The metadata of a table, and the provenance."""
    return {**(table.schema.metadata or {}), b"distillery": json.dumps(provenance, sort_keys=True).encode()}


def writing_table(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet file to be written a group of rows at a time; checksums of its pages reveal a flipped bit."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
