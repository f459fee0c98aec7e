"""Whether the outputs of a network stand in the order of the classes, tested on labelled images."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from distillery.data.reading import ImageTable
from distillery.proportions import wilson_interval
from distillery.spreadsheets import csv_text
from distillery.streams import Key, stream
from distillery.students.networks import Classifier
from distillery.students.training import logits_of

IMAGES_PER_CLASS = 100
IMAGES = 10_000
"""Images that an order is tested on, of each class and of all; at least 20 of each class."""

SIGNIFICANCE = 0.001
"""Probability with which chance alone may make a network look as if its outputs stood in another order."""

CLEAR = 2
"""How many times as often a class and its output have to meet as either of them meets another."""

TOLERATED = 4
"""Of so many classes that change places, one may meet its output less clearly."""


def count_answers(classifier: Classifier, table: ImageTable, key: Key) -> np.ndarray:
    """How often each output is the highest for images of each class.

    Args:
        classifier: of the classes of the table, in any order.
        key: of the stream that the images of a class are drawn from.

    Returns:
        (2, classes, classes) int64, half x label x output, both in the order of the table: the images of each class are
        counted in two halves.
    """
    classes = len(table.classes)
    columns = torch.tensor([classifier.classes.index(name) for name in table.classes])
    most = min(IMAGES_PER_CLASS, max(20, IMAGES // classes))
    drawn: list[np.ndarray] = []
    for label, name in enumerate(table.classes):
        rows = np.flatnonzero(table.labels == label)
        order = torch.randperm(len(rows), generator=stream(*key, "order of outputs", name)).numpy()
        drawn.append(rows[order[:most]])
    rows = np.concatenate(drawn)
    half = np.concatenate([np.arange(len(part)) % 2 for part in drawn])
    by_place = np.argsort(rows)
    counts = np.zeros((2, classes, classes), dtype=np.int64)
    for piece in np.array_split(by_place, -(-len(rows) // 1024)):
        answers = logits_of(classifier, table.pixels(rows[piece])).cpu()[:, columns].argmax(1).numpy()
        np.add.at(counts, (half[piece], table.labels[rows[piece]], answers), 1)
    return counts


def better_order(counts: np.ndarray) -> list[int] | None:
    """The output of each class that explains the images, where it is significantly another one than its own.

    The first half of the images proposes an order, and the second half tests each cycle of classes that change places.
    Among the answers that are either output of the class, a sign test (one-sided, `SIGNIFICANCE` over all cycles)
    compares those for the proposed output with those for the class's own: a network that guesses is not refused. Nor is
    an untrained or a biased one, which answers few outputs to most images: a class and its proposed output have to be
    a clear pair (`CLEAR`), but for one class in `TOLERATED` of a cycle.

    Args:
        counts: as `count_answers` returns.

    Returns:
        An output for each class, or None where the given order stands.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binom

    proposing, testing = counts
    classes = len(proposing)
    # Among orders that explain equally much the given one is taken.
    _, proposed = linear_sum_assignment(proposing * (classes + 1) + np.eye(classes, dtype=np.int64), maximize=True)
    cycles, order = list(_cycles(proposed.tolist())), np.arange(classes)
    for cycle in cycles:
        own, other = testing[cycle, cycle], testing[cycle, proposed[cycle]]
        chance = binom.sf(other.sum() - 1, own.sum() + other.sum(), 0.5)
        beside = testing.copy()
        beside[cycle, proposed[cycle]] = 0
        unclear = other < CLEAR * np.maximum(beside[cycle].max(1), beside[:, proposed[cycle]].max(0))
        if chance < SIGNIFICANCE / len(cycles) and unclear.sum() <= len(cycle) // TOLERATED:
            order[cycle] = proposed[cycle]
    return None if (order == np.arange(classes)).all() else order.tolist()


def _cycles(order: Sequence[int]) -> Iterator[list[int]]:
    """The cycles of a permutation that are longer than one."""
    seen: set[int] = set()
    for start in range(len(order)):
        cycle, place = [], start
        while place not in seen:
            seen.add(place)
            cycle.append(place)
            place = order[place]
        if len(cycle) > 1:
            yield cycle


def compare_orders(counts: np.ndarray, order: Sequence[int], classes: Sequence[str]) -> str:
    """What two orders of the outputs answer, in a clause: the classes that change places and the percentages."""
    counted = counts.sum(0)
    moved = [label for label, output in enumerate(order) if label != output]
    images = counted[moved].sum()
    given, other = (100 * counted[moved, outputs].sum() / images for outputs in (moved, [order[i] for i in moved]))
    names = ", ".join(f"{classes[label]} (answered by the output of {classes[order[label]]})" for label in moved[:10])
    return (
        f"its outputs stand in another order than the classes: {names}{', …' if len(moved) > 10 else ''}; of {images} "
        f"training images of these classes the given order answers {given:.1f} % correctly, the other {other:.1f} %"
    )


def accuracy_by_class(counts: np.ndarray, classes: Sequence[str]) -> bytes:
    """A CSV table: the accuracy of each class, its Wilson interval, and the answer that its images get most often."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "images", "accuracy", "low", "high", "most_frequent_answer", "share"])
    for label, row in enumerate(counts.sum(0)):
        images, answer = max(int(row.sum()), 1), int(row.argmax())
        right, most = row[label] / images, row[answer] / images
        interval = wilson_interval(float(right), int(row.sum()))
        ends = ("" if math.isnan(end) else f"{100 * end:.1f}" for end in interval)
        named, answered = csv_text(classes[label]), csv_text(classes[answer])
        writer.writerow([named, row.sum(), f"{100 * right:.1f}", *ends, answered, f"{100 * most:.1f}"])
    return text.getvalue().encode()
