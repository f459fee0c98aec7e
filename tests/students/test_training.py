"""What students promise: the networks and recipes of the papers, and equal weights from equal seeds, stopped or not."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, CPU, MADE_BY, NETWORK, SIDE, StoppedAt, digits, image_set_of, job, stopped_at
from torch import Tensor, nn

import distillery.storage.resume
from distillery.errors import BadInput, DamagedArtifact
from distillery.guidance.score import load_students
from distillery.settings import canonical
from distillery.stages import evaluate, train_reference, train_student
from distillery.storage.images import write_images
from distillery.storage.resume import Resume
from distillery.storage.tables import read_table
from distillery.storage.tensors import read_tensors, write_tensors
from distillery.streams import stream
from distillery.students.batches import MOST_OF_CARD, placed
from distillery.students.ensemble import soft_loss
from distillery.students.names import known_network
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe, Speed
from distillery.students.training import (
    Trained,
    accuracy,
    evaluation_epochs,
    in_ensembles,
    logits_of,
    schedule_factor,
    train_network,
    train_networks,
)

DOMAIN = Domain(SIDE, 1)
QUICK = Recipe(epochs=5, batch_size=16, learning_rate=2e-3, shift=2, flip=True, cutmix=0.5, evaluations=3)


def few(count: int = 40) -> tuple[Tensor, Tensor]:
    pixels, labels = digits()
    return pixels[:count], labels[:count]


def network(*key: int | str, name: str = NETWORK) -> Classifier:
    return Classifier(name, CLASSES, DOMAIN, key)


def weights(classifier: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("convnet3_w8", 20), ("resnet_ap10_w8", 16), ("resnet_ap10_w4", 96)])
def test_a_network_answers_images_of_its_size_and_of_others(name: str, size: int) -> None:
    classifier = Classifier(name, CLASSES, Domain(size, 3))
    for side in (size, 32):
        assert classifier(torch.zeros(2, 3, side, side)).shape == (2, len(CLASSES))


def test_no_image_of_a_batch_sees_another() -> None:
    classifier = network("alone", name="resnet_ap10_w8").train()
    images = torch.randn(5, 1, SIDE, SIDE, generator=stream("images"))
    torch.testing.assert_close(classifier(images)[2:3], classifier(images[2:3]), rtol=1e-4, atol=1e-5)


def test_images_too_small_to_be_halved_that_often_are_refused() -> None:
    with pytest.raises(ValueError, match="convnet5 halves the image 5 times: 16 pixels are too few"):
        network(name="convnet5")


def test_an_unknown_network_is_refused_with_what_comes_close() -> None:
    with pytest.raises(ValueError, match=r"unknown network 'convnet33'.*close: convnet3"):
        known_network("convnet33")


def test_weights_come_from_the_key_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    one, other = weights(network(0, "a")), weights(network(0, "b"))
    torch.manual_seed(7)
    again = weights(network(0, "a"))
    assert same(one, again)
    assert not same(one, other)
    torch.set_rng_state(before)
    network(0, "a")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_of_timm_is_built_by_its_name_trained_saved_and_opened(tmp_path: Path) -> None:
    classifier = network("timm", name="test_resnet")
    start = weights(classifier)
    pixels, labels = few()
    train_network(
        classifier, pixels, labels, Recipe(epochs=1, batch_size=20, learning_rate=2e-3), key=("timm",), device=CPU
    )
    assert not same(weights(classifier), start)
    assert all(value.isfinite().all() for value in weights(classifier).values())
    classifier.save(tmp_path / "student.safetensors", MADE_BY)
    opened = Classifier.load(tmp_path / "student.safetensors", "train_student")
    assert torch.equal(logits_of(opened, pixels), logits_of(classifier, pixels))


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_saved_classifier_is_opened_and_answers_the_same(tmp_path: Path) -> None:
    classifier = Classifier(NETWORK, CLASSES, Domain(SIDE, 1, 0.3, 0.2), ("saved",))
    classifier.save(tmp_path / "student.safetensors", MADE_BY, accuracy_on_training_images=97.5)
    opened = Classifier.load(tmp_path / "student.safetensors", "train_student")
    assert torch.equal(logits_of(opened, few()[0]), logits_of(classifier, few()[0]))
    assert (opened.name, opened.classes, opened.domain) == (NETWORK, CLASSES, classifier.domain)
    assert not opened.training
    assert not any(parameter.requires_grad for parameter in opened.parameters())


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(12)]
    for path in files:
        network("bytes").save(path, {"stage": "train_student", "settings": "{}"})
    assert len({path.read_bytes() for path in files}) == 1


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.9, None])
def test_a_damaged_classifier_names_its_file_and_its_stage(kept: float | None, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    network().save(path, MADE_BY)
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DamagedArtifact, match=rf"{path}.*`train_student` makes it: delete it"):
        Classifier.load(path, "train_student")


@pytest.mark.parametrize(
    "about",
    [{}, {"network": NETWORK}, {"network": "convnet1_w8", "classes": CLASSES, "domain": {"size": 16, "channels": 1}}],
    ids=["nothing is known", "no classes", "another network"],
)
def test_foreign_tensors_are_no_classifier(about: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    write_tensors(path, weights(network()), MADE_BY, **about)
    with pytest.raises(DamagedArtifact, match="train_student"):
        Classifier.load(path, "train_student")


# ---- the schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 7, 300])
@pytest.mark.parametrize("kind", ["cosine", "step", "constant"])
def test_schedules_are_those_of_torch(kind: Any, epochs: int) -> None:
    recipe = Recipe(epochs=epochs, batch_size=1, learning_rate=1.0, schedule=kind)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    scheduler: Any = {
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2 * epochs // 3, 5 * epochs // 6], 0.2),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    }[kind]()
    for epoch in range(epochs):
        assert schedule_factor(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_schedules_at_their_edges() -> None:
    made = {"epochs": 300, "batch_size": 1, "learning_rate": 1.0}
    cosine, step = Recipe(**made), Recipe(**made, schedule="step")
    assert schedule_factor(cosine, 0) == 1
    assert schedule_factor(cosine, 150) == pytest.approx(0.5)
    assert 0 < schedule_factor(cosine, 299) < 1e-4
    edges = [schedule_factor(step, epoch) for epoch in (0, 199, 200, 249, 250, 299)]
    assert edges == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


# ---- training --------------------------------------------------------------------------------------------------------

PROTOCOLS = {
    "adamw": QUICK,
    "sgd": QUICK.model_copy(update={"optimizer": "sgd", "learning_rate": 0.01, "schedule": "step"}),
}


def looked(trained: Trained) -> tuple[list[tuple[int, float]], list[bool]]:
    return trained.evaluations, trained.correct.tolist()


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_training_stopped_and_resumed_gives_the_same_bits(
    kind: str, networks: int, stop: int, tmp_path: Path, no_request: None
) -> None:
    def train(resume: Resume | None) -> tuple[list[dict[str, Tensor]], list[Any]]:
        classifiers = [network("resumed", number) for number in range(networks)]
        keys = [("resumed", number) for number in range(networks)]
        made = train_networks(classifiers, *few(), PROTOCOLS[kind], keys=keys, device=CPU, test=digits(), resume=resume)
        return [weights(classifier) for classifier in classifiers], [looked(one) for one in made]

    expected, history = train(None)
    assert [epoch for epoch, _ in history[0][0]] == [2, 3, 5]
    with pytest.raises(SystemExit):
        train(StoppedAt(tmp_path / "student", "a", stop))
    distillery.storage.resume.clear_stop()
    resumed, evaluations = train(Resume(tmp_path / "student", "a"))
    assert all(same(one, other) for one, other in zip(resumed, expected, strict=True))
    assert evaluations == history


@pytest.mark.parametrize("networks", [1, 2])
def test_running_statistics_and_averages_survive_a_stop(networks: int, tmp_path: Path, no_request: None) -> None:
    keys = [("statistics", number) for number in range(networks)]
    recipe = QUICK.model_copy(update={"ema_decay": 0.9})

    def train(resume: Resume | None) -> tuple[list[dict[str, Tensor]], list[Any]]:
        classifiers = [network(*key, name="convnet3_bn_w8") for key in keys]
        made = train_networks(classifiers, *few(), recipe, keys=keys, device=CPU, test=digits(), resume=resume)
        return [weights(classifier) for classifier in classifiers], [looked(one) for one in made]

    expected, history = train(None)
    with pytest.raises(SystemExit):
        train(StoppedAt(tmp_path / "student", "a", 3))
    distillery.storage.resume.clear_stop()
    resumed, evaluations = train(Resume(tmp_path / "student", "a"))
    assert all(same(one, other) for one, other in zip(resumed, expected, strict=True))
    assert evaluations == history
    batches = recipe.epochs * -(-40 // recipe.batch_size)
    counted = [value for name, value in expected[-1].items() if name.endswith("num_batches_tracked")]
    assert [int(value) for value in counted] == [batches] * 3


def test_looking_at_the_test_images_changes_nothing() -> None:
    plain, watched = network("evaluations"), network("evaluations")
    train_network(plain, *few(), QUICK, key=("evaluations",), device=CPU)
    train_networks([watched], *few(), QUICK, keys=[("evaluations",)], device=CPU, test=digits())
    assert same(weights(plain), weights(watched))


def test_a_look_is_the_accuracy_of_the_network_at_that_epoch() -> None:
    classifier = network("look")
    (made,) = train_networks([classifier], *few(), QUICK, keys=[("look",)], device=CPU, test=digits())
    pixels, labels = digits()
    assert made.evaluations[-1] == (5, pytest.approx(accuracy(classifier, pixels, labels)))
    assert made.correct.tolist() == (logits_of(classifier, pixels).argmax(1) == labels).tolist()


@pytest.mark.parametrize("name", [NETWORK, "resnet_ap10_w4", "convnet3_bn_w8", "test_resnet"])
def test_networks_trained_at_once_become_what_each_becomes_alone(name: str) -> None:
    """Stacked weights under vmap, batch norm's running statistics included: equal up to rounding."""
    recipe = QUICK.model_copy(update={"epochs": 4, "optimizer": "sgd", "learning_rate": 0.01, "ema_decay": 0.9})
    keys = [("together", number) for number in range(3)]
    together = [network(*key, name=name) for key in keys]
    train_networks(together, *few(), recipe, keys=keys, device=CPU)
    for key, one in zip(keys, together, strict=True):
        alone = network(*key, name=name)
        start = weights(alone)
        train_network(alone, *few(), recipe, key=key, device=CPU)
        moved = sum(float((weights(alone)[name] - start[name]).double().pow(2).sum()) for name in start)
        apart = sum(float((weights(alone)[name] - weights(one)[name]).double().pow(2).sum()) for name in start)
        assert moved > 0
        assert apart <= 1e-6 * moved  # 1e-3 of the way that the weights went


def test_a_network_does_not_depend_on_how_many_are_trained_beside_it() -> None:
    keys = [("beside", number) for number in range(3)]
    found = []
    for count in (2, 3):
        classifiers = [network(*key) for key in keys[:count]]
        made = train_networks(classifiers, *few(), QUICK, keys=keys[:count], device=CPU, test=digits())
        found.append(made[0].evaluations)
    assert [value for _, value in found[0]] == pytest.approx([value for _, value in found[1]], abs=1.0)


def test_a_network_with_dropout_is_trained_alone_and_comes_out_the_same_each_time() -> None:
    def dropping() -> Classifier:
        classifier = network("dropout")
        classifier.network = nn.Sequential(
            *list(classifier.network)[:-1], nn.Dropout(0.5), list(classifier.network)[-1]
        )
        return classifier

    with pytest.raises(ValueError, match="dropout"):
        train_networks([dropping(), dropping()], *few(), QUICK, keys=[("a",), ("b",)], device=CPU)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        classifier = dropping()
        train_network(classifier, *few(), QUICK, key=("dropout",), device=CPU)
        found.append(weights(classifier))
    assert same(*found)


def test_a_team_that_does_not_fit_the_memory_is_halved_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    tried = []

    def train(ensemble: Any) -> list[Any]:
        tried.append(list(ensemble))
        if len(ensemble) > 2:
            raise torch.cuda.OutOfMemoryError
        return list(ensemble)

    assert in_ensembles(range(5), 5, train) == [0, 1, 2, 3, 4]
    assert tried == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [2, 3], [4]]
    assert "out of memory with 5 networks at once: going on with 3" in capsys.readouterr().err


def test_a_diverged_network_has_no_accuracy_and_harms_none_beside_it() -> None:
    recipe = QUICK.model_copy(update={"optimizer": "sgd", "learning_rate": 1e-3, "cutmix": 0.0})
    sound, lost = network("sound"), network("lost")
    with torch.no_grad():
        next(lost.parameters()).fill_(float("nan"))
    keys = [("sound",), ("lost",)]
    first, second = train_networks([sound, lost], *few(), recipe, keys=keys, device=CPU, test=digits())
    assert all(np.isfinite(value) for _, value in first.evaluations)
    assert all(np.isnan(value) for _, value in second.evaluations)
    alone = network("sound")
    (expected,) = train_networks([alone], *few(), recipe, keys=keys[:1], device=CPU, test=digits())
    assert [value for _, value in first.evaluations] == pytest.approx(
        [value for _, value in expected.evaluations], abs=1.0
    )


@pytest.mark.parametrize(("epochs", "decay"), [(1, 0.995), (2, 0.995), (5, 0.995), (5, 0.5)])
def test_the_average_of_the_weights_follows_its_closed_form(epochs: int, decay: float) -> None:
    """A copy after epochs 1 and 2, then min(decay, 1 - 1/k); the average is what is tested and kept."""
    recipe = QUICK.model_copy(update={"schedule": "constant", "optimizer": "sgd", "learning_rate": 0.01})
    path, classifier = [], network("average")
    for epoch in range(1, epochs + 1):
        classifier = network("average")
        train_network(classifier, *few(), recipe.model_copy(update={"epochs": epoch}), key=("average",), device=CPU)
        path.append(weights(classifier))
    expected = path[min(1, epochs - 1)]
    for epoch in range(3, epochs + 1):
        kept = min(decay, 1 - 1 / epoch)
        expected = {name: kept * value + (1 - kept) * path[epoch - 1][name] for name, value in expected.items()}
    averaged = network("average")
    train_network(
        averaged, *few(), recipe.model_copy(update={"epochs": epochs, "ema_decay": decay}), key=("average",), device=CPU
    )
    for name, value in weights(averaged).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_averaged_weights_keep_the_running_statistics_of_the_last_epoch() -> None:
    """The statistics are averages already; averaged weights tell images apart with them as the last ones do."""
    recipe = QUICK.model_copy(update={"epochs": 30, "schedule": "cosine", "cutmix": 0.0})
    last, averaged = (network("statistics", name="convnet3_bn_w8") for _ in range(2))
    train_network(last, *few(200), recipe, key=("statistics",), device=CPU)
    averaging = recipe.model_copy(update={"ema_decay": 0.9})
    train_network(averaged, *few(200), averaging, key=("statistics",), device=CPU)
    buffers = [name for name, _ in last.network.named_buffers()]
    parameters = [name for name, _ in last.network.named_parameters()]
    assert all(torch.equal(weights(last)[name], weights(averaged)[name]) for name in buffers)
    assert not any(torch.equal(weights(last)[name], weights(averaged)[name]) for name in parameters)
    pixels, labels = (part[200:] for part in digits())
    assert accuracy(averaged, pixels, labels) > accuracy(last, pixels, labels) - 5 > 60


def test_weight_decay_may_spare_biases_and_norms() -> None:
    recipe = QUICK.model_copy(update={"learning_rate": 1e-9, "weight_decay": 1e8, "epochs": 1, "cutmix": 0.0})
    for spared in (False, True):
        classifier = network("decay")
        start = weights(classifier)
        train_network(
            classifier, *few(), recipe.model_copy(update={"decay_vectors": not spared}), key=("decay",), device=CPU
        )
        for name, value in weights(classifier).items():
            shrunk = float(value.abs().sum()) < 0.99 * float(start[name].abs().sum())
            if float(start[name].abs().sum()):
                assert shrunk == (value.ndim > 1 or not spared), name


def test_soft_labels_are_a_divergence_without_the_square_of_the_temperature() -> None:
    """By hand: teacher (3/4, 1/4), student (1/2, 1/2) at temperature 2."""
    teacher = 2 * torch.tensor([[0.75, 0.25]]).log()
    student = torch.zeros(1, 2)
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert soft_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert soft_loss(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-7)


def test_looks_are_evenly_spread_and_end_with_the_last_epoch() -> None:
    made = {"batch_size": 1, "learning_rate": 1.0}
    assert evaluation_epochs(Recipe(epochs=2000, evaluations=100, **made)) == [*range(20, 2001, 20)]
    assert evaluation_epochs(Recipe(epochs=300, evaluations=6, evaluations_from=5 / 6, **made)) == [
        250,
        260,
        270,
        280,
        290,
        300,
    ]
    assert evaluation_epochs(Recipe(epochs=7, evaluations=1, **made)) == [7]
    assert evaluation_epochs(Recipe(epochs=3, evaluations=100, **made)) == [1, 2, 3]


def test_training_neither_reads_nor_moves_the_global_stream() -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        classifier = network("global")
        train_network(classifier, *few(), QUICK, key=("global",), device=CPU)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(weights(classifier))
    assert same(*found)


def test_a_trained_network_is_left_in_eval_mode_without_gradients() -> None:
    classifier = network("left")
    train_network(classifier, *few(), QUICK, key=("left",), device=CPU)
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_more_epochs_teach_more() -> None:
    reached = []
    for epochs in (1, 20):
        classifier = network("more")
        recipe = Recipe(epochs=epochs, batch_size=16, learning_rate=5e-4, shift=1)
        train_network(classifier, *few(120), recipe, key=("more",), device=CPU)
        reached.append(accuracy(classifier, *digits()))
    assert reached[0] + 5 < reached[1]


@pytest.mark.parametrize("training", [True, False])
def test_asking_for_logits_leaves_mode_and_statistics_as_they_were(training: bool) -> None:
    classifier = network("mode", name="test_resnet").train(training)  # it has batch norm
    before = copy.deepcopy(classifier.state_dict())
    logits = logits_of(classifier, few()[0], batch_size=7)
    assert classifier.training is training
    assert all(module.training is training for module in classifier.modules())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    torch.testing.assert_close(logits_of(classifier.eval(), few()[0]), logits, rtol=1e-4, atol=1e-4)


def test_accuracy_is_in_percent_of_the_images() -> None:
    classifier, (pixels, _) = network("percent"), few(8)
    answers = logits_of(classifier, pixels).argmax(1)
    assert accuracy(classifier, pixels, answers) == 100
    assert accuracy(classifier, pixels, torch.where(torch.arange(8) < 2, answers, answers + 1)) == 25


# ---- the stages ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilled")
    pixels, labels = few(24)
    write_images(folder / "set.parquet", image_set_of(pixels, labels, slot=np.arange(24) // 4), MADE_BY)
    pixels, labels = (values[300:400] for values in digits())
    write_images(folder / "test.parquet", image_set_of(pixels, labels), MADE_BY)
    return folder


def evaluated(distilled: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    defaults: dict[str, Any] = {
        "seed": 0,
        "method": "lgd",
        "ipc": 6,
        "network": NETWORK,
        "protocol": "quick",
        "recipe": QUICK,
        "students": 2,
        "speed": Speed(),
    }
    settings = evaluate.Settings(**{**defaults, **options})
    images, test = distilled / "set.parquet", distilled / "test.parquet"
    evaluate.run(
        settings,
        images=images,
        test=test,
        evaluations=out,
        history=out.with_suffix(".history"),
        job=job("evaluate", settings, [images, test]),
    )
    return read_table(out, "evaluate").to_pylist()


def curves(rows: list[dict[str, Any]]) -> list[tuple[int, int, float]]:
    return [(row["student"], row["epoch"], row["accuracy"]) for row in rows]


def test_students_of_two_methods_start_from_the_same_weights_and_see_the_same_numbers(
    distilled: Path, tmp_path: Path
) -> None:
    one = evaluated(distilled, tmp_path / "one.parquet", method="lgd", ipc=6)
    other = evaluated(distilled, tmp_path / "other.parquet", method="random", ipc=2)
    assert curves(one) == curves(other)
    assert {(row["method"], row["ipc"]) for row in other} == {("random", 2)}


def test_students_of_one_method_differ_and_so_do_seeds(distilled: Path, tmp_path: Path) -> None:
    rows = curves(evaluated(distilled, tmp_path / "one.parquet"))
    first, second = ([look[1:] for look in rows if look[0] == student] for student in (0, 1))
    assert [epoch for epoch, _ in first] == [2, 3, 5]
    assert first != second
    assert curves(evaluated(distilled, tmp_path / "two.parquet", seed=1)) != rows


@pytest.mark.parametrize("stop", [3, 2])
def test_an_evaluation_stopped_and_resumed_gives_the_same_bytes(
    stop: int, distilled: Path, tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(distilled, tmp_path / "whole.parquet")
    with stopped_at(stop, monkeypatch), pytest.raises(SystemExit):
        evaluated(distilled, tmp_path / "halves.parquet")
    evaluated(distilled, tmp_path / "halves.parquet")
    assert (tmp_path / "halves.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not list(tmp_path.glob("*.resume.safetensors"))


def student(distilled: Path, out: Path, previous: Path | None = None, **options: Any) -> Classifier:
    defaults: dict[str, Any] = {"seed": 0, "increment": 1, "network": NETWORK, "start": "fresh", "recipe": QUICK}
    settings = train_student.Settings(**{**defaults, **options})
    images = [distilled / "set.parquet"]
    train_student.run(
        settings,
        images=images,
        previous=previous,
        model=out,
        history=out.with_suffix(".history"),
        job=job("train_student", settings, images),
    )
    return Classifier.load(out, "train_student")


def test_a_continued_student_goes_on_from_the_last_one_and_a_fresh_one_does_not(
    distilled: Path, tmp_path: Path
) -> None:
    still = QUICK.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0})
    first = student(distilled, tmp_path / "1.safetensors")
    continued = student(
        distilled,
        tmp_path / "2.safetensors",
        tmp_path / "1.safetensors",
        increment=2,
        start="continued",
        recipe=still,
    )
    fresh = student(distilled, tmp_path / "3.safetensors", increment=2, recipe=still)
    pixels = few()[0]
    torch.testing.assert_close(logits_of(continued, pixels), logits_of(first, pixels), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits_of(fresh, pixels), logits_of(first, pixels), atol=0.1)


def test_students_of_two_methods_start_alike_for_each_increment(distilled: Path, tmp_path: Path) -> None:
    one, again = (student(distilled, tmp_path / f"{name}.safetensors") for name in "ab")
    other = student(distilled, tmp_path / "c.safetensors", increment=2)
    assert same(weights(one), weights(again))
    assert not same(weights(one), weights(other))


def test_the_only_student_is_what_it_was_before_others_could_be_asked_for(distilled: Path, tmp_path: Path) -> None:
    """Its stream is that of (seed, stage, increment), and its settings name nothing else."""
    out, key = tmp_path / "student.safetensors", (0, "train_student", 2)
    student(distilled, out, increment=2)
    settings = train_student.Settings(seed=0, increment=2, network=NETWORK, start="fresh", recipe=QUICK)
    assert json.loads(canonical(settings)).keys() == {"seed", "increment", "network", "start", "recipe"}
    alone = Classifier(NETWORK, CLASSES, DOMAIN, key)
    train_network(alone, *few(24), QUICK, key=key, device=CPU)
    alone.save(tmp_path / "alone.safetensors", job("train_student", settings).provenance)
    assert out.read_bytes() == (tmp_path / "alone.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "student.history", "alone.safetensors"}


RESNET = "resnet_ap10_w4"
AVERAGED = QUICK.model_copy(update={"ema_decay": 0.9})


def students(distilled: Path, out: Path, previous: Path | None = None, **options: Any) -> list[Classifier]:
    """Four networks, two of each architecture, after two and after five epochs: the first one, then the others."""
    out.mkdir(exist_ok=True)
    recipe = options.pop("recipe", AVERAGED)
    names = [(NETWORK, 1), (RESNET, 0), (RESNET, 1)]
    others = [train_student.Student(network=name, number=number, recipe=recipe) for name, number in names]
    facts: dict[str, Any] = {"seed": 0, "increment": 1, "network": NETWORK, "start": "fresh", "recipe": recipe}
    settings = train_student.Settings(**{**facts, "others": others, "checkpoints": [2], **options})
    images = [distilled / "set.parquet"]
    train_student.run(
        settings,
        images=images,
        previous=previous and previous / "student.safetensors",
        previous_others=previous and previous / "others.safetensors",
        model=out / "student.safetensors",
        others=out / "others.safetensors",
        history=out / "history.parquet",
        job=job("train_student", settings, images),
    )
    return load_students(out / "student.safetensors", out / "others.safetensors", CPU)


def test_several_students_are_networks_of_their_own_and_the_first_is_that_of_one(
    distilled: Path, tmp_path: Path
) -> None:
    made = students(distilled, tmp_path / "several")
    assert [one.name for one in made] == [NETWORK] * 4 + [RESNET] * 4
    alone = student(distilled, tmp_path / "alone.safetensors", recipe=AVERAGED)
    assert same(weights(made[0]), weights(alone))
    answers = [logits_of(one, few()[0]) for one in made]
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in itertools.combinations(answers, 2))
    assert not any(one.training or any(p.requires_grad for p in one.parameters()) for one in made)
    history = read_table(tmp_path / "several" / "history.parquet", "train_student").to_pandas()
    assert history.groupby("network").size().to_dict() == dict.fromkeys(range(4), QUICK.epochs)


def test_an_architecture_more_changes_no_other_network(distilled: Path, tmp_path: Path) -> None:
    whole = students(distilled, tmp_path / "whole")
    recipe = AVERAGED
    fewer = students(
        distilled,
        tmp_path / "fewer",
        others=[train_student.Student(network=RESNET, number=number, recipe=recipe) for number in (0, 1)],
    )
    assert [one.name for one in fewer] == [NETWORK] * 2 + [RESNET] * 4
    for one, other in zip(fewer, [*whole[:2], *whole[4:]], strict=True):
        assert same(weights(one), weights(other))


def test_a_checkpoint_is_the_network_that_would_be_tested_then(distilled: Path, tmp_path: Path) -> None:
    """At a constant rate two epochs of five are two epochs; the average of the weights is what is tested."""
    still = AVERAGED.model_copy(update={"schedule": "constant"})
    made = students(distilled, tmp_path / "several", recipe=still)
    short = student(distilled, tmp_path / "short.safetensors", recipe=still.model_copy(update={"epochs": 2}))
    assert same(weights(made[1]), weights(short))


@pytest.mark.parametrize(
    ("loop", "stop"),
    [
        ("student.safetensors", 1),
        ("student.safetensors", 5),
        ("student-1", 2),
        ("student-2", 3),
        ("student-3", 5),
    ],
)
def test_students_stopped_and_resumed_give_the_same_bytes(
    loop: str, stop: int, distilled: Path, tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first network and in later ones, before a checkpoint and after it, and when all are trained."""
    students(distilled, tmp_path / "whole")
    with stopped_at(stop, monkeypatch, loop), pytest.raises(SystemExit):
        students(distilled, tmp_path / "halves")
    students(distilled, tmp_path / "halves")
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert files.keys() == {"student.safetensors", "others.safetensors", "history.parquet"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "halves").iterdir()} == files


def test_each_of_several_continued_students_goes_on_from_its_own_end(distilled: Path, tmp_path: Path) -> None:
    still = QUICK.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0})
    first = students(distilled, tmp_path / "1", recipe=QUICK)
    continued = students(distilled, tmp_path / "2", tmp_path / "1", increment=2, start="continued", recipe=still)
    pixels = few()[0]
    ends = [0, 3, 5, 7]  # each network after its last epoch
    for end in ends:
        # batch norm has moving averages, which go on
        close = {"rtol": 1e-4, "atol": 1e-4} if first[end].name == NETWORK else {"rtol": 0.3, "atol": 0.3}
        torch.testing.assert_close(logits_of(continued[end], pixels), logits_of(first[end], pixels), **close)


def test_networks_beside_the_first_one_need_a_file(distilled: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="others: a file for the networks beside the first one"):
        student(distilled, tmp_path / "student.safetensors", checkpoints=[2])


def test_a_reference_records_its_accuracy_and_resumes_to_the_same_answers(
    distilled: Path, tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = train_reference.Settings(
        seed=0, name="real", network=NETWORK, recipe=PROTOCOLS["sgd"], pretrained=False, rows=None
    )

    def make(out: Path) -> Classifier:
        images = distilled / "test.parquet"
        run = job("train_reference", settings, [images])
        files = {"images": images, "model": out}
        train_reference.run(
            settings, **files, by_class=out.with_suffix(".csv"), history=out.with_suffix(".history"), job=run
        )
        return Classifier.load(out, "train_reference")

    whole = make(tmp_path / "whole.safetensors")
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        make(tmp_path / "halves.safetensors")
    assert same(weights(make(tmp_path / "halves.safetensors")), weights(whole))
    assert not list(tmp_path.glob("*.resume.safetensors"))
    _, about = read_tensors(tmp_path / "whole.safetensors", "train_reference")
    pixels, labels = (values[300:400] for values in digits())
    assert about["accuracy_on_training_images"] == accuracy(whole, pixels, labels)


def test_a_last_batch_of_one_image_joins_the_one_before_it() -> None:
    """Batch norm has no variance of a single value, and no image may be left out for that."""
    pixels = torch.randint(0, 256, (9, 1, 32, 32), dtype=torch.uint8, generator=stream("pixels"))
    classifier = Classifier("test_resnet", ["a", "b"], Domain(32, 1), ("weights",))
    train_network(
        classifier,
        pixels,
        torch.arange(9) % 2,
        Recipe(epochs=1, batch_size=8, learning_rate=2e-3, cutmix=1.0),
        key=("training",),
        device=torch.device("cpu"),
    )
    assert all(torch.isfinite(value).all() for value in classifier.state_dict().values())


def test_images_that_would_fill_a_card_stay_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, card = torch.zeros(1, 1, 20, 20, dtype=torch.uint8), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(400 / MOST_OF_CARD) - 1, 10**9))
    assert placed(pixels, card) is pixels
    assert placed(pixels, CPU) is pixels
