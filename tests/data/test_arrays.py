"""Sets as the field stores them open to the pictures and labels that they were saved from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edits import faults, put
from tiny import CPU, MADE_BY, NETWORK, SIDE, digits, image_set_of, job

from distillery.data.arrays import Standardised, read_arrays
from distillery.data.channels import NAMED
from distillery.data.external import external_content, external_files
from distillery.data.settings import Dataset, Digits
from distillery.errors import BadInput
from distillery.stages import collect, evaluate, import_images
from distillery.storage.images import read_images, read_soft_labels, write_images
from distillery.storage.tables import read_table
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import train_networks

CLASSES = ["zero", "one", "two", "three"]
DATA = Dataset(source=Digits(kind="digits"), resolution=SIDE, channels="grey")
IPC = 3


def subset() -> tuple[np.ndarray, np.ndarray]:
    """Digits, `IPC` of each class in a mixed order: (N, 1, 16, 16) uint8 and (N,) int64."""
    pixels, labels = digits()
    rows = np.concatenate([np.flatnonzero(labels.numpy() == label)[:IPC] for label in range(4)])
    rows = rows[np.argsort(np.arange(len(rows)) * 5 % len(rows))]
    return pixels.numpy()[rows], labels.numpy()[rows]


PIXELS, LABELS = subset()
UNIT = (PIXELS / 255).astype(np.float32)
SOFT = (0.7 * np.eye(4)[LABELS] + 0.3 * np.eye(4)[(LABELS + 1) % 4]).astype(np.float32)

Saved = tuple[str, str | None]


def save_pair(folder: Path, images: np.ndarray, labels: np.ndarray) -> Saved:
    torch.save(torch.from_numpy(images), folder / "images_best.pt")
    torch.save(torch.from_numpy(labels), folder / "labels_best.pt")
    return str(folder / "images_best.pt"), str(folder / "labels_best.pt")


def save_tuple(folder: Path, images: np.ndarray, labels: np.ndarray) -> Saved:
    torch.save((torch.from_numpy(images), torch.from_numpy(labels)), folder / "set.pt")
    return str(folder / "set.pt"), None


def save_of_dc(folder: Path, images: np.ndarray, labels: np.ndarray) -> Saved:
    """As the public code of DC saves its result."""
    pair = [torch.from_numpy(images), torch.from_numpy(labels)]
    torch.save({"data": [pair], "accs_all_exps": {"ConvNet": [0.5]}}, folder / "res_DC.pt")
    return str(folder / "res_DC.pt"), None


def save_named(folder: Path, images: np.ndarray, labels: np.ndarray) -> Saved:
    torch.save({"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}, folder / "set.pth")
    return str(folder / "set.pth"), None


def save_npy(folder: Path, images: np.ndarray, labels: np.ndarray) -> Saved:
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    return str(folder / "images.npy"), str(folder / "labels.npy")


def save_npz(folder: Path, images: np.ndarray, labels: np.ndarray) -> Saved:
    np.savez_compressed(folder / "set.npz", images=images, labels=labels)
    return str(folder / "set.npz"), None


SAVERS = [save_pair, save_tuple, save_of_dc, save_named, save_npy, save_npz]


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("save", SAVERS)
def test_every_form_opens_to_what_was_saved(
    save: Callable[[Path, np.ndarray, np.ndarray], Saved], labels: np.ndarray, tmp_path: Path
) -> None:
    arrays = read_arrays("methods.m", *save(tmp_path, UNIT, labels), "0..1", CLASSES)
    assert np.array_equal(arrays.pixels, PIXELS) and np.array_equal(arrays.labels, LABELS)
    assert arrays.clipped == 0
    if labels is SOFT:
        np.testing.assert_allclose(arrays.soft, SOFT, atol=1e-6)
    else:
        assert arrays.soft is None


def standardised(mean: Any, std: Any, channels: int) -> np.ndarray:
    """The digits in so many channels, as networks of the field see them."""
    shape = (1, -1, 1, 1)
    return ((np.repeat(UNIT, channels, 1) - np.reshape(mean, shape)) / np.reshape(std, shape)).astype(np.float32)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_normalization_is_undone(name: Any, tmp_path: Path) -> None:
    mean, std = NAMED[name]
    channels = len(mean)
    saved = save_npy(tmp_path, standardised(mean, std, channels), LABELS)
    assert np.array_equal(read_arrays("m", *saved, name, CLASSES).pixels, np.repeat(PIXELS, channels, 1))


def test_numbers_and_ranges_are_undone_and_what_lies_outside_is_counted(tmp_path: Path) -> None:
    stated = Standardised(mean=[0.2], std=[0.4])
    saved = save_npy(tmp_path, standardised(0.2, 0.4, 1), LABELS)
    assert np.array_equal(read_arrays("m", *saved, stated, CLASSES).pixels, PIXELS)
    assert np.array_equal(read_arrays("m", *save_npy(tmp_path, PIXELS, LABELS), "0..255", CLASSES).pixels, PIXELS)
    beyond = UNIT.copy()
    beyond[0] += 2
    arrays = read_arrays("m", *save_npy(tmp_path, beyond, LABELS), "0..1", CLASSES)
    assert arrays.clipped == pytest.approx(1 / len(UNIT)) and (arrays.pixels[0] == 255).all()


@pytest.mark.parametrize("shape", [(0, 2, 3, 1), None])
def test_channels_may_come_last_or_be_left_out(shape: tuple[int, ...] | None, tmp_path: Path) -> None:
    images = UNIT.transpose(shape) if shape else UNIT[:, 0]
    assert np.array_equal(read_arrays("m", *save_npy(tmp_path, images, LABELS), "0..1", CLASSES).pixels, PIXELS)


def test_soft_labels_that_are_no_probabilities_are_logits(tmp_path: Path) -> None:
    arrays = read_arrays("m", *save_npy(tmp_path, UNIT, np.log(SOFT + 1e-9) + 3), "0..1", CLASSES)
    np.testing.assert_allclose(arrays.soft, SOFT, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (UNIT, LABELS[:-1], "labels of shape (11,) for 12 images"),
        (UNIT, LABELS + 1, "no whole numbers from 0 to 3"),
        (UNIT, LABELS - 1, "no whole numbers from 0 to 3"),
        (UNIT, LABELS + 0.5, "no whole numbers from 0 to 3"),
        (UNIT, SOFT[:, :3], "soft labels of 3 classes, and the data have 4"),
        (UNIT, SOFT * np.nan, "soft labels that are no finite numbers"),
        (UNIT * np.nan, LABELS, "values that are no finite numbers"),
        (UNIT[0, 0], LABELS, "images of shape (16, 16)"),
        (np.repeat(UNIT, 2, 1), LABELS, "images of shape (12, 2, 16, 16)"),
        (UNIT.astype(str), LABELS, "something else than arrays of numbers"),
    ],
)
def test_arrays_that_are_no_set_are_refused(images: np.ndarray, labels: np.ndarray, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        read_arrays("methods.m", *save_npy(tmp_path, images, labels), "0..1", CLASSES)
    assert words in str(refused.value) and str(tmp_path) in str(refused.value)


def test_channels_that_the_normalization_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="images of 1 channels, and the normalization has 3"):
        read_arrays("m", *save_npy(tmp_path, UNIT, LABELS), "cifar10", CLASSES)


@pytest.mark.parametrize("content", [b"", b"no file of arrays", b"PK\x03\x04"])
@pytest.mark.parametrize("ending", ["pt", "npy", "npz"])
def test_a_broken_file_is_named(ending: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"set.{ending}"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"methods.m.images: .*set.{ending}: holds something else than arrays"):
        read_arrays("methods.m", str(path), None, "0..1", CLASSES)


# ---- in an experiment ------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_the_files_is_said_at_planning(tmp_path: Path) -> None:
    images, labels = save_npy(tmp_path, UNIT, LABELS)

    def lines(**keys: object) -> list[str]:
        return faults(put("methods.theirs", {"kind": "external", **keys}), put("ipc", [3]))

    [line] = lines(images=images, labels=labels)
    assert line.startswith("methods.theirs.normalization: say what the values of") and "cifar10" in line
    [line] = lines(images=images, normalization="0..1")
    assert line == "methods.theirs.labels: a .npy file holds images alone; name the file of their labels"
    (tmp_path / "labels.txt").write_text("0", "utf-8")
    [line] = lines(images=images, labels=str(tmp_path / "labels.txt"), normalization="0..1")
    assert "no file of arrays; allowed: .pt, .pth, .npy, .npz" in line
    [line] = lines(images=str(tmp_path / "none-{ipc}.npz"), normalization="0..1")
    assert "none-3.npz: no such file" in line
    (tmp_path / "folder").mkdir()
    assert any(
        line.startswith("methods.theirs.normalization: ") and "leave it out" in line
        for line in lines(images=str(tmp_path / "folder"), normalization="0..1")
    )


def test_both_files_are_inputs_and_compared_by_content(tmp_path: Path) -> None:
    images, labels = save_npy(tmp_path, UNIT, LABELS)
    assert external_files(images, IPC, 0, labels) == [images, labels]
    before = external_content(images, IPC, 0, labels)
    np.save(labels, LABELS[::-1])
    assert external_content(images, IPC, 0, labels) != before


def imported(saved: Saved, folder: Path) -> Path:
    """What the stages make of a set: the collected one."""
    pixels, labels = (values[-40:] for values in digits())
    for name in ("train", "test"):
        write_images(folder / f"{name}.parquet", image_set_of(pixels, labels), MADE_BY)
    facts: Any = {"name": "theirs", "images": saved[0], "labels": saved[1], "normalization": "0..1"}
    settings = import_images.Settings(**facts, ipc=IPC, dataset=DATA)
    inputs = {"data": folder / "train.parquet", "test": folder / "test.parquet"}
    import_images.run(settings, **inputs, images=folder / "part.parquet", job=job("import_images", settings))
    whole = collect.Settings(ipc=IPC)
    collect.run(whole, parts=[folder / "part.parquet"], images=folder / "set.parquet", job=job("collect", whole))
    return folder / "set.parquet"


def test_a_set_of_arrays_becomes_a_set_of_this_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = imported(save_npz(tmp_path, UNIT, SOFT), tmp_path)
    opened = read_images(path, "collect")
    order = np.argsort(LABELS, kind="stable")
    assert np.array_equal(opened.pixels(), PIXELS[order]) and np.array_equal(opened.labels, LABELS[order])
    assert opened.classes == CLASSES and opened.columns["slot"].tolist() == [0, 1, 2] * 4
    soft = read_soft_labels(path, "collect")
    assert soft is not None
    np.testing.assert_allclose(soft, SOFT[order], atol=1e-6)
    assert capsys.readouterr().err.count("labels: set") == 1  # said once


def test_another_number_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"methods.theirs.images: 2 images of class 'zero', but ipc asks for 3"):
        kept = np.flatnonzero(np.arange(len(LABELS)) != np.flatnonzero(LABELS == 0)[0])
        imported(save_npz(tmp_path, UNIT[kept], LABELS[kept]), tmp_path)


SET = Recipe(epochs=6, batch_size=6, learning_rate=4e-3, cutmix=0.5, evaluations=1, labels="set")


def evaluated(images: Path, recipe: Recipe, out: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation on the last digits."""
    facts: Any = {"seed": 0, "method": "m", "ipc": IPC, "network": NETWORK, "protocol": "p", "speed": {}}
    settings = evaluate.Settings(**facts, recipe=recipe, students=1)
    pixels, labels = (values[-200:] for values in digits())
    write_images(out.with_name("test.parquet"), image_set_of(pixels, labels), MADE_BY)
    inputs = {"images": images, "test": out.with_name("test.parquet")}
    outputs = {"evaluations": out, "history": out.with_suffix(".history.parquet")}
    evaluate.run(settings, **inputs, **outputs, job=job("evaluate", settings, list(inputs.values())))
    return read_table(out, "evaluate").to_pylist()


def test_a_protocol_that_asks_for_them_trains_on_the_soft_labels_of_a_set(tmp_path: Path) -> None:
    """Half of each soft label is of the next class: a network of hard labels would learn the class itself."""
    wrong = (0.51 * np.eye(4)[LABELS] + 0.49 * np.eye(4)[(LABELS + 1) % 4]).astype(np.float32)
    path = imported(save_npz(tmp_path, UNIT, wrong), tmp_path)
    soft = evaluated(path, SET, tmp_path / "soft.parquet")
    hard = evaluated(path, SET.model_copy(update={"labels": "hard"}), tmp_path / "hard.parquet")
    assert soft[-1]["label_bytes"] == 12 * 4 * 4 and hard[-1]["label_bytes"] == 0
    assert soft[-1]["accuracy"] != hard[-1]["accuracy"]


def test_a_set_without_soft_labels_has_its_hard_ones_under_such_a_protocol(tmp_path: Path) -> None:
    path = imported(save_npz(tmp_path, UNIT, LABELS), tmp_path)
    hard = SET.model_copy(update={"labels": "hard"})
    rows = [evaluated(path, recipe, tmp_path / f"of-{recipe.labels}.parquet") for recipe in (SET, hard)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("networks", [1, 2])
def test_probabilities_of_one_train_as_the_class_itself_does(networks: int) -> None:
    def trained(labels: torch.Tensor) -> torch.Tensor:
        ensemble = [Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("arrays", i)) for i in range(networks)]
        keys = [("arrays", i) for i in range(networks)]
        train_networks(ensemble, torch.from_numpy(PIXELS), labels, SET, keys=keys, device=CPU)
        return torch.cat([value.flatten() for one in ensemble for value in one.state_dict().values()])

    labels = torch.from_numpy(LABELS)
    torch.testing.assert_close(trained(torch.eye(4)[labels]), trained(labels), rtol=0, atol=1e-4)


def test_a_teacher_beside_the_labels_of_the_set_is_refused() -> None:
    protocol = {"preset": "small", "labels": "set", "teacher": "real"}
    [line] = faults(
        put("evaluation.protocol", protocol), put("methods", {"random": {"kind": "random"}}), put("analysis", {})
    )
    assert "labels are those of the set, so there is nothing to teach" in line
