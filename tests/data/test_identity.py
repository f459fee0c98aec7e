"""A class is what it is called: by a fixed table of wnids or a generator's own names, never by the order of folders."""

from __future__ import annotations

import pytest

from distillery.data.identity import (
    class_list_called,
    class_lists,
    conditions,
    imagenet_id2label,
    imagenet_index,
    imagenet_names,
    same_class,
    wnid_of,
)
from distillery.data.settings import Dataset, Digits, Holdout
from distillery.errors import UnknownClass


def test_the_table_is_sorted_by_wnid_and_its_places_are_the_published_ones() -> None:
    wnids = list(imagenet_names())
    assert len(wnids) == 1000
    assert wnids == sorted(wnids)
    for wnid, index in {"n01440764": 0, "n02102040": 217, "n03888257": 701, "n13037406": 993}.items():
        assert imagenet_index(wnid) == index


@pytest.mark.parametrize(
    ("key", "first", "last", "count"),
    [
        ("imagenette", "n01440764", "n03888257", 10),
        ("woof", "n02096294", "n02105641", 10),
        ("ImageNet-100", "n02869837", "n02090622", 100),
        ("imagemeow", "n02123045", "n02128925", 10),
        ("imagenet1k", "n01440764", "n15075141", 1000),
    ],
)
def test_a_published_list_has_its_order(key: str, first: str, last: str, count: int) -> None:
    wnids = class_list_called(key)
    assert (len(wnids), len(set(wnids))) == (count, count)
    assert set(wnids) <= set(imagenet_names())
    if key != "imagemeow":
        assert (wnids[0], wnids[-1]) == (first, last)


def test_imageidc_is_the_beginning_of_imagenet100() -> None:
    assert class_lists()["imagenet100"][:10] == class_lists()["imageidc"]


def test_a_list_may_be_named_in_an_experiment_and_a_wrong_name_is_refused() -> None:
    block = {"source": Digits(kind="digits"), "resolution": 16, "holdout": Holdout()}
    assert Dataset(**block, classes="imagenette").classes == class_list_called("imagenette")
    with pytest.raises(ValueError, match="no class list 'imagenete'; did you mean 'imagenette'"):
        Dataset(**block, classes="imagenete")


@pytest.mark.parametrize(
    ("name", "wnid"),
    [
        ("n01440764", "n01440764"),
        ("Tench", "n01440764"),
        ("English_springer", "n02102040"),
        ("crane", None),  # a bird and a machine
        ("my cat", None),
    ],
)
def test_a_name_means_one_class_or_none(name: str, wnid: str | None) -> None:
    assert wnid_of(name) == wnid


def test_a_wanted_class_is_found_under_another_of_its_names() -> None:
    assert same_class("n01440764", ["church", "tench"]) == "tench"
    assert same_class("tench", ["n01440764", "n03028079"]) == "n01440764"
    assert same_class("tench", ["tench", "n01440764"]) == "tench"
    assert same_class("crane", ["n02012849", "n03126707"]) is None


def test_the_order_of_names_decides_nothing() -> None:
    table = imagenet_id2label()
    classes = ["n03888257", "tench", "French horn"]
    assert conditions(table, classes) == {0: 701, 1: 0, 2: 566}
    backwards = dict(reversed(table.items()))
    assert conditions(backwards, classes[::-1]) == {0: 566, 1: 0, 2: 701}


def test_names_with_commas_are_looked_up_whole_first() -> None:
    table = {"0": "boat, small", "1": "boat", "2": "small"}
    assert conditions(table, ["boat, small", "boat", "small"]) == {0: 0, 1: 1, 2: 2}


def test_a_class_that_two_rows_could_be_is_unknown() -> None:
    with pytest.raises(UnknownClass) as refused:
        conditions(imagenet_id2label(), ["tench", "crane", "my cat"])
    assert refused.value.names == ["crane", "my cat"]
