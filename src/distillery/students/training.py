"""Training and testing of networks on one set of images, one at a time or several at once, by a recipe.

The images live on the device as uint8. Random numbers come as tables, drawn for each network from its own stream, so
what a network becomes depends neither on the networks beside it nor on where a run was stopped.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable
from distillery.devices import compiled
from distillery.divergence import refuse_diverged
from distillery.lean_imports import without_compiler
from distillery.memory_limit import in_fitting_batches
from distillery.progress import Progress, count_images
from distillery.storage.history import History, history_tensors, restore_history
from distillery.storage.resume import Resume, load_optimizer, optimizer_tensors
from distillery.storage.tensors import below
from distillery.streams import Key, stream
from distillery.students import augment
from distillery.students.networks import Classifier
from distillery.students.settings import Recipe, Speed

Evaluated = tuple[int, float]
"""(epoch, percent of the test images that were answered rightly; not a number once a network has diverged)."""

SoftLabels = Callable[[int, slice, Tensor], Tensor]
"""(epoch, places of the batch in it, images (S, N, C, H, W) as the networks see them) -> the teacher's logits
(S, N, classes)."""

MOST_OF_CARD = 0.5
"""Of a card's free memory that the stored images may take; networks and activations need the rest."""


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
    ensemble = _Ensemble(classifiers, recipe, device, speed)
    stored = augment.resize(pixels, side) if recipe.size and recipe.resize_first else pixels
    stored, labels = placed(stored, device), labels.to(device)
    looked = None
    if test is not None:
        looked = (augment.test_images(test[0], recipe).to(device), test[1].to(device))
    evaluations: list[list[Evaluated]] = [[] for _ in classifiers]
    if kept is not None:
        kept.append(ensemble.snapshot())
    ask = _Asking(watched, ensemble)
    ask.after(0)
    correct = torch.zeros(len(classifiers), len(looked[1]) if looked else 0, dtype=torch.bool)
    history = history or History(recipe.epochs, "epoch")
    start, when = 0, set(evaluation_epochs(recipe)) if looked else set()
    if resume and (checkpoint := resume.restore()):
        tensors, facts = checkpoint
        correct = tensors.pop("correct").bool()
        if kept is not None:
            kept[:] = _kept_before(tensors)
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
            for step in _steps(stored, labels, recipe, keys, epoch, ensemble.mean, ensemble.std):
                teacher = soft_labels(epoch, step.places, step.images) if soft_labels else None
                losses += ensemble.step(step, teacher, (*keys[0], "dropout", epoch, step.places.start))
            done = epoch + 1
            history.add(done, loss=losses / len(stored), learning_rate=rate)
            ensemble.average(done)
            if kept is not None:
                kept.append(ensemble.snapshot())
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
                            **_kept_after(kept or []),
                            **ask.state_dict(),
                            **history_tensors(history),
                        },
                        {"epoch": epochs, "evaluations": evaluations},
                    ),
                    force=done == recipe.epochs,
                )
    ensemble.write_back()
    return [Trained(evaluated, correct[network]) for network, evaluated in enumerate(evaluations)]


@dataclass
class _Step:
    """One batch of each network: images (S, N, C, H, W), labels (S, N) or probabilities (S, N, classes), CutMix
    partners' labels and own shares."""

    places: slice
    images: Tensor
    labels: Tensor
    partner_labels: Tensor
    share: Tensor


def _steps(
    stored: Tensor, labels: Tensor, recipe: Recipe, keys: Sequence[Key], epoch: int, mean: Tensor, std: Tensor
) -> Iterator[_Step]:
    device, count, (height, width) = mean.device, len(stored), stored.shape[-2:]
    side = recipe.size or width
    streams = [stream(*key, "epoch", epoch) for key in keys]
    tables = [augment.draw_epoch(recipe, count, height, width, draws) for draws in streams]
    tables_at_once = {name: torch.stack([table[name] for table in tables]).to(device) for name in tables[0]}
    order = tables_at_once.pop("order")
    size = min(recipe.batch_size, count)
    edges = [*range(0, count, size), count]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:  # batch norm has no variance of a single image
        del edges[-2]
    for first, last in itertools.pairwise(edges):
        chosen = order[:, first:last]
        batches = [augment.draw_batch(recipe, last - first, side, draws) for draws in streams]
        rows = {name: table[:, first:last] for name, table in tables_at_once.items()}
        images = stored[chosen.to(stored.device)].to(device, non_blocking=True)
        yield _batch(slice(first, last), images, labels[chosen], rows, batches, recipe, mean, std)


def placed(stored: Tensor, device: torch.device) -> Tensor:
    """Images on the device; or where they are, if they would take more than `MOST_OF_CARD` of what is free there.

    Their batches are moved one at a time then, which is slower and gives the same.
    """
    if device.type == "cuda" and stored.nbytes > MOST_OF_CARD * torch.cuda.mem_get_info(device)[0]:
        return stored
    return stored.to(device)


def _batch(
    places: slice,
    images: Tensor,
    labels: Tensor,
    rows: augment.Tables,
    batches: Sequence[augment.Tables],
    recipe: Recipe,
    mean: Tensor,
    std: Tensor,
) -> _Step:
    networks, count = labels.shape[:2]
    if recipe.dsa:  # its operation is drawn per batch: networks differ in it
        seen = torch.cat(
            [
                augment.augment(images[i], {name: row[i] for name, row in rows.items()}, batches[i], recipe, mean, std)
                for i in range(networks)
            ]
        )
    else:
        flat = {name: row.flatten(0, 1) for name, row in rows.items()}
        seen = augment.augment(images.flatten(0, 1), flat, {}, recipe, mean, std)
    partner_labels, share = labels, torch.ones(networks, device=labels.device)
    if recipe.cutmix:
        mixed = torch.stack([batch["mixed"] for batch in batches]).to(labels.device)
        partner = torch.stack([batch["partner"] for batch in batches]).to(labels.device)
        box = torch.stack([batch["box"] for batch in batches]).to(labels.device) * mixed[:, None]
        offsets = count * torch.arange(networks, device=labels.device)[:, None]
        seen, own = augment.cutmix(seen, (partner + offsets).flatten(), box.repeat_interleave(count, 0))
        partner_of = partner if labels.ndim == 2 else partner[..., None].expand_as(labels)
        partner_labels, share = labels.gather(1, partner_of), own.view(networks, count)[:, 0]
    return _Step(places, seen.unflatten(0, (networks, count)), labels, partner_labels, share)


def augmented(pixels: Tensor, recipe: Recipe, key: Key, epoch: int, mean: Tensor, std: Tensor) -> Iterator[Tensor]:
    """The batches (N, C, H, W) that a network of this key sees in an epoch, of stored images (N, C, H, W) uint8."""
    stored = augment.resize(pixels, recipe.size) if recipe.size and recipe.resize_first else pixels
    nothing = torch.zeros(len(stored), dtype=torch.long, device=mean.device)
    for step in _steps(stored, nothing, recipe, [key], epoch, mean, std):
        yield step.images[0]


class _Ensemble:
    """Networks that are trained at once: one as it is, several as stacked weights under `vmap`."""

    def __init__(self, classifiers: Sequence[Classifier], recipe: Recipe, device: torch.device, speed: Speed) -> None:
        self.classifiers, self.recipe, self.device = classifiers, recipe, device
        first = classifiers[0]
        for classifier in classifiers:
            classifier.to(device).requires_grad_(True).train()
            if speed.channels_last:
                classifier.to(memory_format=torch.channels_last)
        self.layout = torch.channels_last if speed.channels_last else torch.contiguous_format
        self.mean, self.std = first.domain.statistics(device)
        half = speed.precision == "bfloat16" or (speed.precision == "auto" and device.type == "cuda")
        self.autocast = lambda: torch.autocast(device.type, torch.bfloat16, enabled=half)
        self.stacked = len(classifiers) > 1
        if self.stacked:
            if drops_out(first):
                raise ValueError(f"{first.name} has dropout, whose draws are each network's own: one at a time")
            networks = [classifier.network for classifier in classifiers]
            parameters, self.buffers = stack_module_state(networks)
            self.parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            self.base = copy.deepcopy(first.network).to("meta")
            self.forward: Callable[[Tensor], Tensor] = self._stacked_forward
            self._mapped: Any = vmap(self._one, in_dims=(0, 0, 0), randomness="error")
            if speed.compile:
                self._mapped = compiled(self._mapped)
        else:
            self.parameters = dict(first.network.named_parameters())
            self.buffers = dict(first.network.named_buffers())
            self._network: Any = compiled(first.network) if speed.compile else first.network
            self.forward = self._single_forward
        with without_compiler():
            self.optimizer = _optimizer(self.parameters, recipe, self.stacked)
        self.ema = {name: value.detach().clone() for name, value in self.parameters.items()} if recipe.ema_decay else {}

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(self.base, (parameters, buffers), (images,))

    def _stacked_forward(self, images: Tensor) -> Tensor:
        return self._mapped(self.parameters, self.buffers, images)

    def _single_forward(self, images: Tensor) -> Tensor:
        return self._network(images[0].contiguous(memory_format=self.layout))[None]

    def snapshot(self) -> dict[str, Tensor]:
        first = {name: value[0] if self.stacked else value for name, value in (self.parameters | self.buffers).items()}
        return {f"network.{name}": value.detach().cpu().clone() for name, value in first.items()}

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @without_compiler()
    def step(self, step: _Step, teacher: Tensor | None, dropout: Key) -> Tensor:
        """One step of the optimizer; the loss of each network before it, summed over its images, (S,)."""
        with _dropout_from(dropout, self.device, drops_out(self.classifiers[0])), self.autocast():
            logits = self.forward(step.images).float()
        if teacher is None:
            own = F.cross_entropy(logits.flatten(0, 1), step.labels.flatten(0, 1), reduction="none")
            other = F.cross_entropy(logits.flatten(0, 1), step.partner_labels.flatten(0, 1), reduction="none")
            share = step.share[:, None]
            loss = share * own.view(logits.shape[:2]) + (1 - share) * other.view(logits.shape[:2])
        else:
            loss = soft_loss(logits, teacher, self.recipe.temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.mean(1).sum().backward()
        self.optimizer.step()
        return loss.detach().sum(1)

    @torch.no_grad()
    def average(self, epochs: int) -> None:
        """Take the weights after so many epochs into their average: a copy at first, then 1 - 1/k up to the decay."""
        if not self.ema:
            return
        decay = 0.0 if epochs <= 2 else min(self.recipe.ema_decay, 1 - 1 / epochs)
        torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def answers(self, images: Tensor, labels: Tensor, batch_size: int = 512) -> tuple[Tensor, Tensor]:
        """(S, M) bool on the CPU, which test images each network classifies correctly; (S,) whether it is finite."""
        correct, finite = [], torch.ones(len(self.classifiers), dtype=torch.bool, device=self.device)
        with self.autocast():
            for rows, network, logits in self._logits(images, batch_size):
                correct.append(logits.argmax(1) == labels[rows])
                finite[network] &= logits.isfinite().all()
        several = len(self.classifiers)
        return torch.stack([torch.cat(correct[i::several]) for i in range(several)]).cpu(), finite.cpu()

    @torch.no_grad()
    def log_probabilities(self, images: Tensor, labels: Tensor, batch_size: int = 512) -> Tensor:
        """(S, M) fp32 on the CPU: the logarithm of the probability of the label."""
        asked = [
            -F.cross_entropy(logits.float(), labels[rows], reduction="none")
            for rows, _, logits in self._logits(images, batch_size)
        ]
        several = len(self.classifiers)
        return torch.stack([torch.cat(asked[i::several]) for i in range(several)]).cpu()

    def _logits(self, images: Tensor, batch_size: int) -> Iterator[tuple[slice, int, Tensor]]:
        """Rows of a batch, number of a network, and its logits in eval mode; the networks of a batch in their order."""
        tested = self.ema or self.parameters
        base = self.base if self.stacked else self.classifiers[0].network
        base.eval()
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            seen = (images[rows].to(self.device, torch.float32) / 255 - self.mean) / self.std
            for network in range(len(self.classifiers)):
                weights = {name: value[network] if self.stacked else value for name, value in tested.items()}
                buffers = {name: value[network] if self.stacked else value for name, value in self.buffers.items()}
                seen = seen.contiguous(memory_format=self.layout)
                yield rows, network, functional_call(base, (weights, buffers), (seen,))
        base.train()

    @without_compiler()
    def state_dict(self) -> dict[str, Tensor]:
        states = {**self._states(), "optimizer": optimizer_tensors(self.optimizer)}
        return {f"{kind}/{name}": value.detach().clone() for kind, s in states.items() for name, value in s.items()}

    def _states(self) -> dict[str, dict[str, Tensor]]:
        return {"parameter": self.parameters, "buffer": self.buffers, "ema": self.ema}

    @torch.no_grad()
    @without_compiler()
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        for kind, state in self._states().items():
            for name, value in below(tensors, f"{kind}/").items():
                state[name].copy_(value)
        load_optimizer(self.optimizer, below(tensors, "optimizer/"))

    @torch.no_grad()
    def write_back(self) -> None:
        """Put the trained weights, or their average, into the classifiers; they come out in eval mode, frozen."""
        tested = self.ema or self.parameters
        for network, classifier in enumerate(self.classifiers):
            own = dict(classifier.network.named_parameters()) | dict(classifier.network.named_buffers())
            for name, value in (tested | self.buffers).items():
                own[name].copy_(value[network] if self.stacked else value)
            classifier.eval().requires_grad_(False)


class _Asking:
    """What networks answer to watched images during their training; without such images it does nothing."""

    def __init__(self, watched: Watched | None, ensemble: _Ensemble) -> None:
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


def _kept_after(kept: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"kept/{number}/{name}": value for number, state in enumerate(kept) for name, value in state.items()}


def _kept_before(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in below(tensors, "kept/").items():
        number, _, name = key.partition("/")
        states.setdefault(int(number), {})[name] = value
    return [states[number] for number in sorted(states)]


def drops_out(classifier: Classifier) -> bool:
    """Whether a network has dropout that acts."""
    return any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in classifier.modules())


@contextmanager
def _dropout_from(key: Key, device: torch.device, needed: bool) -> Iterator[None]:
    """Dropout draws from torch's global stream: seed it from a key, and leave it as it was."""
    if not needed:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream(*key).initial_seed())
        yield


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of softmaxes of (..., classes) at a temperature, per image; without T^2, as in RDED."""
    log_student = F.log_softmax(logits / temperature, -1)
    log_teacher = F.log_softmax(teacher / temperature, -1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1)


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
    return 1.0


def evaluation_epochs(recipe: Recipe) -> list[int]:
    """After how many epochs the test set is looked at, in order; the last is `epochs`."""
    first = 1 / recipe.evaluations if recipe.evaluations_from is None else recipe.evaluations_from
    steps = max(recipe.evaluations - 1, 1)
    shares = [first + (1 - first) * look / steps for look in range(recipe.evaluations - 1)] + [1.0]
    return sorted({max(1, round(recipe.epochs * share)) for share in shares})


def _optimizer(parameters: dict[str, Tensor], recipe: Recipe, stacked: bool) -> torch.optim.Optimizer:
    """One optimizer for all networks: what it does to a weight depends on that weight alone."""
    groups: list[dict[str, Any]] = [{"params": list(parameters.values())}]
    if not recipe.decay_vectors:
        vectors = [value for value in parameters.values() if value.ndim - stacked <= 1]
        others = [value for value in parameters.values() if value.ndim - stacked > 1]
        groups = [{"params": others}, {"params": vectors, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        betas = (recipe.betas[0], recipe.betas[1])
        return torch.optim.AdamW(
            groups, recipe.learning_rate, betas=betas, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.SGD(
        groups, recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )


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
