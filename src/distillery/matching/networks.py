"""The networks that compare: drawn anew from a stream, and nothing but their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distillery.errors import BadInput
from distillery.streams import Key
from distillery.students.ensemble import drops_out
from distillery.students.features import last_linear
from distillery.students.names import NOT_COMPARED
from distillery.students.networks import Classifier, Domain


def stateful(classifier: Classifier) -> bool:
    """Whether the gradient of a network depends on more than its weights: on buffers, or on dropout."""
    return drops_out(classifier) or any(True for _ in classifier.network.buffers())


class Comparing:
    """Makes networks of one architecture, in fp32 on the device."""

    def __init__(self, name: str, classes: Sequence[str], domain: Domain, device: torch.device) -> None:
        """
        Raises:
            BadInput: a network with running statistics or dropout: its gradient is not of its weights alone.
        """
        self.name, self.classes, self.domain, self._device = name, list(classes), domain, device
        if stateful(Classifier(name, classes, domain)):
            raise BadInput(f"network: {NOT_COMPARED.format(name=name)}")

    def classifier(self, key: Key) -> Classifier:
        """A network of this key's weights, which ask for gradients."""
        return Classifier(self.name, self.classes, self.domain, key).to(self._device).requires_grad_(True)

    def new(self, key: Key) -> nn.Module:
        """The network alone: standardised images (N, C, H, W) to logits (N, classes)."""
        network: nn.Module = self.classifier(key).network
        return network

    def embedding(self, key: Key) -> Embedding:
        """A frozen network as the features that it sees."""
        return Embedding(self.classifier(key).requires_grad_(False))


class Embedding:
    """The features of a network: the input of its last linear layer, with a graph to the images."""

    def __init__(self, classifier: Classifier) -> None:
        self._network, self._seen = classifier.network, list[Tensor]()
        last_linear(classifier).register_forward_pre_hook(lambda _, inputs: self._seen.append(inputs[0]))

    def __call__(self, images: Tensor) -> Tensor:
        """Standardised images (N, C, H, W) to features (N, F)."""
        self._network(images)
        return self._seen.pop()
