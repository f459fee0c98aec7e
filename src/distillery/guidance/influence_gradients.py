"""Parameter gradients of a surrogate: those of real classes, and how far those of images lie from them (IGD).

TracIn (arXiv 2002.08484) in one sentence: an image is useful if one step of training on it moves a network as the real
class would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from distillery.data.identity import hint_of
from distillery.data.pixels import to_unit
from distillery.errors import BadInput, damaged
from distillery.storage.spool import mapped_floats
from distillery.storage.tensors import below, opened_tensor, read_tensors
from distillery.students.networks import Classifier

Weights = dict[str, Tensor]


def class_gradients(classifier: Classifier, pixels: Tensor, labels: Tensor, *, images: int, chunk: int = 50) -> Tensor:
    """Mean loss gradient of each class at the network's weights: (classes, parameters), fp32 on the CPU.

    Eval mode, no augmentation, cross-entropy.

    Args:
        pixels: (N, C, H, W) uint8.
        images: that are taken of each class, the first ones.
        chunk: images in one pass.

    Raises:
        BadInput: a class without images, or no room for what does not fit into the memory.
    """
    device = next(classifier.parameters()).device
    weights = [parameter.detach().requires_grad_() for parameter in classifier.parameters()]
    named = dict(zip(dict(classifier.named_parameters()), weights, strict=True))
    rows = mapped_floats(len(classifier.classes), sum(weight.numel() for weight in weights))
    for label, name in enumerate(classifier.classes):
        chosen = (labels == label).nonzero()[:images, 0]
        if not len(chosen):
            raise BadInput(f"class {name!r} has no training images, so there is no gradient to compare with")
        total = torch.zeros(rows.shape[1])
        for some in chosen.split(chunk):
            answers = functional_call(classifier, named, (to_unit(pixels[some].to(device)),))
            loss = F.cross_entropy(answers, torch.full((len(some),), label, device=device), reduction="sum")
            gradients = torch.autograd.grad(loss, weights)
            total += torch.cat([gradient.detach().flatten().float().cpu() for gradient in gradients])
        rows[label] = total / len(chosen)
    return rows


def choose_checkpoints(
    gradients: Iterable[Tensor], threshold: float, kept: dict[int, Tensor] | None = None, first: int = 0
) -> dict[int, Tensor]:
    """The checkpoints at which the gradients of the classes have turned away from the last kept ones.

    The first is kept. A later one is kept if the cosine with the *last kept* one, averaged over classes, lies below the
    threshold.

    Args:
        gradients: for each checkpoint in the order of training, (classes, parameters).
        kept: of those before `first`, from an earlier call; it grows in place.
        first: the place of the first of `gradients`.

    Returns:
        Place among them -> its gradients, of those that are kept.
    """
    kept = {} if kept is None else kept
    reference = kept[max(kept)] if kept else None
    for number, gradient in enumerate(gradients, first):
        if reference is None or float(F.cosine_similarity(gradient, reference, dim=1).mean()) < threshold:
            kept[number] = reference = gradient
    return kept


class StoredGradients:
    """The gradients of classes in a file: those of a class are read when an image of it is guided, and then kept.

    Of 1,000 classes they take some 30 GB, and a job draws a few of them.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        """
        Raises:
            DamagedArtifact: not a file of `select_checkpoints`.
        """
        self._file = opened_tensor(path, "gradients", "select_checkpoints")
        self._device = device
        self.kept: dict[tuple[int, int], Tensor] = {}

    def of(self, checkpoint: int, classes: Tensor) -> Tensor:
        """Gradients (N, parameters) at a kept checkpoint, of classes (N,) in the order of the surrogate."""
        return torch.stack([self._row(checkpoint, label) for label in classes.tolist()])

    def _row(self, checkpoint: int, label: int) -> Tensor:
        if (checkpoint, label) not in self.kept:
            rows = self._file[checkpoint : checkpoint + 1, label : label + 1]
            self.kept[checkpoint, label] = rows[0, 0].to(self._device)
        return self.kept[checkpoint, label]


@dataclass
class GradientDistance:
    """The kept checkpoints of a surrogate with the mean gradients of the real classes at each.

    Attributes:
        classifier: the surrogate; its own weights and buffers are not used.
        order: (classes,) position of each class among those of the surrogate, by name.
        weights, buffers: of each kept checkpoint, by the names of the classifier.
        gradients: (checkpoints, classes of the surrogate, parameters), or the file that holds them.
        per_image: how the gradient of each image is taken: all at once, or one image after another in less memory.
    """

    classifier: Classifier
    order: Tensor
    weights: Sequence[Weights]
    buffers: Sequence[Weights]
    gradients: Tensor | StoredGradients
    per_image: Literal["vmap", "loop"] = "vmap"

    @classmethod
    def load(
        cls, path: Path, classes: Sequence[str], device: torch.device, per_image: Literal["vmap", "loop"] = "vmap"
    ) -> GradientDistance:
        """Read what `select_checkpoints` wrote.

        Raises:
            BadInput: the surrogate was trained on other classes.
            DamagedArtifact: not a file of that stage.
        """
        tensors, about = read_tensors(path, "select_checkpoints", without=["gradients"])
        if "kept" not in about:
            raise damaged(path, "select_checkpoints", "it holds no gradients of classes")
        refuse_other_classes(path, about["classes"], classes)
        classifier = Classifier.described(about).to(device).eval().requires_grad_(False)
        order = torch.tensor([about["classes"].index(name) for name in classes], device=device)
        states = [below(tensors, f"{number}/") for number in about["kept"]]
        parameters = dict(classifier.named_parameters())
        weights = [{name: state[name].to(device) for name in parameters} for state in states]
        buffers = [{name: value.to(device) for name, value in s.items() if name not in parameters} for s in states]
        return cls(classifier, order, weights, buffers, StoredGradients(path, device), per_image)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """G = mean over checkpoints of 1 - cos(gradient of the image, gradient of its class): (N,), 0 to 2.

        Differentiable with respect to images (N, C, H, W) in [-1, 1]; small where both gradients agree.
        """
        of = self.order[labels]
        total = torch.zeros(len(images), device=images.device)
        for number, (weights, buffers) in enumerate(zip(self.weights, self.buffers, strict=True)):
            if self.per_image == "vmap":
                gradients = vmap(grad(self._loss), in_dims=(None, None, 0, 0))(weights, buffers, images, of)
                own = torch.cat([gradients[name].flatten(1) for name in weights], 1)
            else:
                own = torch.stack([self._alone(weights, buffers, *pair) for pair in zip(images, of, strict=True)])
            total = total + 1 - F.cosine_similarity(own, self._of_classes(number, of), dim=1)
        return total / len(self.weights)

    def _of_classes(self, checkpoint: int, classes: Tensor) -> Tensor:
        if isinstance(self.gradients, StoredGradients):
            return self.gradients.of(checkpoint, classes)
        return self.gradients[checkpoint][classes]

    def _loss(self, weights: Weights, buffers: Weights, image: Tensor, label: Tensor) -> Tensor:
        answers = functional_call(self.classifier, {**buffers, **weights}, (image[None],))
        return F.cross_entropy(answers, label[None])

    def _alone(self, weights: Weights, buffers: Weights, image: Tensor, label: Tensor) -> Tensor:
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        loss = self._loss(leaves, buffers, image, label)
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        return torch.cat([gradient.flatten() for gradient in gradients])


def refuse_other_classes(path: Path, known: Sequence[str], classes: Sequence[str]) -> None:
    """Raise `BadInput` unless the surrogate was trained on these classes."""
    if sorted(known) != sorted(classes):
        raise BadInput(
            f"{path}: the surrogate was trained on the classes {', '.join(list(known)[:20])}, and the data have "
            f"{', '.join(list(classes)[:20])}{hint_of(classes, known)}; train one on these"
        )
