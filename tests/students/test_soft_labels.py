"""What soft labels promise: a teacher's answer to what the student sees, in the student's order of classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import CLASSES, CPU, MADE_BY, NETWORK, SIDE, digits, image_set_of, job, stopped_at
from torch import Tensor

from distillery.data.channels import NAMED
from distillery.data.pixels import load_pixels
from distillery.diffusion.weights import file_digest
from distillery.errors import BadInput
from distillery.stages import evaluate, store_soft_labels, train_reference
from distillery.storage.images import write_images
from distillery.storage.tables import read_table
from distillery.storage.tensors import read_tensors
from distillery.streams import stream
from distillery.students.batches import augmented
from distillery.students.networks import Classifier, Domain
from distillery.students.pretrained import open_pretrained
from distillery.students.settings import Recipe, Speed
from distillery.students.soft_labels import Teacher, store, stored
from distillery.students.training import logits_of, train_networks

RECIPE = Recipe(
    epochs=3,
    batch_size=16,
    learning_rate=2e-3,
    shift=2,
    cutmix=1.0,
    labels="soft",
    teacher="real",
    temperature=4.0,
    evaluations=1,
)
DOMAIN = Domain(SIDE, 1)


def network(*key: int | str) -> Classifier:
    return Classifier(NETWORK, CLASSES, DOMAIN, key).eval()


def test_a_teacher_answers_to_what_the_student_sees_whatever_its_own_standardisation() -> None:
    pixels = digits()[0][:20]
    known = Classifier(NETWORK, CLASSES, Domain(SIDE, 1, 0.2, 0.7), ("teacher",)).eval()
    teacher = Teacher(known, CLASSES, DOMAIN, CPU)
    mean, std = DOMAIN.statistics(CPU)
    torch.testing.assert_close(teacher((pixels / 255 - mean) / std), logits_of(known, pixels), rtol=1e-4, atol=1e-4)


def test_answers_come_in_the_order_of_the_students_classes() -> None:
    pixels, known = digits()[0][:8], network("teacher")
    mean, std = DOMAIN.statistics(CPU)
    seen = (pixels / 255 - mean) / std
    straight = Teacher(known, CLASSES, DOMAIN, CPU)(seen)
    turned = Teacher(known, CLASSES[::-1], DOMAIN, CPU)(seen)
    assert torch.equal(turned, straight.flip(1))


def test_a_teacher_that_does_not_know_a_class_is_refused() -> None:
    with pytest.raises(BadInput, match="knows no class 'zebra'; it knows"):
        Teacher(network("teacher"), [*CLASSES, "zebra"], DOMAIN, CPU)


def test_stored_labels_are_the_online_ones_of_the_same_images_in_half_precision() -> None:
    pixels, labels = (values[:40] for values in digits())
    teacher = Teacher(network("teacher"), CLASSES, DOMAIN, CPU)
    logits = torch.stack(list(store(teacher, pixels, RECIPE, ("soft",), "store")))
    assert (logits.shape, logits.dtype) == ((3, 40, len(CLASSES)), torch.float16)
    found = []
    for answers in (teacher.online(), stored(logits, CPU)):
        student = network("student")
        train_networks([student], pixels, labels, RECIPE, keys=[("soft",)], device=CPU, soft_labels=answers)
        found.append(logits_of(student, pixels))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.02)


def test_networks_at_once_share_stored_labels() -> None:
    pixels, labels = (values[:40] for values in digits())
    teacher = Teacher(network("teacher"), CLASSES, DOMAIN, CPU)
    logits = torch.stack(list(store(teacher, pixels, RECIPE, ("soft",), "store")))
    ensemble = [network("student", number) for number in range(2)]
    train_networks(ensemble, pixels, labels, RECIPE, keys=[("soft",)] * 2, device=CPU, soft_labels=stored(logits, CPU))
    alone = network("student", 1)
    train_networks([alone], pixels, labels, RECIPE, keys=[("soft",)], device=CPU, soft_labels=stored(logits, CPU))
    torch.testing.assert_close(logits_of(ensemble[1], pixels), logits_of(alone, pixels), rtol=1e-3, atol=1e-3)


def test_the_images_of_a_key_are_those_that_a_network_of_that_key_sees() -> None:
    pixels = digits()[0][:40]
    mean, std = DOMAIN.statistics(CPU)
    one, again, other = (torch.cat([*augmented(pixels, RECIPE, key, 1, mean, std)]) for key in (("a",), ("a",), ("b",)))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_student_learns_what_its_teacher_says_and_not_the_labels() -> None:
    """Wrong hard labels do no harm: they are not looked at."""
    pixels, labels = (values[:200] for values in digits())
    known = network("knows")
    recipe = RECIPE.model_copy(update={"epochs": 15, "labels": "hard", "teacher": None, "cutmix": 0.0})
    train_networks([known], pixels, labels, recipe, keys=[("knows",)], device=CPU)
    wrong = (labels + 1) % len(CLASSES)
    student, soft = network("student"), RECIPE.model_copy(update={"epochs": 15, "temperature": 1.0})
    (made,) = train_networks(
        [student],
        pixels,
        wrong,
        soft,
        keys=[("s",)],
        device=CPU,
        test=(pixels, labels),
        soft_labels=Teacher(known, CLASSES, DOMAIN, CPU).online(),
    )
    assert made.evaluations[-1][1] > 80


# ---- the stages ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("soft")
    pixels, labels = (values[:24] for values in digits())
    write_images(path / "set.parquet", image_set_of(pixels, labels, slot=np.arange(24) // 4), MADE_BY)
    pixels, labels = (values[300:400] for values in digits())
    write_images(path / "test.parquet", image_set_of(pixels, labels), MADE_BY)
    network("teacher").save(path / "teacher.safetensors", MADE_BY)
    return path


def evaluated(folder: Path, out: Path, **files: Path) -> list[dict[str, Any]]:
    settings = evaluate.Settings(
        seed=0, method="lgd", ipc=6, network=NETWORK, protocol="soft", recipe=RECIPE, students=2, speed=Speed()
    )
    images, test = folder / "set.parquet", folder / "test.parquet"
    run = job("evaluate", settings, [images, test, *files.values()])
    evaluate.run(
        settings, images=images, test=test, evaluations=out, history=out.with_suffix(".history"), job=run, **files
    )
    return read_table(out, "evaluate").to_pylist()


def test_the_size_of_stored_labels_stands_beside_the_accuracy(folder: Path, tmp_path: Path) -> None:
    settings = store_soft_labels.Settings(seed=0, recipe=RECIPE)
    images, teacher, out = folder / "set.parquet", folder / "teacher.safetensors", tmp_path / "soft.safetensors"
    run = job("store_soft_labels", settings, [images, teacher])
    store_soft_labels.run(settings, images=images, teacher=teacher, soft_labels=out, job=run)
    tensors, about = read_tensors(out, "store_soft_labels")
    assert tensors["logits"].shape == (3, 24, len(CLASSES))
    assert about["classes"] == CLASSES
    rows = evaluated(folder, tmp_path / "stored.parquet", soft_labels=out)
    assert {row["label_bytes"] for row in rows} == {out.stat().st_size}
    online = evaluated(folder, tmp_path / "online.parquet", teacher=teacher)
    assert {row["label_bytes"] for row in online} == {0}


def test_labels_that_are_half_stored_when_a_signal_comes_are_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_request: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = store_soft_labels.Settings(seed=0, recipe=RECIPE)
    images, teacher = folder / "set.parquet", folder / "teacher.safetensors"
    answered, ask = list[int](), Teacher.__call__

    def counted(self: Teacher, seen: Tensor) -> Tensor:
        answered.append(len(seen))
        return ask(self, seen)

    monkeypatch.setattr(Teacher, "__call__", counted)

    def stored_at(out: Path) -> bytes:
        run = job("store_soft_labels", settings, [images, teacher])
        store_soft_labels.run(settings, images=images, teacher=teacher, soft_labels=out, job=run)
        return out.read_bytes()

    whole = stored_at(tmp_path / "whole.safetensors")
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        stored_at(tmp_path / "soft.safetensors")
    assert not (tmp_path / "soft.safetensors").exists()
    capsys.readouterr(), answered.clear()
    one_epoch = 2 * 24 * len(CLASSES)  # what is written needs no room again
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=one_epoch))
    assert stored_at(tmp_path / "soft.safetensors") == whole
    assert "resuming at epochs 2" in capsys.readouterr().err
    assert sum(answered) == 24  # one epoch of three
    assert sorted(path.name for path in tmp_path.iterdir()) == ["soft.safetensors", "whole.safetensors"]


def test_labels_that_would_not_fit_are_refused_before_the_teacher_answers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = store_soft_labels.Settings(seed=0, recipe=RECIPE)
    images, teacher, out = folder / "set.parquet", folder / "teacher.safetensors", tmp_path / "soft.safetensors"
    bytes_of_labels = 2 * RECIPE.epochs * 24 * len(CLASSES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=bytes_of_labels - 1))
    monkeypatch.setattr(Teacher, "__call__", lambda *_: pytest.fail("it was asked"))
    with pytest.raises(BadInput, match=r"soft.safetensors: takes .* `soft_labels: online`"):
        store_soft_labels.run(
            settings, images=images, teacher=teacher, soft_labels=out, job=job("store_soft_labels", settings, [images])
        )


# ---- pretrained weights ----------------------------------------------------------------------------------------------


def test_weights_of_this_project_are_opened_in_the_order_of_the_data(tmp_path: Path) -> None:
    known = network("file")
    known.save(tmp_path / "w.safetensors", MADE_BY)
    opened, _ = open_pretrained(tmp_path / "w.safetensors", NETWORK, CLASSES[::-1], DOMAIN, None)
    pixels = digits()[0][:8]
    assert torch.equal(logits_of(opened, pixels), logits_of(known, pixels).flip(1))


def test_classes_that_the_weights_name_otherwise_are_found_and_others_are_no_match_by_number(tmp_path: Path) -> None:
    known = Classifier(NETWORK, ["tench", "n02979186", "church"], DOMAIN, ("named",)).eval()
    known.save(tmp_path / "w.safetensors", MADE_BY)
    names = ["church", "n01440764", "cassette player"]
    opened, _ = open_pretrained(tmp_path / "w.safetensors", NETWORK, names, DOMAIN, None)
    pixels = digits()[0][:8]
    torch.testing.assert_close(logits_of(opened, pixels), logits_of(known, pixels)[:, [2, 0, 1]])
    with pytest.raises(BadInput, match="trained on tench, n02979186, church, and knows no class zebra, cat"):
        open_pretrained(tmp_path / "w.safetensors", NETWORK, ["zebra", "cat", "church"], DOMAIN, None)
    given, _ = open_pretrained(tmp_path / "w.safetensors", NETWORK, ["zebra", "cat", "church"], DOMAIN, [0, 1, 2])
    assert torch.equal(logits_of(given, pixels), logits_of(known, pixels))


def test_weights_without_the_counts_of_batch_norm_are_opened(tmp_path: Path) -> None:
    domain = Domain(32, 3)
    whole = Classifier("resnet18", CLASSES, domain, ("r",)).eval()
    state = {name: value for name, value in whole.network.state_dict().items() if "num_batches" not in name}
    assert len(state) < len(whole.network.state_dict())
    save_file(state, tmp_path / "w.safetensors")
    opened, _ = open_pretrained(tmp_path / "w.safetensors", "resnet18", CLASSES, domain, None)
    pixels = torch.randint(256, (2, 3, 32, 32), generator=stream("batch norm"), dtype=torch.uint8)
    assert torch.equal(logits_of(opened, pixels), logits_of(whole, pixels))


def test_rows_pick_the_classes_out_of_a_larger_network(tmp_path: Path) -> None:
    large = Classifier(NETWORK, [str(number) for number in range(9)], DOMAIN, ("large",)).eval()
    save_file(large.network.state_dict(), tmp_path / "w.safetensors")
    rows = [8, 2, 5, 0]
    opened, _ = open_pretrained(tmp_path / "w.safetensors", NETWORK, CLASSES, DOMAIN, rows)
    pixels = digits()[0][:8]
    torch.testing.assert_close(logits_of(opened, pixels), logits_of(large, pixels)[:, rows])


@pytest.mark.parametrize(
    ("made", "rows", "message"),
    [
        (9, None, "9 outputs for 4 classes; say which are the classes"),
        (9, [0, 1], "2 numbers up to 1; allowed: 4 numbers from 0 to 8"),
        (9, [0, 1, 2, 9], "4 numbers up to 9; allowed: 4 numbers from 0 to 8"),
    ],
)
def test_weights_of_other_classes_are_refused(made: int, rows: Any, message: str, tmp_path: Path) -> None:
    large = Classifier(NETWORK, [str(number) for number in range(made)], DOMAIN, ("large",))
    save_file(large.network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match=message):
        open_pretrained(tmp_path / "w.safetensors", NETWORK, CLASSES, DOMAIN, rows)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = Classifier("resnet_ap10_w8", CLASSES, DOMAIN, ("other",))
    save_file(other.network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BadInput, match=f"not a {NETWORK} for images of 1 channels"):
        open_pretrained(tmp_path / "w.safetensors", NETWORK, CLASSES, DOMAIN, None)
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadInput, match="no safetensors file with weights"):
        open_pretrained(tmp_path / "w.safetensors", NETWORK, CLASSES, DOMAIN, None)


def test_the_digest_of_a_reference_is_compared(folder: Path, tmp_path: Path) -> None:
    images, weights = folder / "set.parquet", folder / "teacher.safetensors"
    options: dict[str, Any] = {"seed": 0, "name": "real", "network": NETWORK, "recipe": RECIPE, "pretrained": True}
    for digest, fits in ((file_digest(weights), True), ("0" * 64, False)):
        settings = train_reference.Settings(**options, rows=None, sha256=digest)
        run = job("train_reference", settings, [images, weights])
        model = tmp_path / "out.safetensors"
        files: dict[str, Any] = {"images": images, "weights": weights, "model": model}
        files["by_class"] = tmp_path / "by-class.csv"
        files["history"] = tmp_path / "history.parquet"
        if fits:
            train_reference.run(settings, **files, job=run)
        else:
            with pytest.raises(BadInput, match=r"references.real.weights: .*: sha256 [0-9a-f]{64}, and the experiment"):
                train_reference.run(settings, **files, job=run)


def test_a_reference_is_opened_instead_of_trained_and_its_accuracy_is_measured(folder: Path, tmp_path: Path) -> None:
    known = network("teacher")
    settings = train_reference.Settings(seed=0, name="real", network=NETWORK, recipe=RECIPE, pretrained=True, rows=None)
    images, weights = folder / "set.parquet", folder / "teacher.safetensors"
    out = tmp_path / "reference.safetensors"
    run = job("train_reference", settings, [images, weights])
    by_class = tmp_path / "by-class.csv"
    train_reference.run(
        settings,
        images=images,
        weights=weights,
        model=out,
        by_class=by_class,
        history=out.with_suffix(".history"),
        job=run,
    )
    pixels, labels, *_ = load_pixels(images)
    assert torch.equal(logits_of(Classifier.load(out, "train_reference"), pixels), logits_of(known, pixels))
    expected = 100 * (logits_of(known, pixels).argmax(1) == labels).double().mean().item()
    assert read_tensors(out, "train_reference")[1]["accuracy_on_training_images"] == pytest.approx(expected)


def test_colour_networks_may_be_standardised_as_imagenet_is() -> None:
    pixels = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    domain = Domain.of(pixels, RECIPE.model_copy(update={"normalize": "imagenet"}))
    assert domain.mean == tuple(NAMED["imagenet"][0])
    black = domain.from_unit(torch.full((1, 3, SIDE, SIDE), -1.0))
    expected = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(black[0, :, 0, 0], expected)
