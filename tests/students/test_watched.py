"""Images that are watched during training: what networks say of them, after which epochs, and that nothing changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import CLASSES, CPU, NETWORK, SIDE, StoppedAt, digits
from torch.nn import functional as F

import distillery.storage.resume
from distillery.storage.resume import Resume
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import Watched, logits_of, train_network, train_networks

RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=2e-3, shift=2, cutmix=0.5)


def network(number: int = 0) -> Classifier:
    return Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("watched", number))


def watch(epochs: set[int]) -> Watched:
    pixels, labels = digits()
    return Watched(pixels[100:160], labels[100:160], frozenset(epochs))


def train(watched: Watched | None, resume: Resume | None = None, epochs: int = 4) -> Classifier:
    trained, (pixels, labels) = network(), digits()
    recipe = RECIPE.model_copy(update={"epochs": epochs, "schedule": "constant"})
    train_network(
        trained, pixels[:40], labels[:40], recipe, key=("watched", 0), device=CPU, watched=watched, resume=resume
    )
    return trained


def losses(classifier: Classifier, watched: Watched) -> torch.Tensor:
    return F.cross_entropy(logits_of(classifier, watched.pixels), watched.labels, reduction="none")


def test_what_is_recorded_is_minus_the_loss_of_the_network_at_those_epochs() -> None:
    watched = watch({0, 3, 4})
    last = train(watched)
    before, third, fourth = watched.log_probability
    assert torch.allclose(-before[0], losses(network(), watched), atol=1e-5)
    assert torch.allclose(-third[0], losses(train(None, epochs=3), watched), atol=1e-5)
    assert torch.allclose(-fourth[0], losses(last, watched), atol=1e-5)


def test_watching_changes_nothing_of_the_training() -> None:
    seen, unseen = train(watch({0, 1, 2, 3, 4})).state_dict(), train(None).state_dict()
    assert all(torch.equal(seen[name], unseen[name]) for name in unseen)


def test_networks_trained_at_once_are_asked_one_by_one() -> None:
    alone, several, (pixels, labels) = watch({2}), watch({2}), digits()
    keys = [("watched", number) for number in range(2)]
    for number in range(2):
        train_networks(
            [network(number)],
            pixels[:40],
            labels[:40],
            RECIPE,
            keys=keys[number : number + 1],
            device=CPU,
            watched=alone,
        )
    both = [network(0), network(1)]
    train_networks(both, pixels[:40], labels[:40], RECIPE, keys=keys, device=CPU, watched=several)
    assert torch.allclose(several.log_probability[0], torch.cat(alone.log_probability), atol=1e-4)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_training_that_was_stopped_has_recorded_the_same(stop: int, tmp_path: Path, no_request: None) -> None:
    whole, resumed = watch({0, 2, 4}), watch({0, 2, 4})
    train(whole)
    with pytest.raises(SystemExit):
        train(watch({0, 2, 4}), StoppedAt(tmp_path / "network", "a", stop))
    distillery.storage.resume.clear_stop()
    train(resumed, Resume(tmp_path / "network", "a"))
    assert torch.equal(torch.stack(resumed.log_probability), torch.stack(whole.log_probability))
