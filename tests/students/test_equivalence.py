"""What fast training promises: networks as good as those of the plain loop that it stands in for."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from plain import train_plainly
from tiny import CLASSES, CPU, SIDE, digits
from torch import Tensor

from distillery.streams import stream
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Protocol, Recipe, Speed
from distillery.students.training import accuracy, train_networks

SEEDS = 16
TEAM = 4

MOST = 1.5
"""Points that two means may lie apart; one network's standard deviation here is about 1.1."""

ONE_SIDED = 1.697
"""95 % quantile of Student's t with 30 degrees of freedom."""


def recipe() -> Recipe:
    """The protocol `minimax` in all that a plain loop does otherwise, at a size that a CPU trains in seconds."""
    protocol = Protocol(preset="minimax", size=SIDE, epochs=40, batch_size=20, learning_rate=0.05)
    return protocol.recipe(network="convnet2_w16", ipc=10, classes=len(CLASSES))


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A small set in colour, and real images that it is tested on."""
    pixels, labels = digits()
    colour = pixels.expand(-1, 3, -1, -1).contiguous()
    chosen = torch.cat([(labels == label).nonzero()[:20, 0] for label in range(len(CLASSES))])
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    return colour[chosen], labels[chosen], colour[rest], labels[rest]


def networks(sets: tuple[Tensor, ...]) -> list[Classifier]:
    domain = Domain.of(sets[0], recipe())
    return [Classifier("convnet2_w16", CLASSES, domain, ("equivalence", seed)) for seed in range(SEEDS)]


@pytest.fixture(scope="module")
def plain(sets: tuple[Tensor, ...]) -> np.ndarray:
    found = []
    for seed, classifier in enumerate(networks(sets)):
        train_plainly(classifier, sets[0], sets[1], recipe(), seed)
        found.append(accuracy(classifier, sets[2], sets[3]))
    return np.array(found)


FAST = {
    "one at a time": (1, Speed(precision="float32")),
    "several at once": (TEAM, Speed(precision="float32")),
    "several at once in bfloat16": (TEAM, Speed(precision="bfloat16")),
}


@pytest.mark.parametrize("how", FAST)
def test_fast_training_reaches_what_the_plain_loop_reaches(
    how: str, plain: np.ndarray, sets: tuple[Tensor, ...]
) -> None:
    """Two one-sided tests: the difference of the means lies within the bound with 95 % on either side."""
    together, speed = FAST[how]
    fast = networks(sets)
    for at in range(0, SEEDS, together):
        keys = [("equivalence", "fast", seed) for seed in range(at, at + together)]
        train_networks(fast[at : at + together], sets[0], sets[1], recipe(), keys=keys, device=CPU, speed=speed)
    found = np.array([accuracy(classifier.float(), sets[2], sets[3]) for classifier in fast])
    print(f"plain {plain.mean():.2f} +- {plain.std(ddof=1):.2f}, {how} {found.mean():.2f} +- {found.std(ddof=1):.2f}")
    error = math.sqrt(plain.var(ddof=1) / SEEDS + found.var(ddof=1) / SEEDS)
    assert abs(found.mean() - plain.mean()) + ONE_SIDED * error < MOST
    assert 1 / 3 < found.std(ddof=1) / plain.std(ddof=1) < 3
    assert plain.mean() > 60  # chance is 25


def test_a_recipe_with_another_augmentation_does_not_pass_for_it(plain: np.ndarray, sets: tuple[Tensor, ...]) -> None:
    """The bound is tight enough to notice what matters."""
    other = recipe().model_copy(update={"color_jitter": 2.0})
    found = []
    for seed, classifier in enumerate(networks(sets)):
        train_networks([classifier], sets[0], sets[1], other, keys=[("equivalence", "other", seed)], device=CPU)
        found.append(accuracy(classifier, sets[2], sets[3]))
    assert abs(np.mean(found) - plain.mean()) > MOST


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_training_does_what_eager_training_does(sets: tuple[Tensor, ...]) -> None:
    """Two networks at once, which goes through `vmap` as well; compiling takes most of the time."""
    together = 2
    short = recipe().model_copy(update={"epochs": 2})
    found = []
    for compiled in (False, True):
        ensemble = networks(sets)[:together]
        keys = [("equivalence", "compiled", seed) for seed in range(together)]
        speed = Speed(precision="float32", compile=compiled)
        train_networks(ensemble, sets[0], sets[1], short, keys=keys, device=CPU, speed=speed)
        found.append([value for classifier in ensemble for value in classifier.network.state_dict().values()])
    for eager, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, eager, rtol=2e-3, atol=2e-3)


def test_channels_last_changes_nothing_on_a_cpu_that_does_not_compile() -> None:
    """Torch's kernels for it end in a segmentation fault there, with these channels and this side."""
    pixels = torch.randint(0, 256, (16, 3, 64, 64), generator=stream("channels"), dtype=torch.uint8)
    labels = torch.arange(16) % 4
    short = recipe().model_copy(update={"epochs": 1, "size": None})
    found = []
    for last in (False, True):
        network = Classifier("resnet10_in_w8", list("abcd"), Domain.of(pixels, short), ("channels",))
        speed = Speed(channels_last=last)
        train_networks([network], pixels, labels, short, keys=[("channels",)], device=CPU, speed=speed)
        found.append(list(network.network.state_dict().values()))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
