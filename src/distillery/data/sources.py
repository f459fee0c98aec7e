"""All sources of labelled images: the built-in digits, class folders, Parquet files; and the classes of a data set."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from distillery.data import digits, folders, parquet
from distillery.data.identity import same_class, spelled, twice_alike, unprintable, written_alike
from distillery.data.settings import Dataset, Source
from distillery.data.source import (
    Record,
    Split,
    check_digests,
    class_sizes,
    content_digest,
    count,
    names_of,
    passed_over,
    records,
    shown,
)
from distillery.errors import SourceError

KINDS = (digits, folders, parquet)
"""Each module registers the answers of its kind."""

SHOWN_MISSING = 3
"""So many classes that are not in the data have a line each."""

__all__ = [
    "Record",
    "Split",
    "check_digests",
    "class_faults",
    "class_list",
    "class_names",
    "class_sizes",
    "content_digest",
    "count",
    "passed_over",
    "records",
    "records_of",
]


def class_names(source: Source) -> list[str]:
    """Names of the classes of the training images, in the order of their labels. No image is read.

    Class folders are in plain order of text, in which "10" precedes "2", as in torchvision's `ImageFolder`: hence of
    labels and soft labels that others have published. The classes of Parquet files are in the order that the files
    declare, or that of their numbers; labels of text are sorted.

    Raises:
        SourceError: a folder or file of either split is missing or not what it should be; or a class of the test images
            is written almost as a training class, so that it would be left out.
    """
    names = names_of(source, "train")
    if source.has_test and (alike := written_alike(names_of(source, "test"), names)):
        raise SourceError(f"dataset.source.test: {alike}; give the class one name in train and test")
    return names


def class_faults(dataset: Dataset, known: Sequence[str]) -> Iterator[str]:
    """What is wrong with the classes of a data set, a line each.

    Args:
        known: the classes of its source.
    """
    wanted = dataset.classes
    used = list(known) if wanted is None else [name for name in (same_class(name, known) for name in wanted) if name]
    if wanted is None:
        if len(known) == 1:
            yield f"dataset.source.train: holds one class, {known[0]!r}; at least two are needed"
        if alike := twice_alike(known):
            yield f"dataset.source.train: {alike}; give one class one name, or list both in dataset.classes"
    else:
        yield from _missing(wanted, known)
        if twice := [name for name, times in Counter(used).items() if times > 1]:
            yield f"dataset.classes: {shown(twice)} stands there more than once"
    if unseen := [spelled(name) for name in used if unprintable(name)]:
        yield (
            f"dataset.source.train: class {unseen[0]}: a control character in the name, or nothing that can be seen, "
            "and tables and figures show it; rename it"
        )


def _missing(wanted: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """The wanted classes that the source lacks."""
    missing = [name for name in wanted if same_class(name, known) is None]
    if len(missing) > SHOWN_MISSING:
        among = ", ".join(map(repr, missing[:SHOWN_MISSING]))
        yield (
            f"dataset.classes: {len(missing)} of {len(wanted)} are not in the data, {among} among them; "
            f"there are: {', '.join(known[:20])}"
        )
        return
    for name in missing:
        close = difflib.get_close_matches(name, known, n=3)
        others = f"close: {', '.join(close)}" if close else f"there are: {', '.join(known[:20])}"
        yield f"dataset.classes: no class {name!r} in the data; {written_alike([name], known) or others}"


def records_of(dataset: Dataset, split: Split, classes: Collection[str]) -> Iterator[Record]:
    """The images of a data set: `records`, of test images those that `dataset.test_names` keeps."""
    begins = dataset.test_names if split == "test" else None
    images = records(dataset.source, split, classes)
    return images if begins is None else (record for record in images if record.name.startswith(begins))


def class_list(dataset: Dataset) -> list[str]:
    """The classes of a data set in the order of their labels: those of `dataset.classes`, or all (`class_names`).

    Raises:
        SourceError: a fault of the class list, or as `class_names`.
    """
    known = class_names(dataset.source)
    for fault in class_faults(dataset, known):
        raise SourceError(fault)
    return known if dataset.classes is None else [str(same_class(name, known)) for name in dataset.classes]
