"""Networks that come with their weights: from timm's hub, from a file of this project, or from a bare state dict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distillery.data.identity import hint_of, same_class
from distillery.divergence import refuse_diverged
from distillery.errors import BadInput, NotSafetensors
from distillery.storage.atomic import parse_json
from distillery.storage.tensors import load_tensors
from distillery.students.names import OURS
from distillery.students.networks import Classifier, Domain


def open_pretrained(
    weights: Path | None, network: str, classes: Sequence[str], domain: Domain, rows: Sequence[int] | None
) -> tuple[Classifier, list[int]]:
    """A network with pretrained weights that answers in the order of `classes`, and the outputs that it takes.

    Args:
        weights: a safetensors file; none: the weights that timm's hub has for the network.
        classes: names, in the order of the labels.
        rows: which outputs of the weights are the classes, in their order; none: as many outputs as classes.

    Raises:
        BadInput: weights that cannot be had, or that do not fit network or classes; the message says what would.
    """
    names: list[str] = []
    if weights is None:
        tensors = _from_hub(network, domain.channels)
    else:
        tensors, names = _from_file(weights, network)
    source = f"the weights of timm's {network}" if weights is None else str(weights)
    classifier = Classifier(network, classes, domain)
    wanted = classifier.network.state_dict()
    last = _last_layer(classifier.network)
    if f"{last}.weight" not in tensors:
        raise BadInput(f"{source}: not a {network} for images of {domain.channels} channels: it has no {last}.weight")
    outputs = len(tensors[f"{last}.weight"])
    if rows is None and names:  # a file of this project knows what its outputs are
        known = [same_class(name, names) for name in classes]
        if lacking := [name for name, output in zip(classes, known, strict=True) if output is None]:
            raise BadInput(
                f"{source}: trained on {', '.join(names[:20])}, and knows no class {', '.join(lacking[:5])}"
                f"{hint_of(lacking, names)}; give one that does, or say which of its outputs they are with "
                "references.<name>.rows"
            )
        rows = [names.index(str(name)) for name in known]
    if rows is None and outputs != len(classes):
        raise BadInput(
            f"{source}: {outputs} outputs for {len(classes)} classes; say which are the classes with "
            f"references.<name>.rows, a list of {len(classes)} numbers from 0 to {outputs - 1}"
        )
    if rows is not None:
        if len(rows) != len(classes) or max(rows) >= outputs:
            raise BadInput(
                f"references.<name>.rows: {len(rows)} numbers up to {max(rows)}; allowed: {len(classes)} numbers "
                f"from 0 to {outputs - 1}, one per class of the data"
            )
        chosen = torch.tensor(list(rows))
        tensors = {name: value[chosen] if name.startswith(f"{last}.") else value for name, value in tensors.items()}
    # Counted, and not used, by batch norm with a momentum; older files lack it.
    tensors |= {
        name: value for name, value in wanted.items() if name.endswith(".num_batches_tracked") and name not in tensors
    }
    wrong = [name for name, value in wanted.items() if name not in tensors or tensors[name].shape != value.shape] + [
        name for name in tensors if name not in wanted
    ]
    if wrong:
        raise BadInput(f"{source}: not a {network} for images of {domain.channels} channels: {', '.join(wrong[:5])}")
    refuse_diverged(tensors.values(), f"{source}: the weights", "download or train them again")
    classifier.network.load_state_dict(tensors)
    return classifier.eval().requires_grad_(False), list(range(outputs) if rows is None else rows)


def _from_hub(network: str, channels: int) -> dict[str, Tensor]:
    if OURS.fullmatch(network):
        raise BadInput(f"references: weights: timm has no pretrained {network}; give a file, or train it here")
    import timm

    try:
        model = timm.create_model(network, pretrained=True, in_chans=channels)
    except Exception as error:  # whatever the hub client raises where there is no connection or no such file
        raise BadInput(
            f"references: the weights of {network} could not be had from timm's hub ({str(error).splitlines()[0]}); "
            f"download them where there is a connection, and give their safetensors file as weights"
        ) from error
    return dict(model.state_dict())


def _from_file(path: Path, network: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a safetensors file, and the names of its classes where it is one of this project."""
    try:
        tensors, metadata = load_tensors(path)
        return tensors, parse_json(metadata.get("about", "{}")).get("classes", [])
    except (OSError, NotSafetensors) as error:
        raise BadInput(
            f"{path}: no safetensors file with weights of {network} ({error}). From a checkpoint of PyTorch: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
        ) from error


def _last_layer(network: nn.Module) -> str:
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1]
