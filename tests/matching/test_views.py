"""How networks that compare see images: statistics of the data set, whitening, and the mean that LD3M gives ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CPU, MADE_BY, NETWORK, SIDE, digits, image_set_of, job
from torch import Tensor

from distillery.data.channels import NAMED
from distillery.data.settings import ZCA
from distillery.data.whitening import Whitening
from distillery.errors import BadInput
from distillery.matching.experts import Trajectories, wanted_of
from distillery.matching.loop import snapshots_of
from distillery.matching.networks import Comparing
from distillery.matching.objectives import GradientMatching
from distillery.matching.real_images import RealImages
from distillery.matching.settings import Experts
from distillery.matching.spaces import PixelSpace
from distillery.methods.matching import LD3M, Pixels
from distillery.plan.experiment import Experiment
from distillery.stages import choose_snapshot, evaluate, fit_whitening, match, render, train_experts
from distillery.storage.images import read_images, write_images
from distillery.storage.tables import read_table
from distillery.storage.tensors import read_tensors
from distillery.students.settings import Recipe, Speed

MNIST: dict[str, Any] = {"normalization": "mnist"}
EXPERTS = Experts(batch_size=16)
RECIPE = EXPERTS.recipe(2, "mnist")

TRAJECTORY: dict[str, Any] = {"kind": "trajectory", "experts": "e", "epochs": 1, "max_start_epoch": 2, "steps": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits in two tables, and the whitening of the first."""
    folder = tmp_path_factory.mktemp("views")
    pixels, labels = digits()
    for name, first in (("train", 0), ("test", 24)):
        rows = torch.cat([(labels == label).nonzero()[first : first + 24, 0] for label in range(4)])
        write_images(folder / f"{name}.parquet", image_set_of(pixels[rows], labels[rows]), MADE_BY)
    settings = fit_whitening.Settings(normalization="mnist", zca=ZCA())
    done = job("fit_whitening", settings)
    fit_whitening.run(settings, data=folder / "train.parquet", whitening=folder / "zca.safetensors", job=done)
    return folder


def real(place: Path, whitened: bool = True, **options: Any) -> RealImages:
    whitening = place / "zca.safetensors" if whitened else None
    return RealImages.load(place / "train.parquet", CPU, **MNIST, whitening=whitening, **options)


def images_of(place: Path) -> Tensor:
    return real(place).pixels[:6].float() / 255


# ---- whitening -------------------------------------------------------------------------------------------------------


def test_real_images_and_ours_are_whitened_by_one_map(place: Path) -> None:
    images, seen = images_of(place), real(place)
    (mean,), (std,) = NAMED["mnist"]
    expected = Whitening.load(place / "zca.safetensors", CPU)((images - mean) / std)
    assert torch.allclose(seen.standardised(images), expected, atol=1e-5)
    assert torch.equal(seen.ours(images), seen.standardised(images))
    assert torch.equal(seen.seen(torch.arange(6)), seen.standardised(images))


def test_whitened_pixels_render_as_the_images_that_they_stand_for(place: Path) -> None:
    """The parameters are what networks see, and what is rendered, stored and shown is the picture."""
    images, seen = images_of(place), real(place)
    space = PixelSpace(images, seen.mean, seen.std, whitening=seen.domain.whitening)
    assert torch.allclose(space.parameters["pixels"], seen.standardised(images), atol=1e-5)
    assert torch.allclose(space.render(0), images, atol=1e-4)


def test_the_gradient_at_whitened_pixels_is_that_of_the_graph(place: Path) -> None:
    images, seen = images_of(place), real(place)
    space = PixelSpace(images, seen.mean, seen.std, clamp=False, whitening=seen.domain.whitening)
    assert seen.domain.whitening is not None
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    leaf = space.parameters["pixels"].clone().requires_grad_()
    rendered = seen.domain.whitening.undone(leaf) * seen.std + seen.mean
    (expected,) = torch.autograd.grad((weights * seen.standardised(rendered)).sum(), leaf)
    at_images = images.clone().requires_grad_()
    (of_images,) = torch.autograd.grad((weights * seen.standardised(at_images)).sum(), at_images)
    assert torch.allclose(space.vjp(of_images, 0)["pixels"], expected, atol=1e-3)
    assert torch.allclose(expected, weights, atol=1e-3)  # what networks see is the parameter itself


def run_whitened(place: Path, out: Path, whitened: bool) -> dict[int, dict[str, Tensor]]:
    """Experts, matching, pictures and the choice of MTT in pixels; the snapshots."""
    files = {"whitening": place / "zca.safetensors"} if whitened else {}
    data = place / "train.parquet"
    training = train_experts.Settings(
        seed=0, name="e", network=NETWORK, experts=EXPERTS, epochs=2, first=0, last=1, **MNIST
    )
    experts = out / "experts.safetensors"
    train_experts.run(
        training,
        data=data,
        **files,
        trajectories=experts,
        history=out / "e.parquet",
        job=job("train_experts", training),
    )
    method = Pixels(kind="pixel", objective=TRAJECTORY, iterations=2, step={"pixels": 1.0})
    settings = match.Settings(
        seed=0,
        name="m",
        stream="m",
        network=NETWORK,
        ipc=1,
        every=1,
        shard=0,
        method=method,
        experts_recipe=RECIPE,
        **MNIST,
    )
    snapshots = out / "snapshots.safetensors"
    match.run(
        settings,
        data=data,
        experts=[experts],
        **files,
        snapshots=snapshots,
        history=out / "h.parquet",
        job=job("match", settings),
    )
    drawing = render.Settings(seed=0, method=method, **MNIST)
    pictures = out / "pictures.parquet"
    render.run(drawing, snapshots=snapshots, **files, images=pictures, job=job("render", drawing))
    recipe = Recipe(epochs=2, batch_size=4, learning_rate=0.01, evaluations=1, normalize="mnist")
    choosing = choose_snapshot.Settings(
        seed=0, method="m", ipc=1, choose="best", network=NETWORK, recipe=recipe, students=1
    )
    choose_snapshot.run(
        choosing,
        rendered=[pictures],
        validation=place / "test.parquet",
        **files,
        images=out / "chosen.parquet",
        choice=out / "choice.parquet",
        job=job("choose_snapshot", choosing),
    )
    return snapshots_of(read_tensors(snapshots, "match")[0])


def test_trajectories_are_matched_on_whitened_images_and_pictures_are_as_they_were(place: Path, tmp_path: Path) -> None:
    paths = {whitened: tmp_path / str(whitened) for whitened in (True, False)}
    for path in paths.values():
        path.mkdir()
    whitened, plain = (run_whitened(place, paths[kind], kind) for kind in (True, False))
    assert not torch.allclose(whitened[0]["pixels"], plain[0]["pixels"], atol=0.1)
    assert not torch.equal(whitened[0]["pixels"], whitened[2]["pixels"])  # it learns
    pictures = [read_images(path / "pictures.parquet", "render") for path in paths.values()]
    first = [one.take((one.columns["iteration"] == 0).nonzero()[0]).pixels().astype(int) for one in pictures]
    assert abs(first[0] - first[1]).max() <= 1  # both begin with the same real images


def test_experts_that_saw_other_images_are_refused(place: Path, tmp_path: Path) -> None:
    run_whitened(place, tmp_path, whitened=True)
    experts = [tmp_path / "experts.safetensors"]
    assert len(Trajectories(experts, wanted_of(NETWORK, real(place), RECIPE))) == 1
    with pytest.raises(BadInput, match="its experts saw images of another whitening"):
        Trajectories(experts, wanted_of(NETWORK, real(place, whitened=False), RECIPE))
    other = RealImages.load(place / "train.parquet", CPU)
    with pytest.raises(BadInput, match=r"standardised as mnist, and dataset\.normalization is imagenet"):
        Trajectories(experts, wanted_of(NETWORK, other, RECIPE))


def evaluated(place: Path, out: Path, whitened: bool) -> list[float]:
    recipe = Recipe(epochs=3, batch_size=32, learning_rate=0.01, evaluations=3, normalize="mnist")
    settings = evaluate.Settings(
        seed=0, method="full", ipc=None, network=NETWORK, protocol="p", recipe=recipe, students=1, speed=Speed()
    )
    evaluate.run(
        settings,
        images=place / "train.parquet",
        test=place / "test.parquet",
        whitening=place / "zca.safetensors" if whitened else None,
        evaluations=out / f"{whitened}.parquet",
        history=out / f"{whitened}-history.parquet",
        job=job("evaluate", settings),
    )
    accuracies: list[float] = read_table(out / f"{whitened}.parquet", "evaluate")["accuracy"].to_pylist()
    return accuracies


def test_networks_of_the_evaluation_learn_and_are_tested_on_whitened_images(place: Path, tmp_path: Path) -> None:
    whitened, plain = evaluated(place, tmp_path, True), evaluated(place, tmp_path, False)
    assert whitened != plain
    assert whitened[-1] > 50  # four classes: test images that were not whitened would be as good as noise


# ---- the mean of SVHN ------------------------------------------------------------------------------------------------


def colour(**options: Any) -> RealImages:
    pixels = torch.arange(2 * 3 * SIDE * SIDE).remainder(256).to(torch.uint8).view(2, 3, SIDE, SIDE)
    return RealImages(pixels, torch.tensor([0, 1]), ["a", "b"], ["a", "b"], CPU, **options)


def test_the_mean_of_svhn_shifts_our_images_and_not_the_real_ones() -> None:
    """+0.21, +0.05 and -0.30 standard deviations of ImageNet's channels."""
    shifted, plain = colour(svhn_mean=True), colour()
    images = plain.pixels / 255
    assert torch.equal(shifted.standardised(images), plain.standardised(images))
    shift = (shifted.ours(images) - plain.ours(images)).mean((0, 2, 3))
    assert shift.tolist() == pytest.approx([0.2066, 0.0545, -0.2969], abs=1e-3)


def test_the_shift_changes_what_gradient_matching_compares() -> None:
    ours = torch.full((2, 3, SIDE, SIDE), 0.4)
    losses = []
    for real_images in (colour(svhn_mean=True), colour()):
        networks = Comparing("convnet1_w4", ["a", "b"], real_images.domain, CPU)
        objective = GradientMatching(real_images, networks, ("a",), batch_real=1, augment=False)
        losses.append(objective.gradient(ours, torch.tensor([0, 1]), 0)[1]["loss"])
    assert losses[0] != losses[1]


def test_only_images_of_a_generator_are_standardised_apart_in_the_evaluation() -> None:
    config = {
        "name": "x",
        "dataset": {"source": {"kind": "digits"}, "resolution": 32, "holdout": {}},
        "generators": {"dit": {}},
        "methods": {
            "ld3m": {"kind": "ld3m", "generator": "dit", "objective": "gradient", "svhn_mean": True},
            "pixel": {"kind": "pixel", "objective": "gradient"},
        },
        "ipc": [1],
        "evaluation": {"protocol": {"preset": "ld3m", "svhn_mean": True}, "networks": ["convnet3"]},
    }
    experiment = Experiment.model_validate(config)
    label = experiment.evaluation.stated[0].label
    assert label == "ld3m+svhn_mean=True"
    shifted = {
        name: evaluate.Settings.of(experiment, "", name, "1", "convnet3", label).recipe.svhn_mean
        for name in ("ld3m", "pixel")
    }
    assert shifted == {"ld3m": True, "pixel": False}
    assert experiment.method_of("ld3m", LD3M).shifts_ours and not experiment.method_of("pixel", Pixels).shifts_ours
