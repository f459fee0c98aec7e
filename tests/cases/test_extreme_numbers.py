"""A number that would diverge, not fit, or never end is refused at planning, with its key and its range."""

from __future__ import annotations

import time
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from edits import STARTER, changed, faults, put
from pydantic.fields import FieldInfo
from tiny import CPU, digits, no_resume

from distillery.diffusion.autoencoder import train_autoencoder
from distillery.plan.experiment import Experiment
from distillery.plan.load import load
from distillery.plan.size import MOST_INCREMENTS, MOST_JOBS
from distillery.settings import Block

BILLION = 10**9

EXTREMES: dict[str, tuple[str, Any]] = {
    "a wide network": ("references.real.network", "convnet3_w999999"),
    "a width that is no number": ("references.real.network", "convnet3_w" + "9" * 5000),
    "deep blocks": ("autoencoder.layers_per_block", BILLION),
    "many layers": ("generators.dit.num_layers", BILLION),
    "many heads": ("generators.dit.num_attention_heads", BILLION),
    "no heads": ("generators.dit.num_attention_heads", 0),
    "many steps": ("generators.dit.steps", BILLION),
    "steps below zero": ("autoencoder.steps", -1),
    "steps as a fraction": ("autoencoder.steps", 1.5),
    "many steps of sampling": ("generators.dit.sampling.steps", BILLION),
    "many students": ("evaluation.students", BILLION),
    "many candidates": ("methods.lgd.candidates", BILLION),
    "many epochs": ("evaluation.protocol.epochs", BILLION),
    "many epochs of one size": ("evaluation.protocol.epochs.1", BILLION),
    "many epochs of a reference": ("references.real.training.epochs", BILLION),
    "a large batch": ("generators.dit.batch_size", BILLION),
    "a large set": ("ipc", [BILLION]),
    "a set of a size below one": ("ipc", [0]),
    "a seed beyond 64 bits": ("seeds", [2**64]),
    "a seed below zero": ("seeds", [-1]),
    "a seed of the held-out images beyond 64 bits": ("dataset.holdout.seed", 2**64),
    "a large image": ("dataset.resolution", 100_000),
    "a small image": ("dataset.resolution", 7),
    "a large image of networks": ("evaluation.protocol.size", 100_000),
    "betas of one": ("evaluation.protocol.betas", [0.9, 1.0]),
    "betas above one": ("references.real.training.betas", [1.5, 0.9]),
    "three betas": ("evaluation.protocol.betas", [0.1, 0.2, 0.3]),
    "a large scale of test images": ("evaluation.protocol.test_scale", 1e6),
    "a crop above the whole": ("evaluation.protocol.crop_scale", [0.5, 2.0]),
    "a crop of nothing": ("evaluation.protocol.crop_scale", [0, 1]),
    "a reversed crop": ("evaluation.protocol.crop_scale", [1.0, 0.5]),
    "a reversed ratio": ("references.real.training.crop_ratio", [2, 1]),
    "a large learning rate": ("evaluation.protocol.learning_rate", 1e6),
    "a large learning rate of a network": ("evaluation.protocol.learning_rate.default", 1e6),
    "a large learning rate of a generator": ("generators.dit.learning_rate", 1e6),
    "a learning rate of zero": ("autoencoder.learning_rate", 0),
    "a large weight decay": ("evaluation.protocol.weight_decay", 1e6),
    "an average that stays": ("generators.dit.ema_decay", 1.0),
    "a momentum that never ends": ("evaluation.protocol.momentum", 1.0),
    "no class is ever seen": ("generators.dit.label_dropout", 1.0),
    "more tests than epochs": ("evaluation.protocol.evaluations", 3),
    "a shift past the image": ("evaluation.protocol.shift", 16),
    "more strips than pixels": ("evaluation.protocol.strip_shuffle", 17),
    "many shards of latents": ("latents.shards", BILLION),
    "many shards of a method": ("methods.dit.shards", BILLION),
    "many experts": ("experts.conv.count", BILLION),
    "no number": ("generators.dit.learning_rate", float("nan")),
    "without end": ("generators.dit.learning_rate", float("inf")),
    "a guidance without end": ("generators.dit.sampling.guidance_scale", 1e300),
    "a set of all images as a seed": ("methods.lgd.seed", "full"),
    "true": ("evaluation.students", True),
    "a number as text": ("evaluation.students", "3"),
    "a small pixel limit": ("dataset.max_pixels", 0),
}


@pytest.mark.parametrize("kind", EXTREMES)
def test_an_extreme_number_is_refused_in_one_line(kind: str) -> None:
    key, value = EXTREMES[kind]
    start = time.monotonic()
    lines = faults(put(key, value))
    assert time.monotonic() - start < 5
    assert len(lines) == 1 and len(lines[0]) < 1250
    first, _, rest = lines[0].partition(": ")
    assert first.removesuffix("[0]").removesuffix("[1]").startswith(key.removesuffix(".1"))
    assert "pydantic" not in rest and "validation error" not in rest


def test_odd_channels_are_no_extreme(tmp_path: Path) -> None:
    """Groups of their normalisation divide them: one, if nothing else does."""
    load(changed(put("autoencoder.block_out_channels", [7, 9])))
    pixels, _ = digits()
    shape = {"block_out_channels": (7, 9), "layers_per_block": 1, "latent_channels": 3}
    training = {"steps": 1, "batch_size": 2, "learning_rate": 1e-3, "kl_weight": 1e-5, "seed": 0}
    model = train_autoencoder(pixels[:4], **shape, **training, device=CPU, resume=no_resume(tmp_path))
    assert model.config.latent_channels == 3


# ---- every number ----------------------------------------------------------------------------------------------------

UNBOUNDED = {"rows", "keep", "gamma_blocks", "max_timestep", "stop", "range"}
"""Indices, which are compared with what they index, or cut it."""


def numbers(kind: Any, key: str, marks: tuple[Any, ...], seen: set[Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The keys of numbers below a type, with what bounds each."""
    if isinstance(kind, type) and issubclass(kind, Block):
        if kind in seen:
            return
        seen.add(kind)
        kind.model_rebuild()
        for name, field in kind.model_fields.items():
            yield from numbers(field.annotation, name, tuple(field.metadata), seen)
    elif kind in (int, float):
        yield key, marks
    elif typing.get_origin(kind) is typing.Annotated:
        inner, *more = typing.get_args(kind)
        bounds = [mark for part in more for mark in (part.metadata if isinstance(part, FieldInfo) else [part])]
        yield from numbers(inner, key, (*marks, *bounds), seen)
    elif typing.get_origin(kind) in (list, dict):
        for part in typing.get_args(kind):
            yield from numbers(part, key, (), seen)
    elif typing.get_origin(kind) in (typing.Union, UnionType):
        for part in typing.get_args(kind):
            yield from numbers(part, key, marks, seen)


def test_every_number_of_an_experiment_has_both_ends() -> None:
    without = {
        key
        for key, marks in numbers(Experiment, "", (), set())
        if not (any(isinstance(mark, Ge | Gt) for mark in marks) and any(isinstance(mark, Le | Lt) for mark in marks))
    }
    assert without == UNBOUNDED


# ---- what is large together ------------------------------------------------------------------------------------------

TOGETHER: dict[str, tuple[dict[str, Any], str]] = {
    "a generator of a trillion parameters": (
        {"generators.dit.num_layers": 200, "generators.dit.attention_head_dim": 4096},
        "generators.dit.num_layers: about 242 billion parameters, 4,832 GB in training; allowed: 10 billion",
    ),
    "an autoencoder of a trillion parameters": (
        {"autoencoder.block_out_channels": [8192, 8192], "autoencoder.layers_per_block": 100},
        "autoencoder.block_out_channels: about 966 billion parameters",
    ),
    "a million patches": (
        {"dataset.resolution": 2048, "generators.dit.patch_size": 1},
        "generators.dit.patch_size: 1,048,576 patches of an image; allowed: 16,384",
    ),
    "a width without sines": (
        {"generators.dit.attention_head_dim": 15},
        "generators.dit.attention_head_dim: 2 heads of",
    ),
    "more neighbours than images": (
        {"analysis.coverage": {"features": "real", "k": 1000}},
        "analysis.coverage.k: 1000 neighbours among 269 training images; allowed: 1 to 268",
    ),
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_what_is_too_large_together_is_refused(kind: str) -> None:
    settings, words = TOGETHER[kind]
    lines = faults(*(put(key, value) for key, value in settings.items()))
    assert any(line.startswith(words) for line in lines), lines


PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "seeds": ({"seeds": list(range(5000))}, "seeds: 5,000 of a plan of 160,000 jobs over 5,000 seeds; allowed: 20,000"),
    "shards": (
        {"methods.dit.shards": 1000, "seeds": list(range(20))},
        "methods.dit: 2,002 of a plan of 40,600 jobs over 20 seeds; allowed: 20,000 jobs in all",
    ),
    "experts": (
        {"experts.conv": {"count": 1_000_000, "per_shard": 1}},
        "experts.conv.count: 1,000,000 of a plan of 1,000,032 jobs over 1 seeds",
    ),
    "sizes": ({"ipc": list(range(1, 20_000))}, "methods.lgd.increment_size: 19999 increments for ipc 19999"),
    "networks": (
        {"evaluation.networks": [f"convnet2_w{width}" for width in range(1, 3000)]},
        "evaluation.networks: 20,993 of a plan of 21,018 jobs over 1 seeds",
    ),
}


@pytest.mark.parametrize("kind", PLANS)
def test_a_plan_that_takes_minutes_is_refused_before_it_is_made(kind: str) -> None:
    settings, words = PLANS[kind]
    start = time.monotonic()
    lines = faults(*(put(key, value) for key, value in settings.items()))
    assert time.monotonic() - start < 5
    assert lines[0].startswith(words), lines


def test_the_largest_plans_are_accepted() -> None:
    """The bound is no obstacle: a hundred seeds, and two hundred increments."""
    load(changed(put("seeds", list(range(100)))))
    config = changed(put("ipc", [MOST_INCREMENTS]))
    config["methods"] = {"lgd": config["methods"]["lgd"]}
    config["dataset"] = {**STARTER["dataset"], "holdout": {"fraction": 0.1}, "resolution": 16}
    config["analysis"], config["evaluation"]["full_data"] = {}, False
    with pytest.raises(Exception, match="ipc: 200 images per class, but class"):
        load(config)  # its random images are too few, and nothing else is wrong
    assert MOST_JOBS >= 2000


def test_few_images_of_a_class_are_counted_for_all_that_reads_them(tmp_path: Path) -> None:
    """Three images of a class: one chooses a snapshot, and coverage looks for neighbours among the rest."""
    for name in ("a", "b"):
        for split, count in (("train", 3), ("test", 1)):
            for number in range(count):
                path = tmp_path / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    source = {"kind": "folder", "train": str(tmp_path / "train"), "test": str(tmp_path / "test")}

    def edit(config: dict[str, Any]) -> None:
        config["dataset"].update(source=source, classes=["a", "b"], holdout=None, validation={})
        config["ipc"] = [3]
        config["analysis"]["coverage"] = {"features": "real"}
        config["methods"]["dm"] = {"kind": "pixel", "objective": "distribution"}

    lines = faults(edit)
    assert "analysis.coverage.k: 5 neighbours among 4 training images; allowed: 1 to 3" in lines
    assert any(
        line.startswith("ipc: 3 images per class, but class 'a' has 2 training images after those") for line in lines
    )
