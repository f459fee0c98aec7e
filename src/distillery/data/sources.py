"""All sources of labelled images: the built-in digits, class folders, Parquet files; and the classes of a data set."""

from __future__ import annotations

from collections import Counter

from distillery.data import digits, folders, parquet
from distillery.data.identity import same_class
from distillery.data.settings import Dataset
from distillery.data.source import (
    Record,
    Split,
    check_digests,
    class_names,
    class_sizes,
    content_digest,
    count,
    passed_over,
    records,
    shown,
)
from distillery.errors import SourceError

KINDS = (digits, folders, parquet)
"""Each module registers the answers of its kind."""

__all__ = [
    "Record",
    "Split",
    "check_digests",
    "class_list",
    "class_names",
    "class_sizes",
    "content_digest",
    "count",
    "passed_over",
    "records",
]


def class_list(dataset: Dataset) -> list[str]:
    """The classes of a data set in the order of their labels.

    Without `dataset.classes` it is the plain order of text, in which "10" precedes "2": it is the order of
    torchvision's `ImageFolder`, hence of labels and soft labels that others have published.

    Raises:
        SourceError: a class that the source lacks or that is named twice, fewer than two classes, or as `class_names`.
    """
    known = class_names(dataset.source)
    if dataset.classes is None:
        if len(known) < 2:
            raise SourceError(
                f"dataset.source.train: {len(known)} classes found ({shown(known)}), at least two are needed"
            )
        return known
    meant = {name: same_class(name, known) for name in dataset.classes}
    missing = sorted(name for name, same in meant.items() if same is None)
    if missing:
        raise SourceError(
            f"dataset.classes: not in dataset.source.train: {shown(missing)}; the classes there are: {shown(known)}"
        )
    named = [str(meant[name]) for name in dataset.classes]
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        raise SourceError(f"dataset.classes: named more than once: {shown(twice)}")
    return named
