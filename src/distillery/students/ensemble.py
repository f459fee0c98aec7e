"""Networks of one architecture that are trained at once: stacked weights, one optimizer, element by element."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from distillery.devices import compiled, trains_in_bfloat16
from distillery.lean_imports import without_compiler
from distillery.storage.resume import load_optimizer, optimizer_tensors
from distillery.storage.tensors import below
from distillery.streams import Key, stream
from distillery.students.batches import Step
from distillery.students.networks import Classifier
from distillery.students.settings import Recipe, Speed


class Ensemble:
    """Networks that are trained at once: one as it is, several as stacked weights under `vmap`.

    Args:
        side: of the images that they see, in pixels.
    """

    def __init__(
        self, classifiers: Sequence[Classifier], recipe: Recipe, device: torch.device, speed: Speed, side: int
    ) -> None:
        self.classifiers, self.recipe, self.device = classifiers, recipe, device
        first = classifiers[0]
        for classifier in classifiers:
            classifier.to(device).requires_grad_(True).train()
        # Without compilation a CPU is slower so, and torch ends in a segmentation fault on networks of few channels.
        last = speed.channels_last and (device.type == "cuda" or speed.compile)
        self.layout = torch.channels_last if last else torch.contiguous_format
        for classifier in classifiers:
            classifier.to(memory_format=self.layout)
        self.mean, self.std = first.domain.statistics(device)
        self.whitening = None if first.domain.whitening is None else first.domain.whitening.to(device)
        half = trains_in_bfloat16(device, speed.precision, side)
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

    def tested_snapshot(self) -> dict[str, Tensor]:
        """The first network as it would be tested now: its weights or their average, by `Classifier.state_dict`."""
        tested = (self.ema or self.parameters) | self.buffers
        first = {name: value[0] if self.stacked else value for name, value in tested.items()}
        return {f"network.{name}": value.detach().cpu().clone() for name, value in first.items()}

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def _move_statistics(self, step: Step, dropout: Key) -> None:
        """Pass a batch through for the running statistics alone, as the public code of RDED does for its accuracy."""
        with _dropout_from((*dropout, "again"), self.device, drops_out(self.classifiers[0])), self.autocast():
            self.forward(step.images)

    @without_compiler()
    def step(self, step: Step, teacher: Tensor | None, dropout: Key) -> Tensor:
        """One step of the optimizer; the loss of each network before it, summed over its images, (S,)."""
        if self.recipe.double_batchnorm_update:
            self._move_statistics(step, dropout)
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
            seen = seen if self.whitening is None else self.whitening(seen)
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
