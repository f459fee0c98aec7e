"""Parts of a set: increments as they grew, random disjoint parts of equal size otherwise."""

from __future__ import annotations

import numpy as np

from distillery.analysis.parts import parts_of, slots_by_id

CLASSES = ["a", "b", "c"]
LABELS = np.repeat(np.arange(3), 6)
SLOTS = np.tile(np.arange(6), 3)


def cut(size: int = 2, seed: int = 0, increments: bool = False) -> np.ndarray:
    return parts_of(LABELS, SLOTS, CLASSES, size, increments=increments, seed=seed)


def test_a_set_that_grew_in_increments_is_cut_by_slot() -> None:
    assert (cut(increments=True) == SLOTS // 2).all()


def test_random_parts_are_disjoint_and_hold_as_many_images_of_every_class() -> None:
    for part in range(3):
        assert np.bincount(LABELS[cut() == part]).tolist() == [2, 2, 2]


def test_the_cut_is_random_and_keyed_by_the_seed_alone() -> None:
    assert (cut() != SLOTS // 2).any()
    assert (cut() == cut()).all()
    assert (cut() != cut(seed=1)).any()


def test_classes_are_cut_independently() -> None:
    by_class = cut().reshape(3, 6)
    assert (by_class[0] != by_class[1]).any() or (by_class[0] != by_class[2]).any()


def test_the_order_of_the_rows_does_not_change_the_part_of_an_image() -> None:
    order = np.random.default_rng(0).permutation(len(LABELS))
    shuffled = parts_of(LABELS[order], SLOTS[order], CLASSES, 2, increments=False, seed=0)
    assert (shuffled == cut()[order]).all()


def test_images_that_fill_no_part_are_left_over() -> None:
    parts = cut(size=4)
    assert sorted(set(parts.tolist())) == [-1, 0]
    assert (parts == 0).sum() == 12


def test_the_smallest_class_says_how_many_parts_there_are() -> None:
    few = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    parts = parts_of(few, np.array([0, 1, 2, 3, 0, 1, 0, 1, 2, 3]), CLASSES, 2, increments=False, seed=0)
    assert parts.max() == 0 and (parts == 0).sum() == 6


def test_a_set_smaller_than_a_part_has_none() -> None:
    assert (cut(size=7) == -1).all()


def test_images_without_slots_have_places_by_the_order_of_their_ids() -> None:
    labels, ids = np.array([1, 0, 1, 0, 1]), ["c", "z", "a", "y", "b"]
    assert slots_by_id(labels, ids).tolist() == [2, 1, 0, 0, 1]
