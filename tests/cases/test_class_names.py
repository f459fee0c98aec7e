"""A class is one name: two classes of one name, and names that only look alike, are never joined or left out unsaid."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from broken_images import encoded, picture
from clone import PROJECT

from distillery.data.external import check_external
from distillery.data.identity import conditions, spelled, unprintable
from distillery.data.settings import Dataset, Digits, Folder, Holdout, Parquet
from distillery.data.sources import class_list, class_names, records
from distillery.errors import ExperimentError, UnknownClass
from distillery.guidance.influence_gradients import refuse_other_classes
from distillery.matching.checks import wrong_experts
from distillery.plan.load import load

COMPOSED = "caf\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
BOTH = r"'caf<U\+00E9>' and 'cafe<U\+0301>' differ only in Unicode form, case or space"
OTHER_WAY = r"'cafe<U\+0301>' and 'caf<U\+00E9>' differ only in Unicode form, case or space"


def folders(root: Path, *names: str) -> str:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_bytes(encoded(picture(8, seed=number)))
    return str(root)


def folder(train: str, test: str | None = None) -> Folder:
    return Folder(kind="folder", train=train, test=test)


def parquet(path: Path, labels: list[Any], names: Any = None) -> Parquet:
    images = pa.array([{"bytes": encoded(picture(8, seed=row)), "path": f"{row}.png"} for row in range(len(labels))])
    table = pa.table({"image": images, "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return Parquet(kind="parquet", train=[str(path)])


def classes(source: Any, names: list[str] | None = None) -> list[str]:
    return class_list(Dataset(source=source, resolution=8, classes=names, holdout=Holdout()))


# ---- two classes of one name -----------------------------------------------------------------------------------------


def test_two_classes_of_one_name_are_refused_with_their_numbers(tmp_path: Path) -> None:
    source = parquet(tmp_path / "birds.parquet", [0, 1, 2], ["crane", "dog", "crane"])
    said = r"dataset.source.train: .*birds.parquet: classes 0 and 2 are both called 'crane'; give each a name"
    with pytest.raises(ValueError, match=said):
        class_names(source)
    [fault] = check_external("methods.theirs", source.train[0], [1], [0], ["crane", "dog"])
    assert "methods.theirs.images" in fault and "classes 0 and 2 are both called 'crane'" in fault


@pytest.mark.parametrize(
    "names", [(COMPOSED, DECOMPOSED), ("cat", "Cat"), ("cat ", " cat"), ("cat", "cat\u200b"), ("a b", "a\u00a0b")]
)
def test_names_that_look_alike_are_two_classes_only_where_both_are_listed(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for source in (
        folder(folders(tmp_path / "set", *names, "dog")),
        parquet(tmp_path / "x.parquet", [0, 1, 2], [*names, "dog"]),
        parquet(tmp_path / "text.parquet", [*names, "dog"]),
    ):
        with pytest.raises(
            ValueError, match="differ only in Unicode form, case or space; give one class one name"
        ) as no:
            classes(source)
        assert all(spelled(name) in str(no.value) for name in names)
        assert classes(source, [*names]) == [*names]


def test_a_name_of_other_bytes_and_the_text_that_shows_them_are_not_joined(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", "\\xff", "dog")
    try:
        (tmp_path / "set" / "\udcff").mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ValueError, match=r"are both class '\\\\xff'; rename one"):
        class_names(folder(root))


# ---- names of two places ---------------------------------------------------------------------------------------------


def test_a_test_class_of_another_spelling_is_not_left_out(tmp_path: Path) -> None:
    source = folder(folders(tmp_path / "train", DECOMPOSED, "dog"), folders(tmp_path / "test", COMPOSED, "dog"))
    with pytest.raises(ValueError, match=f"dataset.source.test: {BOTH}; give the class one name in train and test"):
        class_names(source)
    one, two = parquet(tmp_path / "a", [0, 1], ["Cat", "dog"]), parquet(tmp_path / "b", [0, 1], ["cat", "dog"])
    with pytest.raises(ValueError, match=r"dataset.source.test: 'cat' and 'Cat' differ only"):
        class_names(Parquet(kind="parquet", train=one.train, test=two.train))


def test_a_wanted_class_of_another_spelling_is_explained(tmp_path: Path) -> None:
    root = folders(tmp_path / "train", DECOMPOSED, "dog")
    with pytest.raises(ValueError, match=f"dataset.classes: no class '{COMPOSED}' in the data; {BOTH}"):
        classes(folder(root), [COMPOSED, "dog"])
    config = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    config["dataset"] |= {"source": {"kind": "folder", "train": root}, "classes": [COMPOSED, "dog"]}
    with pytest.raises(ExperimentError, match=BOTH):
        load(config)


def test_a_class_of_an_external_set_of_another_spelling_is_explained(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", COMPOSED, "dog")
    [fault] = check_external("methods.theirs", root, [1], [0], [DECOMPOSED, "dog"])
    assert "'cafe<U+0301>' and 'caf<U+00E9>' differ only" in fault


def test_networks_and_generators_that_spell_a_class_otherwise_say_so() -> None:
    with pytest.raises(UnknownClass, match=OTHER_WAY):
        conditions({"0": COMPOSED, "1": "dog"}, [DECOMPOSED, "dog"])
    with pytest.raises(Exception, match=OTHER_WAY):
        refuse_other_classes(Path("surrogate"), [COMPOSED], [DECOMPOSED])
    about = {"network": "n", "epochs": 1, "classes": [COMPOSED]}
    assert "'cafe<U+0301>' and 'caf<U+00E9>'" in str(wrong_experts(about, {"classes": [DECOMPOSED]}))


# ---- names that cannot be shown --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\nb", "c\td", "e\x1bf", "g\x85h", "\u200b", "i\ufffe"])
def test_a_name_that_a_figure_cannot_hold_is_refused_where_it_is_used(tmp_path: Path, name: str) -> None:
    assert unprintable(name)
    source = parquet(tmp_path / "x.parquet", [name, "dog", "owl"])
    with pytest.raises(ValueError, match=r"train: class '.*<U.*a control character in the name") as refused:
        classes(source)
    assert spelled(name) in str(refused.value)
    assert classes(source, ["dog", "owl"]) == ["dog", "owl"]


@pytest.mark.parametrize("name", ["Ba$$in", "$\\frac$", "\u732b", "\U0001f98a", "x" * 255, "\u00fc & co", "10"])
def test_other_names_are_names(tmp_path: Path, name: str) -> None:
    assert classes(parquet(tmp_path / "x.parquet", [name, "dog"])) == sorted([name, "dog"])


# ---- the order of labels ---------------------------------------------------------------------------------------------


def test_the_labels_of_a_parquet_file_keep_their_order(tmp_path: Path) -> None:
    names = ["zebra", "ant", "mule"]
    assert classes(parquet(tmp_path / "a", [2, 0, 1], names)) == names
    assert classes(parquet(tmp_path / "b", [2, 0, 1], {"0": "zebra", "1": "ant", "2": "mule"})) == names
    assert classes(parquet(tmp_path / "c", [2, 0, 2], names)) == ["zebra", "mule"]
    assert classes(parquet(tmp_path / "d", list(range(11, -1, -1)))) == [str(number) for number in range(12)]
    assert classes(parquet(tmp_path / "e", ["10", "9", "b", "A"])) == ["10", "9", "A", "b"]


def test_files_of_several_orders_are_joined_by_name(tmp_path: Path) -> None:
    parquet(tmp_path / "a", [0, 1], ["zebra", "ant"])
    parquet(tmp_path / "b", [0, 1, 2], ["ant", "zebra", "mule"])
    source = Parquet(kind="parquet", train=[str(tmp_path / "a"), str(tmp_path / "b")])
    assert classes(source) == ["zebra", "ant", "mule"]
    assert [record.class_name for record in records(source, "train", ["zebra"])] == ["zebra", "zebra"]


def test_class_folders_stay_in_the_order_of_text(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", "10", "2", "b", "A")
    assert classes(folder(root)) == ["10", "2", "A", "b"]
    assert classes(Digits(kind="digits")) == [str(digit) for digit in range(10)]


def test_a_parquet_file_without_a_label_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [b"", b""], "label": pa.array([None, None], pa.int64())}), path)
    with pytest.raises(ValueError, match=r"dataset.source.train: no row of .*x.parquet has a label"):
        class_names(Parquet(kind="parquet", train=[str(path)]))
