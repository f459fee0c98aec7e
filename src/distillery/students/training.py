"""Training and testing of networks on one set of images, one at a time or several at once, by a recipe.

The images live on the device as uint8. Random numbers come as tables, drawn for each network from its own stream, so
what a network becomes depends neither on the networks beside it nor on where a run was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable
from distillery.divergence import refuse_diverged
from distillery.memory_limit import in_fitting_batches
from distillery.progress import Progress, count_images
from distillery.storage.history import History, history_tensors, restore_history
from distillery.storage.resume import Resume
from distillery.storage.tensors import below
from distillery.streams import Key
from distillery.students import augment
from distillery.students.batches import batches_of, placed
from distillery.students.ensemble import Ensemble, drops_out
from distillery.students.networks import Classifier
from distillery.students.settings import Recipe, Speed

Evaluated = tuple[int, float]
"""(epoch, percent of the test images that were answered rightly; not a number once a network has diverged)."""

SoftLabels = Callable[[int, slice, Tensor], Tensor]
"""(epoch, places of the batch in it, images (S, N, C, H, W) as the networks see them) -> the teacher's logits
(S, N, classes)."""


@dataclass
class Trained:
    """What training and testing one network gave.

    Attributes:
        evaluations: in the order of the epochs.
        correct: (images,) bool, which test images the network of the last epoch classifies correctly.
    """

    evaluations: list[Evaluated]
    correct: Tensor


@dataclass
class Watched:
    """Images that networks are asked about while they train, as stored: in eval mode, in fp32, without augmentation.

    Attributes:
        pixels: (M, C, H, W) uint8.
        labels: (M,) int64.
        epochs: after which networks are asked; 0 stands for before training.
        log_probability: (networks, M) fp32 on the CPU for each of those epochs, in their order: the logarithm of the
            probability of the label, minus the cross-entropy. Training appends them.
    """

    pixels: Tensor
    labels: Tensor
    epochs: frozenset[int]
    log_probability: list[Tensor] = field(default_factory=list)


@dataclass
class Checkpoints:
    """The first of the networks within its training, as it would be tested.

    Attributes:
        epochs: after which its state is kept.
        states: for each of those epochs, in their order, on the CPU, by the names of `Classifier.state_dict`. Training
            appends them.
    """

    epochs: frozenset[int]
    states: list[dict[str, Tensor]] = field(default_factory=list)


def train_network(
    classifier: Classifier,
    pixels: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    key: Key,
    device: torch.device,
    soft_labels: SoftLabels | None = None,
    resume: Resume | None = None,
    what: str = "train_network",
    kept: list[dict[str, Tensor]] | None = None,
    checkpoints: Checkpoints | None = None,
    watched: Watched | None = None,
    history: History | None = None,
) -> None:
    """Train one network in place to the last epoch; no look at test images chooses one.

    Args:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64, or (N, classes) probabilities.
        key: of the stream that order and augmentation are drawn from.
        soft_labels: the teacher, where the recipe has soft labels.
        resume: left in place at the end with the finished state; its owner calls `finish` when the outputs stand.
        kept: gains the state of the network before training and after every epoch, on the CPU, by the names of
            `Classifier.state_dict`.
        checkpoints: gains the state of the network after the epochs that it names.
        watched: gains what the network answers.
        history: of as many epochs; it gains the mean training loss and the learning rate of each.

    Raises:
        Diverged: it has diverged; what it would say of an image is no number, and the highest of none is class 0.
    """
    train_networks(
        [classifier],
        pixels,
        labels,
        recipe,
        keys=[key],
        device=device,
        soft_labels=soft_labels,
        resume=resume,
        what=what,
        kept=kept,
        checkpoints=checkpoints,
        watched=watched,
        history=history,
    )
    refuse_diverged(
        classifier.state_dict().values(),
        f"{what}: the network has diverged: weights after {recipe.epochs} epochs at learning_rate "
        f"{recipe.learning_rate:g}",
        "lower the learning_rate of its protocol",
    )


def train_networks(
    classifiers: Sequence[Classifier],
    pixels: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    keys: Sequence[Key],
    device: torch.device,
    test: tuple[Tensor, Tensor] | None = None,
    soft_labels: SoftLabels | None = None,
    speed: Speed | None = None,
    resume: Resume | None = None,
    what: str = "train_networks",
    kept: list[dict[str, Tensor]] | None = None,
    checkpoints: Checkpoints | None = None,
    watched: Watched | None = None,
    history: History | None = None,
) -> list[Trained]:
    """Train networks of one architecture in place, at once: stacked weights, one optimizer, element by element.

    Args:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64, or (N, classes) probabilities.
        keys: of each network's stream for order and augmentation.
        test: stored images (M, C, H, W) uint8 and labels (M,), looked at when the recipe says so.
        soft_labels: the teacher, where the recipe has soft labels.
        resume: left in place at the end with the finished state; its owner calls `finish` when the outputs stand.
        kept: gains the state of the first network before training and after every epoch, as `train_network` says.
        checkpoints: gains the state of the first network after the epochs that it names.
        watched: gains what the networks answer.
        history: of as many epochs; it gains the mean training loss of each network and the learning rate.

    Returns:
        One `Trained` per network; without `test`, empty ones.

    Raises:
        ValueError: soft labels without a teacher, or a teacher beside hard labels.
    """
    if (recipe.labels == "soft") != (soft_labels is not None):
        raise ValueError(f"the labels are {recipe.labels}, and there is {'no' if soft_labels is None else 'a'} teacher")
    speed = speed or Speed()
    side = recipe.size or pixels.shape[-1]
    ensemble = Ensemble(classifiers, recipe, device, speed, side)
    stored = augment.resize(pixels, side) if recipe.size and recipe.resize_first else pixels
    stored, labels = placed(stored, device), labels.to(device)
    looked = None
    if test is not None:
        looked = (augment.test_images(test[0], recipe).to(device), test[1].to(device))
    evaluations: list[list[Evaluated]] = [[] for _ in classifiers]
    keep, ask = _Keeping(kept, checkpoints, ensemble), _Asking(watched, ensemble)
    keep.after(0)
    ask.after(0)
    correct = torch.zeros(len(classifiers), len(looked[1]) if looked else 0, dtype=torch.bool)
    history = history or History(recipe.epochs, "epoch")
    start, when = 0, set(evaluation_epochs(recipe)) if looked else set()
    if resume and (checkpoint := resume.restore()):
        tensors, facts = checkpoint
        correct = tensors.pop("correct").bool()
        keep.load_state_dict(tensors)
        ask.load_state_dict(tensors)
        ensemble.load_state_dict(tensors)
        restore_history(history, tensors)
        start = facts["epoch"]
        evaluations = [[(epoch, percent) for epoch, percent in evaluated] for evaluated in facts["evaluations"]]
    with Progress(what, recipe.epochs, "epoch", start, state=history.summary) as progress:
        for epoch in range(start, recipe.epochs):
            rate = recipe.learning_rate * schedule_factor(recipe, epoch)
            ensemble.set_rate(rate)
            losses = torch.zeros(len(classifiers), device=ensemble.device)
            view = (ensemble.mean, ensemble.std, ensemble.whitening)
            for step in batches_of(stored, labels, recipe, keys, epoch, *view):
                teacher = soft_labels(epoch, step.places, step.images) if soft_labels else None
                losses += ensemble.step(step, teacher, (*keys[0], "dropout", epoch, step.places.start))
            done = epoch + 1
            history.add(done, loss=losses / len(stored), learning_rate=rate)
            ensemble.average(done)
            keep.after(done)
            ask.after(done)
            if looked and done in when:
                correct, finite = ensemble.answers(*looked)
                for network, evaluated in enumerate(evaluations):
                    percent = 100 * correct[network].double().mean().item()
                    evaluated.append((done, percent if finite[network] else math.nan))
            progress.advance()
            count_images(len(stored) * len(classifiers))
            if resume:
                resume.checkpoint(
                    lambda epochs=done, correct=correct: (  # type: ignore[misc]
                        {
                            **ensemble.state_dict(),
                            "correct": correct.to(torch.uint8),
                            **keep.state_dict(),
                            **ask.state_dict(),
                            **history_tensors(history),
                        },
                        {"epoch": epochs, "evaluations": evaluations},
                    ),
                    force=done == recipe.epochs,
                )
    ensemble.write_back()
    return [Trained(evaluated, correct[network]) for network, evaluated in enumerate(evaluations)]


class _Keeping:
    """The states of the first network that are kept: of every epoch, and at checkpoints; where nobody asks, none."""

    def __init__(
        self, kept: list[dict[str, Tensor]] | None, checkpoints: Checkpoints | None, ensemble: Ensemble
    ) -> None:
        self.kept, self.checkpoints, self.ensemble = kept, checkpoints or Checkpoints(frozenset()), ensemble

    def after(self, epochs: int) -> None:
        """Keep the state, if it is asked for."""
        if self.kept is not None:
            self.kept.append(self.ensemble.snapshot())
        if epochs in self.checkpoints.epochs:
            self.checkpoints.states.append(self.ensemble.tested_snapshot())

    def state_dict(self) -> dict[str, Tensor]:
        return _states_after("kept", self.kept or []) | _states_after("checkpoint", self.checkpoints.states)

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        if self.kept is not None:
            self.kept[:] = _states_before("kept", tensors)
        self.checkpoints.states[:] = _states_before("checkpoint", tensors)


class _Asking:
    """What networks answer to watched images during their training; without such images it does nothing."""

    def __init__(self, watched: Watched | None, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.epochs, self.asked = frozenset[int](), list[Tensor]()
        if watched is not None:
            self.epochs, self.asked = watched.epochs, watched.log_probability
            self.images = placed(augment.test_images(watched.pixels, ensemble.recipe), ensemble.device)
            self.labels = watched.labels.to(ensemble.device)

    def after(self, epochs: int) -> None:
        """Ask, if it is time to."""
        if epochs in self.epochs:
            self.asked.append(self.ensemble.log_probabilities(self.images, self.labels))

    def state_dict(self) -> dict[str, Tensor]:
        return {"watched": torch.stack(self.asked)} if self.asked else {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        if "watched" in tensors:
            self.asked[:] = tensors.pop("watched").unbind()


def _states_after(kind: str, states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{kind}/{number}/{name}": value for number, state in enumerate(states) for name, value in state.items()}


def _states_before(kind: str, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in below(tensors, f"{kind}/").items():
        number, _, name = key.partition("/")
        states.setdefault(int(number), {})[name] = value
    return [states[number] for number in sorted(states)]


def schedule_factor(recipe: Recipe, epoch: int) -> float:
    """What the learning rate is multiplied by during an epoch, counted from 0."""
    epochs = recipe.epochs
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if recipe.schedule == "half_cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs)))
    if recipe.schedule == "step":
        drops = (epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6)
        return float(0.2**drops)
    if recipe.schedule == "warmup_cosine":
        half = epochs / 2
        if epoch <= half:
            return 1e-7 + (1 - 1e-7) * epoch / half
        return 0.5 * (1 + math.cos(math.pi * (epoch - half - 1) / half))
    return 0.1 if recipe.schedule == "step_at_half" and epoch > epochs // 2 + 1 else 1.0


def evaluation_epochs(recipe: Recipe) -> list[int]:
    """After how many epochs the test set is looked at, in order; the last is `epochs`."""
    first = 1 / recipe.evaluations if recipe.evaluations_from is None else recipe.evaluations_from
    steps = max(recipe.evaluations - 1, 1)
    shares = [first + (1 - first) * look / steps for look in range(recipe.evaluations - 1)] + [1.0]
    return sorted({max(1, round(recipe.epochs * share)) for share in shares})


def in_ensembles(networks: Sequence[int], size: int, train: Callable[[Sequence[int]], list[Trained]]) -> list[Trained]:
    """Train networks in ensembles of at most `size`; one that does not fit the memory is halved, and says so."""
    results: list[Trained] = []
    in_fitting_batches(len(networks), size, lambda rows: results.extend(train(networks[rows])), "networks")
    return results


def networks_at_once(speed: Speed, students: int, device: torch.device, classifier: Classifier) -> int:
    """How many networks are trained at once."""
    if drops_out(classifier):
        return 1
    if speed.networks_at_once == "auto":
        return students if device.type == "cuda" else 1
    return min(speed.networks_at_once, students)


@torch.no_grad()
def logits_of(classifier: Classifier, pixels: Tensor, batch_size: int = 512) -> Tensor:
    """Logits (N, classes) in fp32 of stored images (N, C, H, W) uint8, without augmentation, in eval mode."""
    training = classifier.training
    classifier.eval()
    device = next(classifier.parameters()).device
    logits = torch.cat([classifier(to_unit(batch.to(device))).float() for batch in pixels.split(batch_size)])
    classifier.train(training)
    return logits


def accuracy_of_table(classifier: Classifier, table: ImageTable, batch_size: int = 256) -> float:
    """Top-1 accuracy in percent on an image table, which may be larger than the memory."""
    correct = sum(
        int((logits_of(classifier, pixels).argmax(1).cpu() == labels).sum())
        for pixels, labels in table.batches(batch_size)
    )
    return 100 * (correct / len(table))


def accuracy(classifier: Classifier, pixels: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent on stored images."""
    correct = logits_of(classifier, pixels).argmax(1).cpu() == labels.cpu()
    return 100 * correct.double().mean().item()
