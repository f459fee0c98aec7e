"""Pictures that occur more than once in a data set: in two splits, in two classes, or twice in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

SPLITS = ("train", "validation", "test")

KINDS = ("train and test", "train and validation", "validation and test", "two classes", "one class")
"""Where a picture occurs more than once: the first of these that is true."""

EXAMPLES = 5


@dataclass
class Pictures:
    """The images of a data set, in the order of `SPLITS`.

    Attributes:
        ids: unique within a split.
        splits: (N,) int64, positions in `SPLITS`.
        classes: (N,) int64, labels.
        digests: (N,) uint64, equal where all pixels are.
        looks: (N,) uint64, perceptual hashes.
    """

    ids: Sequence[str]
    splits: np.ndarray
    classes: np.ndarray
    digests: np.ndarray
    looks: np.ndarray


class Leaked(NamedTuple):
    """Images of a split that are in an earlier one of `SPLITS` too.

    Attributes:
        images: how many.
        examples: the first of them in words, each with the image that it equals.
    """

    images: int
    examples: list[str]


@dataclass
class Duplicates:
    """What occurs more than once.

    Attributes:
        table: `group`, `kind`, `split`, `class`, `path` and `pixels` (a digest) of every such image.
        leaked: by split.
        pictures: kind that occurs -> number of pictures.
    """

    table: pa.Table
    leaked: dict[str, Leaked]
    pictures: dict[str, int]


def find_duplicates(images: Pictures, class_names: Sequence[str], near: int | None = None) -> Duplicates:
    """The pictures that occur more than once, in the order of the first of each.

    Args:
        class_names: by label.
        near: bits of the perceptual hash in which two images of one picture may differ; None: all pixels are equal.
    """
    picture_of = _pictures(images.digests, None if near is None else images.looks, near or 0)
    rows = np.flatnonzero(np.bincount(picture_of)[picture_of] > 1)
    _, first, group_of = np.unique(picture_of[rows], return_index=True, return_inverse=True)
    group_of = np.argsort(np.argsort(first))[group_of]  # numbered by the first row of each
    rows, group_of = rows[order := np.argsort(group_of, kind="stable")], group_of[order]
    starts = np.flatnonzero(np.diff(group_of, prepend=-1))
    splits, labels = images.splits[rows], images.classes[rows]
    train, validation, test = (np.bincount(group_of, splits == split) > 0 for split in range(len(SPLITS)))
    several = np.zeros(len(starts), bool)
    if len(starts):
        several = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
    kind = np.select([train & test, train & validation, validation & test, several], range(4), 4)
    table = pa.table(
        {
            "group": group_of,
            "kind": _words(kind[group_of], KINDS),
            "split": _words(splits, SPLITS),
            "class": _words(labels, class_names),
            "path": pa.array([images.ids[row] for row in rows.tolist()], pa.string()),
            "pixels": images.digests[rows],
        }
    )
    firsts = starts[group_of]

    def named(row: int) -> str:
        return f"{SPLITS[splits[row]]} {images.ids[int(rows[row])]}"

    leaked = {}
    for split, name in enumerate(SPLITS):
        again = np.flatnonzero((splits == split) & (splits[firsts] < split))
        examples = [f"{named(row)} is {named(firsts[row])}" for row in again[:EXAMPLES].tolist()]
        leaked[name] = Leaked(len(again), examples)
    counts = zip(KINDS, np.bincount(kind, minlength=len(KINDS)).tolist(), strict=True)
    return Duplicates(table, leaked, {name: count for name, count in counts if count})


def _words(numbers: np.ndarray, words: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(words, pa.string())).dictionary_decode()


def _pictures(digests: np.ndarray, looks: np.ndarray | None, bits: int) -> np.ndarray:
    """(N,) the number of the picture that each image shows."""
    _, same = np.unique(digests, return_inverse=True)
    if looks is None:
        return same
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    different, look_of = np.unique(looks, return_inverse=True)
    one, other = _near_pairs(different, bits)
    start = int(same.max(initial=-1)) + 1  # nodes of the graph: digests, then looks
    edges = np.concatenate([same, one + start]), np.concatenate([look_of + start, other + start])
    size = start + len(different)
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(size, size))
    return connected_components(graph, directed=False)[1][same]


def _near_pairs(looks: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the pairs of different hashes that differ in at most so many bits.

    Of `bits + 1` pieces of such a pair at least one is equal: only hashes that share a piece are compared.
    """
    width = 64 // (bits + 1)
    pairs: list[np.ndarray] = [np.empty((2, 0), np.int64)]
    for piece in range(bits + 1):
        key = (looks >> np.uint64(piece * width)) & np.uint64(2**width - 1) if bits else looks
        order = np.argsort(key, kind="stable")
        rows = np.arange(len(order) - 1)
        for distance in range(1, len(order)):
            rows = rows[rows + distance < len(order)]
            rows = rows[key[order[rows]] == key[order[rows + distance]]]
            if not len(rows):
                break
            one, other = order[rows], order[rows + distance]
            close = np.bitwise_count(looks[one] ^ looks[other]) <= bits
            pairs.append(np.stack([one[close], other[close]]))
    one, other = np.concatenate(pairs, axis=1)
    return one, other
