"""Constants and deviations of public code that a protocol can switch on: what each changes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import CLASSES, CPU, SIDE, digits
from torch import Tensor

from distillery.data.channels import NAMED
from distillery.students import augment
from distillery.students.networks import Classifier, Domain
from distillery.students.presets import NO_AUGMENTATION
from distillery.students.settings import Protocol, Recipe, Speed
from distillery.students.training import schedule_factor, train_networks


def recipe(preset: str, **constants: Any) -> Recipe:
    return Protocol(preset=preset, **constants).recipe(network="convnet3", ipc=10, classes=10)


def test_the_constants_of_dsa() -> None:
    made = recipe("dsa")
    constants = {
        **{"epochs": 1000, "batch_size": 256, "optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9},
        **{
            "weight_decay": 5e-4,
            "schedule": "step_at_half",
            "evaluations": 1,
            "labels": "hard",
            "normalize": "dataset",
        },
        **{"dsa": "color_crop_cutout_flip_scale_rotate", "dsa_align_corners": False, "ema_decay": 0.0, "size": None},
    }
    assert {name: getattr(made, name) for name in constants} == constants


def test_the_rate_of_dsa_falls_to_a_tenth_after_epoch_half_plus_one() -> None:
    factors = [schedule_factor(recipe("dsa"), epoch) for epoch in range(1000)]
    assert set(factors[:502]) == {1.0} and set(factors[502:]) == {0.1}


@pytest.mark.parametrize("preset", ["minimax", "igd", "rded", "ld3m", "dsa", "small"])
def test_without_augmentation_images_are_only_resized_and_standardised(preset: str) -> None:
    made = recipe(preset, augment=False, size=SIDE, normalize="half", **({"teacher": "t"} if preset == "rded" else {}))
    assert {name: getattr(made, name) for name in NO_AUGMENTATION} == NO_AUGMENTATION
    pixels = digits()[0][:4]
    rows = augment.draw_epoch(made, 4, SIDE, SIDE, torch.Generator().manual_seed(0))
    assert rows.keys() == {"order"} and augment.draw_batch(made, 4, SIDE, torch.Generator()) == {}
    half = torch.full((1, 1, 1), 0.5)
    assert torch.equal(augment.augment(pixels, {}, {}, made, half, half), pixels / 255 * 2 - 1)
    assert Protocol(preset=preset).augments(10) and not Protocol(preset=preset, augment=False).augments(10)


def test_scale_and_rotate_align_corners_as_the_recipe_says() -> None:
    pixels, uniform = digits()[0][:4], torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    half = torch.full((1, 1, 1), 0.5)
    seen = {}
    for aligned in (True, False):
        made = Recipe(epochs=1, batch_size=4, learning_rate=0.1, dsa="rotate", dsa_align_corners=aligned)
        seen[aligned] = augment.augment(pixels, {"dsa": uniform}, {"operation": torch.tensor(0)}, made, half, half)
        expected = augment.dsa(pixels / 255 * 2 - 1, "rotate", uniform, align_corners=aligned)
        assert torch.equal(seen[aligned], expected)
    assert not torch.equal(seen[True], seen[False])


# ---- SVHN's mean -----------------------------------------------------------------------------------------------------


def test_generated_images_are_trained_on_with_the_mean_of_svhn_and_the_deviation_of_their_own() -> None:
    pixels = torch.randint(256, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = Domain.named("imagenet", SIDE, 3).statistics(CPU)
    own, shifted = (
        augment.augment(pixels, {}, {}, recipe("ld3m", svhn_mean=on, augment=False), mean, std) for on in (False, True)
    )
    svhn = torch.tensor(NAMED["svhn"][0])[:, None, None]
    assert torch.allclose(shifted - own, ((mean - svhn) / std).expand_as(own), atol=1e-5)


# ---- batch norm that moves twice -------------------------------------------------------------------------------------


def trained(network: str, twice: bool, networks: int = 1, epochs: int = 1) -> list[dict[str, Tensor]]:
    """The states of networks after steps on one batch each epoch."""
    pixels, labels = digits()
    made = Recipe(
        epochs=epochs,
        batch_size=16,
        learning_rate=0.01,
        optimizer="sgd",
        schedule="constant",
        double_batchnorm_update=twice,
    )
    classifiers = [Classifier(network, CLASSES, Domain(SIDE, 1), (number,)) for number in range(networks)]
    train_networks(
        classifiers,
        pixels[:16],
        labels[:16],
        made,
        keys=[(number,) for number in range(networks)],
        device=CPU,
        speed=Speed(precision="float32"),
    )
    return [classifier.network.state_dict() for classifier in classifiers]


def test_running_statistics_move_twice_in_a_step_and_weights_as_before() -> None:
    """With momentum 0.1 they go 1 - 0.9^2 = 0.19 of the way to those of the batch, not 0.1."""
    (once,), (twice,) = (trained("convnet2_bn_w8", on) for on in (False, True))
    means = [name for name in once if name.endswith("running_mean")]
    assert len(means) == 2
    for name in means:
        assert torch.allclose(twice[name], 1.9 * once[name], rtol=1e-4, atol=1e-6)
        variance = name.replace("mean", "var")
        assert torch.allclose(twice[variance] - 1, 1.9 * (once[variance] - 1), rtol=1e-3, atol=1e-5)
    weights = [name for name in once if "running" not in name and "tracked" not in name]
    assert all(torch.equal(once[name], twice[name]) for name in weights)


def test_several_networks_at_once_move_twice_as_one_does() -> None:
    together = trained("convnet2_bn_w8", True, networks=2, epochs=2)
    (alone,) = trained("convnet2_bn_w8", True, epochs=2)
    assert all(torch.allclose(together[0][name].float(), alone[name].float(), atol=1e-4) for name in alone)


def test_a_network_without_running_statistics_is_the_same() -> None:
    (once,), (twice,) = (trained("convnet2_w8", on, epochs=2) for on in (False, True))
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize("name", ["svhn_mean", "double_batchnorm_update"])
@pytest.mark.parametrize("preset", ["minimax", "igd", "rded", "ld3m", "dsa"])
def test_deviations_are_off_unless_asked_for_and_are_part_of_the_label(name: str, preset: str) -> None:
    assert not getattr(recipe(preset, **({"teacher": "t"} if preset == "rded" else {})), name)
    protocol = Protocol.model_validate({"preset": preset, name: True})
    assert protocol.label == f"{preset}+{name}=True" and not protocol.unmodified(10)
