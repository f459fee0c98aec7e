"""What presets promise: the constants of the field's protocols, and a label that says what an experiment changed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from distillery.students.presets import PRESETS
from distillery.students.settings import Protocol, Recipe, Reference
from distillery.students.training import schedule_factor


def recipe(preset: str, *, ipc: Any = 10, classes: int = 10, network: str = "convnet6", **constants: Any) -> Recipe:
    return Protocol(preset=preset, **constants).recipe(network=network, ipc=ipc, classes=classes)


def steps(made: Recipe, images: int) -> int:
    return made.epochs * -(-images // made.batch_size)


@pytest.mark.parametrize(
    ("preset", "constants"),
    [
        (
            "rded",
            {
                **{"epochs": 300, "optimizer": "adamw", "weight_decay": 0.01, "schedule": "half_cosine"},
                **{"size": 224, "resize_first": False, "test_scale": 256 / 224, "crop_scale": [0.5, 1.0]},
                **{"crop_ratio": [3 / 4, 4 / 3], "strip_shuffle": 2, "flip": True, "cutmix": 1.0},
                **{"labels": "soft", "temperature": 20.0, "decay_vectors": False, "normalize": "imagenet"},
                **{"evaluations": 6, "evaluations_from": 5 / 6, "dsa": "", "color_jitter": 0.0, "lighting": 0.0},
            },
        ),
        (
            "ld3m",
            {
                **{"epochs": 1000, "batch_size": 256, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
                **{"schedule": "warmup_cosine", "ema_decay": 0.995, "normalize": "imagenet", "evaluations": 1},
                **{"dsa": "color_crop_cutout_flip_scale_rotate", "labels": "hard", "cutmix": 0.0, "size": None},
            },
        ),
    ],
)
def test_the_constants_of_the_other_protocols(preset: str, constants: dict[str, Any]) -> None:
    made = recipe(preset, network="convnet6", teacher="t") if preset == "rded" else recipe(preset)
    assert {name: getattr(made, name) for name in constants} == constants


@pytest.mark.parametrize(
    ("ipc", "ten", "hundred"),
    [
        (1, 3000, 2000),
        (2, 2000, 1300),
        (10, 2000, 1300),
        (11, 1500, 1000),
        (50, 1500, 1000),
        (51, 1000, 600),
        (200, 1000, 600),
        (201, 500, 300),
        (500, 500, 300),
        (501, 300, 200),
        ("full", 300, 200),
    ],
)
@pytest.mark.parametrize("preset", ["minimax", "igd"])
def test_epochs_by_ipc_are_those_of_the_public_code(preset: str, ipc: Any, ten: int, hundred: int) -> None:
    assert recipe(preset, ipc=ipc).epochs == ten
    assert recipe(preset, ipc=ipc, classes=99).epochs == ten
    assert recipe(preset, ipc=ipc, classes=100).epochs == hundred
    assert recipe(preset, ipc=ipc, classes=1000).epochs == ten


@pytest.mark.parametrize(("ipc", "expected"), [(10, 4000), (20, 6000), (50, 12000), (70, 11000), (100, 16000)])
def test_steps_of_ten_classes_are_not_monotonic_in_ipc(ipc: int, expected: int) -> None:
    assert steps(recipe("minimax", ipc=ipc), 10 * ipc) == expected


def test_minimax_is_sgd_and_igd_is_the_same_with_adamw() -> None:
    minimax, igd = recipe("minimax"), recipe("igd")
    changed = {name for name in Recipe.model_fields if getattr(minimax, name) != getattr(igd, name)}
    assert changed == {"optimizer", "learning_rate", "weight_decay"}
    assert (minimax.optimizer, minimax.learning_rate, minimax.momentum, minimax.weight_decay) == (
        "sgd",
        0.01,
        0.9,
        5e-4,
    )
    assert (igd.optimizer, igd.learning_rate, igd.betas, igd.weight_decay) == ("adamw", 1e-3, [0.9, 0.999], 0.01)
    assert (minimax.batch_size, minimax.cutmix, minimax.labels, minimax.size) == (64, 1.0, "hard", 224)
    assert (minimax.crop_scale, minimax.color_jitter, minimax.lighting, minimax.flip) == ([0.5, 1.0], 0.4, 0.1, True)


def test_more_than_a_hundred_classes_have_other_constants_under_minimax() -> None:
    many = recipe("minimax", classes=1000)
    assert (many.learning_rate, many.weight_decay, many.batch_size) == (0.1, 1e-4, 128)
    assert recipe("minimax", classes=100).learning_rate == 0.01
    assert recipe("igd", classes=1000).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("ipc", "few", "many"), [(1, 10, 20), (9, 10, 20), (10, 50, 100), (20, 50, 100), (50, 100, 200), (200, 100, 200)]
)
def test_the_batch_of_rded_is_that_of_the_next_smaller_listed_ipc(ipc: int, few: int, many: int) -> None:
    assert recipe("rded", ipc=ipc).batch_size == few
    assert recipe("rded", ipc=ipc, classes=100).batch_size == many
    assert recipe("rded", ipc=ipc, classes=1000).batch_size == many


@pytest.mark.parametrize(
    ("network", "rate"),
    [
        ("resnet18", 1e-3),
        ("convnet6", 1e-3),
        ("efficientnet_b0", 2e-3),
        ("mobilenetv2_100", 2.5e-3),
        ("vgg11_in", 5e-4),
        ("alexnet_small", 1e-4),
        ("vit_base_patch16_224", 1e-4),
        ("swin_tiny_patch4_window7_224", 1e-4),
    ],
)
def test_rded_has_a_learning_rate_for_each_kind_of_student(network: str, rate: float) -> None:
    assert recipe("rded", network=network).learning_rate == rate


def test_the_schedule_of_rded_ends_at_one_half() -> None:
    made = recipe("rded")
    factors = [schedule_factor(made, epoch) for epoch in (0, 150, 299)]
    assert factors == pytest.approx([1, 0.854, 0.503], abs=1e-3)


def test_the_schedule_of_ld3m_goes_up_and_down() -> None:
    made = recipe("ld3m", network="vgg11_in")
    factors = [schedule_factor(made, epoch) for epoch in (0, 250, 500, 501, 750, 999)]
    assert factors == pytest.approx([1e-7, 0.5, 1, 1, 0.503, 3.9e-5], abs=1e-3)
    assert factors[-1] == pytest.approx(3.9e-5, abs=1e-6)
    assert (made.learning_rate, made.ema_decay, made.evaluations) == (1e-4, 0.995, 1)
    assert recipe("ld3m").learning_rate == 1e-3


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_alone_is_its_label(name: str) -> None:
    assert Protocol.model_validate(name).label == Protocol(preset=name).label == name


def test_a_label_says_every_constant_that_was_changed() -> None:
    changed = Protocol.model_validate(
        {"preset": "minimax", "size": 128, "epochs_fraction": 0.05, "epochs": {1: 7, "full": 9}}
    )
    assert changed.label == "minimax+epochs=7@1_9@full+epochs_fraction=0.05+size=128"
    made = changed.recipe(network="convnet6", ipc=1, classes=10)
    assert (made.epochs, made.size, made.optimizer) == (1, 128, "sgd")  # 7 x 0.05 is less than one epoch


def test_a_label_does_not_depend_on_the_order_of_its_keys() -> None:
    one, other = ({"epochs": {1: 7, 20: 8, "full": 9}}, {"epochs": {"full": 9, 20: 8, 1: 7}})
    assert Protocol.model_validate(one).label == Protocol.model_validate(other).label == "small+epochs=7@1_8@20_9@full"


def test_a_constant_set_by_the_experiment_holds_whatever_the_number_of_classes() -> None:
    assert recipe("minimax", classes=1000, learning_rate=0.01).learning_rate == 0.01


def test_a_fraction_of_the_epochs_is_that_fraction() -> None:
    assert recipe("minimax", ipc=50, epochs_fraction=0.04).epochs == 60


def test_sizes_may_be_text_as_json_has_them() -> None:
    made = Protocol.model_validate_json('{"preset": "small", "epochs": {"1": 20, "full": 4}}')
    assert [made.recipe(network="x", ipc=ipc, classes=2).epochs for ipc in (1, 5, "full")] == [20, 20, 4]


def test_a_reference_has_the_constants_of_references() -> None:
    assert Reference.model_validate({"network": "convnet3", "training": {"epochs": 3}}).training.preset == "reference"
    assert Reference.model_validate({"network": "convnet3", "training": "minimax"}).training.preset == "minimax"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("minimaxx", "unknown preset 'minimaxx'; allowed: small, reference, minimax"),
        ({"preset": "minimax", "epoch": 3}, "epoch"),
        ({"preset": "ld3m", "dsa": "color_blur"}, "no operation 'blur'; allowed: color, crop"),
        ({"preset": "small", "cutmix": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_no_protocol_has_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Protocol.model_validate(given)


def test_an_interval_upside_down_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"1.0 lies above 0.5; allowed: the smaller one first"):
        recipe("minimax", crop_scale=[1.0, 0.5])
