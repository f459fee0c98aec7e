"""From images of any kind to tables of images of one size and colour, with a reason for each that was left out."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from distillery.data.decode import Fitted, fitted, in_words
from distillery.data.duplicates import SPLITS, Duplicates, Pictures, find_duplicates
from distillery.data.settings import Dataset, Holdout, Validation, images_held_out
from distillery.data.sources import Record, Split, check_digests, class_list, count, passed_over, records_of
from distillery.data.verify import SourceDigest
from distillery.errors import BadInput, SourceError, Unusable
from distillery.ordering import seeded_order
from distillery.progress import Progress
from distillery.provenance import Provenance
from distillery.storage.images import ImageSet, write_images
from distillery.storage.spool import Spool, Spooled
from distillery.storage.tables import write_table

POOL_FROM = 2_000
"""Images from which worker processes pay for their start."""

CHUNK_IMAGES, CHUNK_BYTES = 32, 2**24

MOST_AHEAD = 2**28
"""Bytes of encoded images that wait for the worker processes, and one group more."""

SHOWN_REJECTED = 5

Fit = Callable[[bytes], Fitted]


@dataclass(frozen=True)
class Rejected:
    """An image that was left out.

    Attributes:
        path: where a user finds it.
        reason: why it cannot be used, in a few words.
    """

    path: str
    reason: str


class Tally(NamedTuple):
    """How many images went where.

    Attributes:
        validation: none where the data set has no validation images.
        passed_over: what was not read, in words.
        duplicates: how many pictures occur more than once, by kind (`distillery.data.duplicates`).
    """

    train: int
    validation: int
    test: int
    rejected: int
    passed_over: str
    duplicates: dict[str, int]


Result = tuple[str, Fitted | str]
"""Digest of an encoded image, and the image, or the reason why there is none."""


def _fit_chunk(fit: Fit, chunk: Sequence[Record]) -> list[Result]:
    """What becomes of each record."""
    return [_fit_one(fit, record) for record in chunk]


def _fit_one(fit: Fit, record: Record) -> Result:
    try:
        content = record.read()
    except OSError as error:
        return "", f"cannot be read: {error.strerror or in_words(error)}"
    digest = hashlib.sha256(content).hexdigest()
    try:
        return digest, fit(content) if record.class_name is not None else "its label names no class"
    except Unusable as error:
        return digest, str(error)


def _chunks(source: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in groups that are small in number and in bytes."""
    chunk: list[Record] = []
    size = 0
    for record in source:
        chunk.append(record)
        size += _size(record)
        if len(chunk) == CHUNK_IMAGES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _size(record: Record) -> int:
    """Bytes that a record holds in memory."""
    return len(record.content) if isinstance(record.content, bytes) else 0


def _fitted(source: Iterable[Record], fit: Fit, workers: int) -> Iterator[tuple[Record, Result]]:
    """Each record with what becomes of it, in the order of the source."""
    if workers == 1:
        for chunk in _chunks(source):
            yield from zip(chunk, _fit_chunk(fit, chunk), strict=True)
        return
    # Spawned, not forked: a fork of a process that runs threads (Arrow's, torch's) may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_follow_parent)
    waiting: deque[tuple[list[Record], Future[list[Result]]]] = deque()
    chunks = _chunks(source)
    try:
        while True:
            while len(waiting) < 2 * workers and sum(map(_size, chain(*(group for group, _ in waiting)))) < MOST_AHEAD:
                if not (group := next(chunks, [])):
                    break
                waiting.append((group, pool.submit(_fit_chunk, fit, group)))
            if not waiting:
                return
            chunk, result = waiting.popleft()
            yield from zip(chunk, result.result(), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and end when the parent ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def wait() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# ---- a data set ------------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """One usable image: its place in the table's order, and in the buffer; and what tells its picture from others."""

    label: int
    id: str
    start: int
    stop: int
    digest: int
    look: int


def hold_out(
    ids: Iterable[str],
    class_name: str,
    fraction: float,
    seed: int,
    block: Literal["holdout", "validation"] = "holdout",
) -> set[str]:
    """The images of one class that become test or validation images: `fraction` of them, at least one, and never all.

    Each image has a place in a shuffle that its own id, its class and the seed decide. So neither the order of the
    files nor another class matters, and one image more or less moves at most one other.

    Args:
        ids: stable ids of all images of the class.
        class_name: the class.
        fraction: share to hold out, 0 < fraction < 1.
        seed: of the shuffle.
        block: of the data set; the two have shuffles of their own.

    Raises:
        ValueError: the class has fewer than two images.
    """
    names = list(dict.fromkeys(ids))
    if len(names) < 2:
        raise ValueError(f"class {class_name!r} has {len(names)} image, and two are needed to hold one out")
    order = seeded_order(names, block, seed, class_name)
    return {names[position] for position in order[: images_held_out(len(names), fraction)]}


def ingest_images(
    dataset: Dataset,
    *,
    train: Path,
    test: Path,
    rejected: Path,
    duplicates: Path,
    validation: Path | None = None,
    provenance: Provenance,
    workers: int = 1,
) -> Tally:
    """Write the images of each split of a data set, and the lists of images that cannot be used or occur twice.

    The tables are sorted by label and id, and their bytes do not depend on `workers`. A few images at a time are in
    memory; in between they lie in a nameless file beside `train`, which takes as much of the disk as the tables.

    Args:
        dataset: source, size, colour, classes and split.
        train: image table to write.
        test: image table to write.
        rejected: table with columns `path` and `reason` to write; it is there even if `BadInput` is raised after
            the images were read.
        duplicates: table of `Duplicates` to write; it is there even if `BadInput` is raised for what is in it.
        validation: image table to write, where the data set has validation images.
        provenance: goes into the metadata of the tables; `source` beside it is the digest of all that was read.
        workers: processes that decode.

    Returns:
        How many images went where.

    Raises:
        BadInput: the source or the class list is wrong, too many images were rejected, a class has no image left, or
            too few to hold some out; or too many images of one split are in another one too.
    """
    try:
        classes = class_list(dataset)
        check_digests(dataset.source)
        _check_split(dataset, validation)
        beside = passed_over(dataset.source)
        splits: list[Split] = ["train", "test"] if dataset.source.has_test else ["train"]
        kept: dict[str, list[_Entry]] = {}
        refused: dict[Split, list[Rejected]] = {}
        train.parent.mkdir(parents=True, exist_ok=True)
        _write_rejected(rejected, [], provenance)  # whole tables, also where what follows ends with an error
        write_table(duplicates, _duplicates({}, classes, None).table, provenance)
        digest = SourceDigest()
        spool = Spool(train.parent, in_memory=0)
        for split in splits:
            kept[split], refused[split] = _read(dataset, split, classes, spool, workers, digest)
        bad = [image for split in splits for image in refused[split]]
        _write_rejected(rejected, bad, provenance)
        for split in splits:
            _check_share(dataset, split, len(kept[split]), refused[split], rejected)
        for split in splits:
            _check_classes(split, kept[split], classes, rejected)
        if dataset.holdout is not None:
            kept["train"], kept["test"] = _split(kept["train"], classes, dataset.holdout, "holdout")
        if dataset.validation is not None:
            kept["train"], kept["validation"] = _split(kept["train"], classes, dataset.validation, "validation")
        twice = _duplicates(kept, classes, dataset.near_duplicates)
        write_table(duplicates, twice.table, provenance)
        for name, entries in kept.items():
            _check_leaked(dataset, name, len(entries), twice, duplicates)
        provenance = {**provenance, "source": digest.hexdigest()}
        for name, path in (("train", train), ("test", test), ("validation", validation)):
            if path is not None:
                _write_images(path, kept[name], spool, classes, provenance)
    except SourceError as error:
        raise BadInput(str(error)) from error
    held = len(kept.get("validation", ()))
    return Tally(len(kept["train"]), held, len(kept["test"]), len(bad), beside, twice.pictures)


def _check_split(dataset: Dataset, validation: Path | None) -> None:
    if (dataset.validation is None) != (validation is None):
        raise BadInput("dataset.validation: give this block and a file for its images, or neither")
    if dataset.source.has_test:
        if dataset.holdout is not None:
            raise BadInput("dataset.holdout: the source has test images of its own; remove `holdout` or those")
    elif dataset.holdout is None:
        raise BadInput("dataset.holdout: the source has no test images; say which share of the training images to take")
    for name, block in (("holdout", dataset.holdout), ("validation", dataset.validation)):
        if block is not None and not 0 < block.fraction < 1:
            raise BadInput(
                f"dataset.{name}.fraction: {block.fraction:g} leaves one side empty; take one between 0 and 1"
            )


def _read(
    dataset: Dataset, split: Split, classes: list[str], spool: Spool, workers: int, digest: SourceDigest
) -> tuple[list[_Entry], list[Rejected]]:
    """Put the usable images of a split into the buffer."""
    labels = {name: label for label, name in enumerate(classes)}
    fit = partial(
        fitted,
        resolution=dataset.resolution,
        channels=dataset.channels,
        crop=dataset.crop,
        max_pixels=dataset.max_pixels,
        look=dataset.near_duplicates is not None,
        resample=dataset.resample.test if split == "test" else dataset.resample.train,
    )
    total = count(dataset.source, split, labels)
    entries: list[_Entry] = []
    bad: list[Rejected] = []
    with Progress(f"reading {split} images", total, "image") as progress:
        source = records_of(dataset, split, labels)
        for record, (content, result) in _fitted(source, fit, workers if total >= POOL_FROM else 1):
            digest.add(split, record, content)
            if isinstance(result, str):
                bad.append(Rejected(record.origin, result))
            else:
                assert record.class_name is not None
                place = spool.put(result.content)
                entries.append(_Entry(labels[record.class_name], record.id, *place, result.digest, result.look))
            progress.advance()
    return sorted(entries), bad


def _check_share(dataset: Dataset, split: Split, usable: int, bad: list[Rejected], table: Path) -> None:
    """Refuse a split of which too much was rejected, or nothing is left."""
    total = usable + len(bad)
    if not total and split == "test" and dataset.test_names is not None:
        raise BadInput(f"dataset.test_names: no test image has a file name that begins with {dataset.test_names!r}")
    if len(bad) > dataset.max_rejected * total:
        first = "; ".join(f"{image.path}: {image.reason}" for image in bad[:SHOWN_REJECTED])
        raise BadInput(
            f"dataset.max_rejected: {len(bad)} of {total} {split} images ({len(bad) / total:.1%}) cannot be used, and"
            f" {dataset.max_rejected:.1%} may be: {first}{'; …' if len(bad) > SHOWN_REJECTED else ''}."
            f" {table} names all of them. Repair or remove them, or raise dataset.max_rejected"
        )


def _check_classes(split: Split, entries: list[_Entry], classes: list[str], table: Path) -> None:
    """Refuse a split in which a class has no image."""
    present = {entry.label for entry in entries}
    empty = [name for label, name in enumerate(classes) if label not in present]
    if empty:
        names = ", ".join(map(repr, empty[:SHOWN_REJECTED])) + (", …" if len(empty) > SHOWN_REJECTED else "")
        raise BadInput(
            f"dataset.source.{split}: {len(empty)} of {len(classes)} classes have no usable image: {names}."
            f" {table} names what was rejected. Add images, or leave these classes out of dataset.classes"
        )


def _split(
    entries: list[_Entry], classes: list[str], block: Holdout | Validation, name: Literal["holdout", "validation"]
) -> tuple[list[_Entry], list[_Entry]]:
    """The images that are left, and those that a block of the data set holds out of each class."""
    by_class: dict[int, list[str]] = {}
    for entry in entries:
        by_class.setdefault(entry.label, []).append(entry.id)
    held: set[tuple[int, str]] = set()
    for label, ids in by_class.items():
        try:
            held.update((label, id) for id in hold_out(ids, classes[label], block.fraction, block.seed, name))
        except ValueError as error:
            raise BadInput(f"dataset.{name}: {error}; add images or leave it out of dataset.classes") from error
    return (
        [entry for entry in entries if (entry.label, entry.id) not in held],
        [entry for entry in entries if (entry.label, entry.id) in held],
    )


def _duplicates(kept: dict[str, list[_Entry]], classes: list[str], near: int | None) -> Duplicates:
    """The pictures that occur more than once."""
    splits = [kept.get(split, []) for split in SPLITS]
    entries = [*chain(*splits)]
    pictures = Pictures(
        [entry.id for entry in entries],
        np.repeat(np.arange(len(SPLITS)), [len(split) for split in splits]),
        np.fromiter((entry.label for entry in entries), np.int64),
        np.fromiter((entry.digest for entry in entries), np.uint64),
        np.fromiter((entry.look for entry in entries), np.uint64),
    )
    return find_duplicates(pictures, classes, near)


def _check_leaked(dataset: Dataset, split: str, images: int, twice: Duplicates, table: Path) -> None:
    """Refuse a split of which too many images are in an earlier one too: training, validation, test."""
    leaked, examples = twice.leaked[split]
    if leaked > dataset.max_leaked * images:
        earlier = "training or validation" if split == "test" and dataset.validation is not None else "training"
        raise BadInput(
            f"dataset.max_leaked: {leaked} of {images} {split} images ({leaked / images:.1%}) are {earlier} images too,"
            f" and {dataset.max_leaked:.1%} may be: {'; '.join(examples)}{'; …' * (leaked > len(examples))}."
            f" {table} names all of them. Remove them on one side, or raise dataset.max_leaked"
        )


def _write_rejected(path: Path, bad: list[Rejected], provenance: Provenance) -> None:
    columns = {
        "path": pa.array([image.path for image in bad], pa.string()),
        "reason": pa.array([image.reason for image in bad], pa.string()),
    }
    write_table(path, pa.table(columns), provenance)


def _write_images(path: Path, entries: list[_Entry], spool: Spool, classes: list[str], provenance: Provenance) -> None:
    images = Spooled.placed(spool, ((entry.start, entry.stop) for entry in entries))
    labels = np.fromiter((entry.label for entry in entries), np.int64)
    write_images(path, ImageSet(images, labels, classes, [entry.id for entry in entries]), provenance)
