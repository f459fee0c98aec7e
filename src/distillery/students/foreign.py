"""Whether a network of timm can be trained on images of a side, tried without weights before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd import grad

from distillery.devices import plain_attention
from distillery.students.features import last_linear
from distillery.students.networks import Classifier, Domain


def network_fault(
    name: str, classes: Sequence[str], domain: Domain, *, stateless: bool = False, features: bool = False
) -> str | None:
    """Why a network cannot be trained on such images, as a clause that names it; None if it can.

    A batch passes through it on the meta device, where nothing is computed; a network that computes with what it sees
    is built on the CPU instead.

    Args:
        stateless: whether its gradients are compared: it must have no running statistics, and a second derivative.
        features: whether it must end in one linear layer.
    """
    try:
        try:
            classifier = _passed(name, classes, domain, "meta")
        except (NotImplementedError, RuntimeError):  # the meta device lacks an operation, or a number
            classifier = _passed(name, classes, domain, "cpu")
    except Exception as error:  # timm and torch raise anything here, AssertionError among it
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{name} cannot take images of {domain.size} px: {why}{_advice(name)}"
    if features:
        try:
            last_linear(classifier)
        except ValueError as error:
            return str(error)
    if stateless and any(True for _ in classifier.network.buffers()):
        return f"{name} has running statistics or other buffers, and gradients of one network are compared"
    missing = _no_second_derivative(classifier) if stateless else None
    if missing is not None:  # the meta device may lack an operation that the CPU has
        missing = _no_second_derivative(_passed(name, classes, domain, "cpu"))
    return None if missing is None else f"{name} has no second derivative, by which gradients are compared: {missing}"


def _no_second_derivative(classifier: Classifier) -> str | None:
    """Why the gradient of a network's weights cannot be differentiated by its images; None if it can."""
    size, channels, parameters = classifier.domain.size, classifier.domain.channels, list(classifier.parameters())
    images = torch.zeros(2, channels, size, size, device=parameters[0].device, requires_grad=True)
    try:
        with plain_attention():
            loss = classifier.network(images).logsumexp(1).sum()
        gradients = grad(loss, parameters, create_graph=True, allow_unused=True)
        sizes = [gradient.square().sum() for gradient in gradients if gradient is not None]
        grad(torch.stack(sizes).sum(), images)
    except RuntimeError as error:  # torch says which operation has none
        return str(error).splitlines()[0]
    return None


def _passed(name: str, classes: Sequence[str], domain: Domain, device: str) -> Classifier:
    with torch.device(device):
        classifier = Classifier(name, classes, domain)
        logits = classifier(torch.zeros(2, domain.channels, domain.size, domain.size))
    if logits.shape != (2, len(classes)):
        raise ValueError(f"it answers a tensor of {tuple(logits.shape)} to 2 images and {len(classes)} classes")
    return classifier


def _advice(name: str) -> str:
    """The sides that timm states."""
    import timm

    published = timm.models.get_pretrained_cfg(name)
    if not published or not published.input_size:
        return ""
    least = published.min_input_size
    return f" (timm: {published.input_size[-1]} px{f', {least[-1]} or more' if least else ''})"
