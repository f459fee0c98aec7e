"""Distilled sets as the field stores them: images and labels in `.pt`, `.npy` or `.npz` files.

Pickles are read with `weights_only=True` or not at all: such a file can be damaged or hostile, but not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from distillery.data.channels import NAMED, Known
from distillery.errors import BadInput
from distillery.settings import Block, Number, Positive

if TYPE_CHECKING:
    import numpy as np

ENDINGS = (".pt", ".pth", ".npy", ".npz")

IMAGE_KEYS = ("images", "image", "data", "x")
LABEL_KEYS = ("labels", "label", "targets", "y")
"""What images and labels are called in files that hold both."""


def _one_or_three(values: list[float]) -> list[float]:
    if len(values) not in (1, 3):
        raise ValueError(f"{len(values)} channels; allowed: 1 or 3")
    return values


class Standardised(Block):
    """Values are (intensity - mean) / std, with intensities from 0 to 1."""

    mean: Annotated[list[Number], AfterValidator(_one_or_three)] = Field(description="Of each channel.")
    std: Annotated[list[Positive], AfterValidator(_one_or_three)] = Field(description="Of each channel.")


Range = Literal["0..1", "0..255"]
Normalization = Range | Known | Standardised


@dataclass(frozen=True)
class ImageArrays:
    """A set in memory.

    Attributes:
        pixels: (N, C, H, W) uint8, C = 1 or 3.
        labels: (N,) int64.
        soft: (N, classes) float32 probabilities; None: the labels are hard.
        clipped: the share of values that lay outside the range of intensities.
    """

    pixels: np.ndarray
    labels: np.ndarray
    soft: np.ndarray | None
    clipped: float


def is_array(place: str) -> bool:
    """Whether a place is a file of arrays by its name."""
    return place.lower().endswith(ENDINGS)


def read_arrays(
    key: str, images: str, labels: str | None, normalization: Normalization, classes: Sequence[str]
) -> ImageArrays:
    """The images and labels of a set.

    Args:
        key: of the method, for errors.
        images: a file of images, or of images and labels.
        labels: a file of labels; None: they are in `images`. Whole numbers (N,) are positions in `classes`; numbers
            (N, classes) are soft labels: probabilities where all rows are, else logits.
        normalization: of the values of the images.

    Raises:
        BadInput: a file holds something else than arrays, or arrays of other shapes.
    """
    import numpy as np

    where = f"{key}.images: {images}"
    first = _opened(where, images)
    if labels is None:
        if not isinstance(first, tuple):
            raise BadInput(f"{where}: holds images alone; name the file of their labels in {key}.labels")
        values, answers = first
    else:
        values = first[0] if isinstance(first, tuple) else first
        second = _opened(f"{key}.labels: {labels}", labels, alone=True)
        answers = second[1] if isinstance(second, tuple) else second
    where_labels = f"{key}.labels: {labels}" if labels else where
    pixels, clipped = _pixels(where, values, normalization)
    soft = _soft(where_labels, answers, len(classes)) if answers.ndim == 2 else None
    hard = answers if soft is None else soft.argmax(1)
    if len(hard) != len(pixels) or hard.ndim != 1:
        raise BadInput(f"{where_labels}: labels of shape {answers.shape} for {len(pixels)} images")
    whole = hard.astype(np.int64)
    if (whole != hard).any() or whole.min(initial=0) < 0 or whole.max(initial=0) >= len(classes):
        raise BadInput(
            f"{where_labels}: labels are no whole numbers from 0 to {len(classes) - 1}, the places of the "
            f"{len(classes)} classes of the data"
        )
    return ImageArrays(pixels, whole, soft, clipped)


def _opened(where: str, path: str, alone: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """What a file holds: one array, or images and labels."""
    import numpy as np

    try:
        if path.lower().endswith((".pt", ".pth")):
            import torch

            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            content = np.load(path, allow_pickle=False)
            content = {name: content[name] for name in content.files} if path.lower().endswith(".npz") else content
    except Exception as error:  # whatever a broken or hostile file raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BadInput(f"{where}: holds something else than arrays ({reason}); save plain tensors or arrays") from error
    if isinstance(content, Mapping):
        images, labels = (next((content[name] for name in keys if name in content), None) for keys in _KEYS)
        content = [images, labels] if labels is not None and not (alone and images is None) else labels or images
        if content is None or (isinstance(content, list) and content[0] is None):
            raise BadInput(f"{where}: has no entry called {' or '.join(LABEL_KEYS if alone else IMAGE_KEYS)}")
    if isinstance(content, list | tuple) and len(content) == 1:
        content = content[0]  # the public code of DC saves a list of sets
    if isinstance(content, list | tuple) and len(content) == 2:
        return _array(where, content[0]), _array(where, content[1])
    return _array(where, content)


_KEYS = (IMAGE_KEYS, LABEL_KEYS)


def _array(where: str, value: Any) -> np.ndarray:
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().float().numpy() if value.is_floating_point() else value.detach().numpy()
    if not isinstance(value, np.ndarray) or not np.can_cast(value.dtype, np.float64, "same_kind"):
        raise BadInput(f"{where}: holds something else than arrays of numbers; save images and labels as arrays")
    return value


def _pixels(where: str, values: np.ndarray, normalization: Normalization) -> tuple[np.ndarray, float]:
    """Values as (N, C, H, W) uint8, and the share of them that was clipped."""
    import numpy as np

    if values.ndim == 4 and values.shape[1] not in (1, 3) and values.shape[3] in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or values.shape[1] not in (1, 3) or not values.size:
        raise BadInput(f"{where}: images of shape {values.shape}; allowed: (N, C, H, W) or (N, H, W, C), C = 1 or 3")
    scaled = _intensities(where, values.astype(np.float32), normalization) * 255
    if not np.isfinite(scaled).all():
        raise BadInput(f"{where}: holds values that are no finite numbers; replace them")
    rounded = np.floor(scaled + 0.5)
    outside = float(((rounded < 0) | (rounded > 255)).mean())
    return rounded.clip(0, 255).astype(np.uint8), outside


def _intensities(where: str, values: np.ndarray, normalization: Normalization) -> np.ndarray:
    """Values as intensities, 0 to 1."""
    import numpy as np

    if normalization == "0..1":
        return values
    if normalization == "0..255":
        return values / np.float32(255)
    mean, std = NAMED[normalization] if isinstance(normalization, str) else (normalization.mean, normalization.std)
    if {len(mean), len(std)} - {1, values.shape[1]}:
        raise BadInput(f"{where}: images of {values.shape[1]} channels, and the normalization has {len(mean)}")
    shape = (1, -1, 1, 1)
    spread, middle = (np.array(numbers, dtype=np.float32).reshape(shape) for numbers in (std, mean))
    return values * spread + middle


def _soft(where: str, answers: np.ndarray, classes: int) -> np.ndarray:
    """Soft labels as probabilities (N, classes)."""
    import numpy as np

    if answers.shape[1] != classes:
        raise BadInput(f"{where}: soft labels of {answers.shape[1]} classes, and the data have {classes}")
    values = answers.astype(np.float64)
    if not np.isfinite(values).all():
        raise BadInput(f"{where}: holds soft labels that are no finite numbers; replace them")
    if (values < 0).any() or (abs(values.sum(1) - 1) > 1e-3).any():
        values = np.exp(values - values.max(1, keepdims=True))
    return (values / values.sum(1, keepdims=True)).astype(np.float32)
