"""Whether a network of timm can be trained on images of a side, tried without weights before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillery.students.features import last_linear
from distillery.students.networks import Classifier, Domain


def network_fault(
    name: str, classes: Sequence[str], domain: Domain, *, stateless: bool = False, features: bool = False
) -> str | None:
    """Why a network cannot be trained on such images, as a clause that names it; None if it can.

    A batch passes through it on the meta device, where nothing is computed; a network that computes with what it sees
    is built on the CPU instead.

    Args:
        stateless: whether it must have no running statistics and no dropout.
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
