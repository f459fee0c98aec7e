"""Whether the images that a table was made from are unchanged: `python -m distillery.data.verify …/data/train.parquet`.

Every image is read and compared with what `ingest` read, whatever the times and sizes of the files are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from distillery.data.settings import Dataset
from distillery.data.sources import Record, Split, class_list, records_of
from distillery.errors import BadInput, DamagedArtifact, SourceError, damaged
from distillery.processes import accept_all_characters
from distillery.storage.atomic import parse_json

BATCH, THREADS = 256, 16


class SourceDigest:
    """A digest of all images of a source, in the order in which they are read."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, split: Split, record: Record, content: str) -> None:
        """Add an image, by `digest_of` its file."""
        self._digest.update(f"{split}\0{record.id}\0{content}\0".encode())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def digest_of(record: Record) -> str:
    """The digest of an encoded image; empty for one that cannot be read."""
    try:
        return hashlib.sha256(record.read()).hexdigest()
    except OSError:
        return ""


def _batches(images: Iterator[Record]) -> Iterator[list[Record]]:
    """Images in groups that fit into memory together."""
    while batch := list(islice(images, BATCH)):
        yield batch


def verify(table: Path) -> bool:
    """Whether the source of a table of `ingest` holds what it held then.

    Raises:
        BadInput: the source is not there any more, or not what its settings say.
        DamagedArtifact: not such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = parse_json((pq.read_schema(table).metadata or {})[b"distillery"])
        dataset = Dataset.model_validate_json(json.dumps(json.loads(about["settings"])["dataset"]))
        known = about["source"]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise damaged(table, "ingest", error) from error
    digest = SourceDigest()
    try:
        classes = class_list(dataset)
        splits: Sequence[Split] = ("train", "test") if dataset.source.has_test else ("train",)
        with ThreadPoolExecutor(THREADS) as pool:
            for split in splits:
                for batch in _batches(records_of(dataset, split, classes)):
                    for record, content in zip(batch, pool.map(digest_of, batch), strict=True):
                        digest.add(split, record, content)
    except SourceError as error:
        raise BadInput(str(error)) from error
    return digest.hexdigest() == known


def main(paths: Sequence[str]) -> int:
    """Say of each table whether its source is unchanged; the exit status is 1 if one is not."""
    accept_all_characters()
    if not paths or paths[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    changed = 0
    for path in paths:
        try:
            same = verify(Path(path))
        except (BadInput, DamagedArtifact) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        changed |= not same
        way_out = "the images are others than those it was made from; run again with `--forcerun ingest`"
        print(f"{path}: {'unchanged' if same else way_out}")
    return int(changed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
