"""What guidance by influence promises: gradients that agree, and influence that falls."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from steering import (
    LABELS,
    SLOTS,
    STEPS,
    chosen,
    drawn,
    influence_of,
    latents,
    trained,
)
from tiny import (
    CLASSES,
    CPU,
    NETWORK,
    SIDE,
    WatchedDenoiser,
    World,
    digits,
    stopped_at,
)
from torch import Tensor
from torch.nn import functional as F

from distillery.data.pixels import to_unit
from distillery.diffusion.step import Step
from distillery.errors import BadInput
from distillery.guidance.influence import Influence, InfluenceGuidance
from distillery.guidance.influence_gradients import (
    GradientDistance,
    StoredGradients,
    choose_checkpoints,
    class_gradients,
)
from distillery.storage.tensors import below, read_tensors
from distillery.streams import stream
from distillery.students.networks import Classifier, Domain


def images_of(labels: Tensor) -> Tensor:
    """Real images of these classes in [-1, 1]."""
    pixels, of = digits()
    return to_unit(pixels[[int((of == label).nonzero()[20, 0]) for label in labels.tolist()]])


def test_one_image_after_another_gives_what_all_at_once_give(surrogate: Path) -> None:
    images = images_of(LABELS).requires_grad_()
    one, other = (influence_of(surrogate, per_image=way)(images, LABELS) for way in ("vmap", "loop"))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    first, second = (torch.autograd.grad(found.sum(), images)[0] for found in (one, other))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)
    assert ((one > 0) & (one < 2)).all()


def test_the_gradients_of_classes_that_are_not_drawn_stay_in_the_file(surrogate: Path) -> None:
    influence = influence_of(surrogate)
    assert isinstance(influence.gradients, StoredGradients) and not influence.gradients.kept
    labels = LABELS[:1]
    influence(images_of(labels), labels)
    (drawn,) = influence.order[labels].tolist()
    whole = read_tensors(surrogate, "select_checkpoints")[0]["gradients"]
    assert [*influence.gradients.kept] == [(number, drawn) for number in range(len(whole))]
    for (number, label), row in influence.gradients.kept.items():
        assert torch.equal(row, whole[number, label])


def test_the_gradient_of_influence_is_that_of_finite_differences(surrogate: Path) -> None:
    influence = influence_of(surrogate)
    for state in (influence.weights, influence.buffers):
        for one in state:
            one.update({name: value.double() for name, value in one.items()})
    influence.gradients = read_tensors(surrogate, "select_checkpoints")[0]["gradients"].double()
    influence.classifier.double()
    labels = LABELS[:2]
    # Noise keeps the ReLUs away from their kinks: a flat background would sit on them.
    images = images_of(labels).double() + 0.1 * torch.randn(2, 1, SIDE, SIDE, generator=stream("noise")).double()
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(influence(images, labels).sum(), images)
    for number in range(3):
        way = torch.randn(images.shape, generator=stream("way", number), dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            slope = (influence(images + step * way, labels) - influence(images - step * way, labels)).sum() / (2 * step)
        assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=2e-3)


def test_influence_is_zero_where_the_gradient_of_the_class_is_that_of_the_image(surrogate: Path) -> None:
    influence = influence_of(surrogate)
    pixels, of = digits()
    pixels, labels = pixels[:1], of[:1]
    rows = []
    for weights in influence.weights:
        influence.classifier.load_state_dict(weights, strict=False)
        rows.append(class_gradients_of_one(influence.classifier, pixels, labels))
    influence.gradients = torch.stack(rows)
    found = influence(to_unit(pixels), labels)
    torch.testing.assert_close(found, torch.zeros(1), rtol=0, atol=1e-5)


def class_gradients_of_one(classifier: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """Gradients at one image, as those of every class."""
    parameters = [parameter.requires_grad_() for parameter in classifier.parameters()]
    found = torch.autograd.grad(F.cross_entropy(classifier(to_unit(pixels)), labels), parameters)
    flat = torch.cat([one.flatten() for one in found])
    classifier.requires_grad_(False)
    return flat.expand(len(CLASSES), -1)


def test_the_gradient_of_a_class_is_the_mean_over_its_images() -> None:
    classifier = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("steering",)).eval()
    pixels, labels = digits()
    whole = class_gradients(classifier, pixels, labels, images=7, chunk=3)
    rows = (labels == 2).nonzero()[:7, 0]
    alone = [class_gradients_of_one(classifier, pixels[row : row + 1], labels[row : row + 1])[2] for row in rows]
    torch.testing.assert_close(whole[2], torch.stack(alone).mean(0), rtol=1e-4, atol=1e-6)
    with pytest.raises(BadInput, match="class 'three' has no training images"):
        class_gradients(classifier, pixels[labels < 3], labels[labels < 3], images=7)


def test_checkpoints_are_compared_with_the_last_kept_one_and_the_threshold_is_strict() -> None:
    def at(degrees: float) -> Tensor:
        turned = torch.tensor(degrees).deg2rad()
        return torch.stack([turned.cos(), turned.sin()])[None].repeat(3, 1)

    every = [at(degrees) for degrees in (0, 40, 50, 80, 100, 101)]
    # 0.7 is the cosine of 45.6 degrees: 50 is kept, 80 lies 30 from it, 100 lies 50 from it, 101 lies 1 from that.
    assert list(choose_checkpoints(every, 0.7)) == [0, 2, 4]
    exact = [torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])]
    cosine = float(F.cosine_similarity(*exact))
    assert list(choose_checkpoints(exact, cosine)) == [0]
    assert list(choose_checkpoints(exact, cosine + 1e-6)) == [0, 1]
    mixed = [torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, -1.0]])]  # cosines 1 and -1: the mean counts
    assert list(choose_checkpoints(mixed, 0.1)) == [0, 1]
    assert list(choose_checkpoints(mixed, 0.0)) == [0]


def test_influence_falls_under_its_guidance(world: World, surrogate: Path) -> None:
    influence = influence_of(surrogate)
    found = []
    for strength in (0.0, 3.0):
        guidance = InfluenceGuidance(influence, world.codec, strength=strength, first=3, last=9)
        with torch.no_grad():
            images = world.codec.decode(drawn(world, [guidance], steps=14))
        found.append(influence(images, LABELS).detach())
        assert guidance.skipped == 0
    assert found[1].mean() < found[0].mean()


def test_influence_moves_an_image_by_a_length_that_its_gradient_does_not_change(world: World, surrogate: Path) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return self.factor * influence_of(surrogate)(images, labels)

    schedule, k, index = world.schedule(STEPS), 3.0, 6
    noisy = latents(len(LABELS)).requires_grad_()
    noise = world.denoiser()(noisy, int(schedule.timesteps[index]), LABELS)[0]
    step = Step(
        index=index, schedule=schedule, noisy=noisy, noise=noise, clean=schedule.clean(noisy, noise, index),
        sigma=torch.zeros(()), labels=LABELS, slots=SLOTS,
    )  # fmt: skip
    shifts = [
        InfluenceGuidance(Scaled(factor), world.codec, strength=k, first=5, last=7).shift(step)  # type: ignore[arg-type]
        for factor in (1.0, 1000.0)
    ]
    torch.testing.assert_close(*shifts, rtol=1e-4, atol=2e-5)
    amplitude = noise.detach().flatten(1).square().mean(1).sqrt()
    wanted = k * (1 - schedule.alphas_cumprod[index]).sqrt().float() * amplitude
    torch.testing.assert_close(shifts[0].flatten(1).norm(dim=1), wanted, rtol=1e-4, atol=1e-6)


def test_influence_acts_in_its_range_alone(world: World, surrogate: Path) -> None:
    denoiser = WatchedDenoiser(world.denoiser())
    drawn(
        world,
        [InfluenceGuidance(influence_of(surrogate), world.codec, strength=1.0, first=6, last=7)],
        denoiser=denoiser,
    )
    assert [graph for _, graph in denoiser.calls] == [STEPS - 1 - at in (6, 7) for at in range(STEPS)]


def test_a_guided_step_is_taken_as_often_as_wanted(world: World, surrogate: Path) -> None:
    once, thrice = (
        InfluenceGuidance(influence_of(surrogate), world.codec, strength=1.0, first=6, last=7, repeats=repeats)
        for repeats in (1, 3)
    )
    denoiser = WatchedDenoiser(world.denoiser())
    repeated = drawn(world, [thrice], denoiser=denoiser)
    timesteps = world.schedule(STEPS).timesteps.flip(0).tolist()
    assert [timestep for timestep, _ in denoiser.calls] == [
        timestep for at, timestep in enumerate(timesteps) for _ in range(3 if STEPS - 1 - at in (6, 7) else 1)
    ]
    assert not torch.allclose(repeated, drawn(world, [once]), atol=1e-3)


def test_the_graph_of_a_step_is_gone_when_the_next_one_begins(world: World, surrogate: Path) -> None:
    seen: list[weakref.ref[Step]] = []

    class Keeping(InfluenceGuidance):
        def shift(self, step: Step) -> Tensor:
            seen.append(weakref.ref(step))
            return super().shift(step)

    class Watching(WatchedDenoiser):
        def forward(self, *given: Any) -> Any:
            assert all(one() is None for one in seen)
            return super().forward(*given)

    guidance = Keeping(influence_of(surrogate), world.codec, strength=1.0, first=5, last=7)
    drawn(world, [guidance], denoiser=Watching(world.denoiser()))
    assert len(seen) == 3


def test_the_published_strength_is_scaled_to_the_latent() -> None:
    assert Influence(surrogate="conv").scaled_strength(4096) == 5
    assert Influence(surrogate="conv").scaled_strength(256) == 1.25
    assert Influence(surrogate="conv", strength=3.0).scaled_strength(256) == 3


def test_every_epoch_of_the_surrogate_is_kept_and_a_stop_changes_no_byte(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(world, tmp_path / "whole.safetensors")
    tensors, about = read_tensors(whole, "train_surrogate")
    assert about["checkpoints"] == 4 and about["classes"] == CLASSES
    first = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), (0, "train_surrogate", "conv"))
    assert all(torch.equal(value, below(tensors, "0/")[name]) for name, value in first.state_dict().items())
    assert not torch.equal(below(tensors, "2/")["network.0.weight"], below(tensors, "3/")["network.0.weight"])
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        trained(world, tmp_path / "stopped.safetensors")
    assert trained(world, tmp_path / "stopped.safetensors").read_bytes() == whole.read_bytes()


def test_kept_checkpoints_carry_their_gradients(world: World, surrogate: Path, tmp_path: Path) -> None:
    tensors, about = read_tensors(surrogate, "select_checkpoints")
    assert about["kept"] == [0, 2]
    assert tensors["gradients"].shape[:2] == (2, 4)
    checkpoints = surrogate.with_name("checkpoints.safetensors")
    by_threshold = chosen(world, checkpoints, tmp_path / "g.safetensors", keep=None, threshold=-1.0)
    assert read_tensors(by_threshold, "x")[1]["kept"] == [0]
    with pytest.raises(BadInput, match=r"no checkpoint 9; .* has 0 to 3"):
        chosen(world, checkpoints, tmp_path / "g.safetensors", keep=[0, 9])


def test_a_choice_of_checkpoints_that_is_stopped_goes_on(
    world: World, surrogate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = surrogate.with_name("checkpoints.safetensors")
    for name, options in {"list": {"keep": [0, 1, 3]}, "threshold": {"keep": None, "threshold": 0.99}}.items():
        whole = chosen(world, checkpoints, tmp_path / f"{name}.safetensors", **options)
        assert len(read_tensors(whole, "x")[1]["kept"]) > 2
        with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
            chosen(world, checkpoints, tmp_path / "stopped.safetensors", **options)
        capsys.readouterr()
        again = chosen(world, checkpoints, tmp_path / "stopped.safetensors", **options)
        assert "resuming at checkpoints 2" in capsys.readouterr().err
        assert again.read_bytes() == whole.read_bytes()
        assert list(tmp_path.glob("*.resume.safetensors")) == []


def test_a_surrogate_of_other_classes_is_refused(surrogate: Path) -> None:
    with pytest.raises(BadInput, match="trained on the classes zero, one, two, three, and the data have zero, four"):
        GradientDistance.load(surrogate, ["zero", "four"], CPU)


def test_classes_in_another_order_have_the_same_influence(surrogate: Path) -> None:
    order = [2, 0, 3, 1]
    permuted = GradientDistance.load(surrogate, [CLASSES[label] for label in order], CPU)
    place = torch.tensor([order.index(label) for label in LABELS.tolist()])
    images = images_of(LABELS)
    torch.testing.assert_close(permuted(images, place), influence_of(surrogate)(images, LABELS))
