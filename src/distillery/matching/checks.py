"""Checks of methods that optimise images, before anything computes. torch is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillery.data.channels import Known
from distillery.data.identity import hint_of
from distillery.matching.settings import Experts
from distillery.storage.tensors import described_tensors
from distillery.students.settings import Recipe

_BEFORE = {"normalization": "imagenet", "whitening": "none"}
"""What files of experts had that do not say it."""


def wrong_steps(steps: int, length: int, uneven: bool) -> str | None:
    """Why so many steps do not fit a schedule; None if they do."""
    even = [number for number in range(2, length + 1) if length % number == 0]
    if steps > length:
        return f"{steps} steps of a schedule of {length}; allowed: 2 to {length}"
    if uneven or steps in even:
        return None
    near = ", ".join(map(str, sorted(sorted(even, key=lambda number: abs(number - steps))[:4])))
    if steps == 1:
        return (
            f"1 step has no residual, and starts at the lowest level of all; allowed: {near}, …, or uneven: true; "
            "without diffusion: kind: autoencoder"
        )
    first = (steps - 1) * (length // steps)
    return (
        f"{steps} steps do not divide a schedule of {length}: the highest level would be that of timestep {first}; "
        f"allowed: {near}, … (divisors of {length}), or uneven: true"
    )


def check_expert_files(
    key: str,
    block: Experts,
    *,
    network: str,
    classes: Sequence[str],
    size: int,
    channels: int,
    epochs: int,
    normalization: Known,
    whitened: bool,
) -> Iterator[str]:
    """Whether files of experts, where the experiment names them, are of this network, of such images and trained so."""
    wanted = {
        "network": network,
        "classes": list(classes),
        "size": size,
        "channels": channels,
        "epochs": epochs,
        "normalization": normalization,
        **({} if whitened else {"whitening": "none"}),
        "recipe": block.recipe(epochs, normalization).model_dump(mode="json"),
    }
    for file in block.files or ():
        try:
            about = described_tensors(Path(file))
        except (OSError, ValueError) as error:
            yield f"{key}.files: {file!r} cannot be read ({error}); give a file of train_experts"
            continue
        if why := wrong_experts(about, wanted):
            yield f"{key}.files: {file}: {why}; give others, or leave files out to train them here"


def wrong_experts(about: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Why experts do not fit: the first of `wanted` that they are not, as a clause; None if they do."""
    if about.get("network") is None or about.get("epochs") is None:
        return "it is not a file of train_experts"
    words = {
        "data": "it was trained on other images ({found}, and these are {value})",
        "classes": "it knows the classes {found}, and the data have {value}",
        "size": "its experts are of {found} px, and {value} is wanted",
        "channels": "its experts are of {found} channels, and {value} is wanted",
        "normalization": "its experts saw images standardised as {found}, and dataset.normalization is {value}",
        "whitening": "its experts saw images of another whitening ({found}, and here it is {value})",
        "epochs": "its trajectories have {found} epochs, and epoch {value} is read (epochs + max_start_epoch - 1)",
    }
    for name, value in wanted.items():
        own = about.get(name, _BEFORE.get(name))
        if name == "recipe":
            if why := _other_recipe(own, value):
                return why
            continue
        if own < value if name == "epochs" else own != value:
            hint = hint_of(value, own) if isinstance(own, list) and isinstance(value, list) else ""
            shown = [", ".join(part) if isinstance(part, list) else part for part in (own, value)]
            template = words.get(name, "its experts are of {found}, and {value} is wanted")
            return template.format(found=shown[0], value=shown[1]) + hint
    return None


_READ = ("epochs", "evaluations", "evaluations_from")
"""Constants of a recipe that do not change the weights after an epoch, where the rate has no schedule."""

_ALWAYS = tuple(name for name, field in Recipe.model_fields.items() if field.is_required())


def _other_recipe(own: Any, wanted: Mapping[str, Any]) -> str | None:
    """The first constant of augmentation or optimiser that experts were not trained with, as a clause; None: all agree.

    A constant that a file does not name is one that came later: it has its default.
    """
    if not isinstance(own, Mapping) or any(name not in own for name in _ALWAYS):
        return "it does not say how its experts were trained"
    for name, field in Recipe.model_fields.items():
        values = [recipe.get(name, field.default) for recipe in (own, wanted)]
        if name not in _READ and values[0] != values[1]:
            found, value = (repr(one) if isinstance(one, str) else one for one in values)
            return f"its experts were trained with {name} {found}, and experts of {value} are asked for"
    return None
