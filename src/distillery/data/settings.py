"""Settings of the data: where the images come from and what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from distillery.data.channels import Known
from distillery.data.identity import class_list_called, class_lists
from distillery.settings import Block, Exponent, Fraction, InputPath, Pixels, Seed, UserPath


class _Source(Block):
    """What is asked of every source."""

    @property
    def files(self) -> list[str]:
        """Its files, where they are few enough to be declared as inputs of a rule."""
        return []

    @property
    def called(self) -> str:
        """What its images are called: its kind, or the last folder or file of its path that has a name of its own.

        No folder above the clone: `../data/imagenette2/train` is `imagenette2`, and `hf/train-00000.parquet` is `hf`.
        """
        paths = getattr(self, "train", None)
        if not paths:
            return str(getattr(self, "kind", ""))
        parts = Path(paths if isinstance(paths, str) else paths[0]).with_suffix("").parts
        own = [part for part in parts if part not in ("/", "..") and not part.startswith(("train", "data"))]
        return own[-1] if own else parts[-1]

    @property
    def has_test(self) -> bool:
        """Whether it brings its own test images."""
        return bool(getattr(self, "test", None))


class Digits(_Source):
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships: no download."""

    kind: Literal["digits"]


class Folder(_Source):
    """A folder that holds one folder of images per class."""

    kind: Literal["folder"]
    train: UserPath = Field(description="Folder of class folders.")
    test: UserPath | None = Field(None, description="The same for the test images; none: see `holdout`.")
    origin: str | None = Field(
        None, description="What to download and where to put it, for whoever has no such folder."
    )


class Parquet(_Source):
    """Parquet files in the Hugging Face image layout: a struct of `bytes` and `path`, and an integer label."""

    kind: Literal["parquet"]
    train: list[InputPath] = Field(min_length=1, description="Files of training images.")
    test: list[InputPath] = Field([], description="Files of test images; none: see `holdout`.")
    origin: str | None = Field(None, description="What to download and where to put it, for whoever has no such file.")
    sha256: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        {}, description="File, as named here -> the digest that it must have."
    )
    image_column: str = "image"
    label_column: str = "label"

    @property
    def files(self) -> list[str]:
        """The files of both splits."""
        return [*self.train, *self.test]


Source = Annotated[Digits | Folder | Parquet, Field(discriminator="kind")]


class Holdout(Block):
    """Which share of the training source becomes the test set, stratified by class."""

    fraction: Fraction = 0.25
    seed: Seed = 0


class Validation(Block):
    """Which share of the training images becomes the validation set, stratified by class."""

    fraction: Fraction = 0.1
    seed: Seed = 0


Filter = Literal["bicubic", "bilinear"]


class Resample(Block):
    """The filter, antialiased, that an image of another size is brought to `resolution` with."""

    train: Filter = Field("bicubic", description="Of training and validation images; generators were trained so.")
    test: Filter = Field(
        "bicubic", description="Of test images; the public code of `minimax`, `igd`, `rded` and `ld3m` has `bilinear`."
    )


class ZCA(Block):
    """Whitening of whole images, fitted on the training images (MTT, arXiv 2203.11932)."""

    eps: Annotated[float, Field(gt=0, le=100), Exponent] = Field(
        0.1, description="Added to the eigenvalues of the covariance of standardised images."
    )


MOST_WHITENED = 4_096
"""Values of an image that is whitened: the map is a matrix of as many rows, and its time grows with their cube."""


def images_held_out(images: int, fraction: float) -> int:
    """How many of so many images of a class are held out: a share, one at least, and never all of two or more."""
    return min(max(min(int(images * fraction + 0.5), images - 1), 1), images)


def _named_list(value: Any) -> Any:
    """The wnids of a published class list, where one is named."""
    return class_list_called(value) if isinstance(value, str) else value


class Dataset(Block):
    """The images that are distilled, and the images that networks are tested on."""

    source: Source
    resolution: Annotated[int, Field(ge=8, le=2_048)] = Field(description="Side of the square images in pixels.")
    channels: Literal["grey", "rgb"] = "rgb"
    crop: Literal["center", "stretch", "pad"] = Field(
        "center",
        description="How an image becomes square: its middle, the whole of it distorted, or the whole of it on black.",
    )
    resample: Resample = Resample()
    normalization: Known = Field(
        "imagenet",
        description="Mean and standard deviation of the channels by name: of the images that networks compare which "
        "optimise images, and of protocols with `normalize: dataset`.",
    )
    zca: ZCA | None = Field(
        None,
        description="Whitening. Networks that compare, experts, those that choose a snapshot and those of the "
        "evaluation see whitened images; sets are stored and shown without it. None: off.",
    )
    classes: Annotated[list[str] | None, BeforeValidator(_named_list)] = Field(
        None,
        min_length=2,
        description="Class names in the order of their labels, or the name of a published list (imagenette, imagewoof, "
        "imagenet100, …); none: all, class folders sorted by name, those of Parquet files in their order. A wnid of "
        "ImageNet-1K stands for its names, and they for it.",
        json_schema_extra={
            "anyOf": [
                {"type": "array", "items": {"type": "string"}, "minItems": 2},
                {"type": "string"},
                {"type": "null"},
            ]
        },
    )
    holdout: Holdout | None = Field(None, description="Needed where the source has no test images.")
    validation: Validation | None = Field(
        None,
        description="Training images that nothing is trained on: settings and snapshots are chosen by them, so that "
        "nothing is chosen on the test images. They are drawn after `holdout`. None: all are trained on.",
    )
    test_names: str | None = Field(
        None,
        min_length=1,
        description="Test images are those whose file names begin so; others are left out. `ILSVRC2012_val_` keeps "
        "what a network that was pretrained on ImageNet has not seen.",
    )
    max_rejected: Fraction = Field(0.01, description="A larger share of unreadable images stops the run.")
    max_leaked: Fraction = Field(
        0.01,
        description="A larger share of test images whose picture is a training or validation image too stops the run, "
        "and so does one of validation images whose picture is a training image too.",
    )
    near_duplicates: int | None = Field(
        None,
        ge=0,
        le=7,
        description="Bits, of the 64 of a difference hash, in which two images of one picture may differ; none: only "
        "images of equal pixels are one picture.",
    )
    max_pixels: Pixels = Field(100_000_000, description="An image of more pixels is rejected unread.")

    @property
    def values(self) -> int:
        """Numbers in an image."""
        return (1 if self.channels == "grey" else 3) * self.resolution**2

    @property
    def as_stored(self) -> Dataset:
        """The data set without what only tells how networks see its images."""
        return self.model_copy(update={"normalization": "imagenet", "zca": None})

    @property
    def called(self) -> str:
        """The name of the published class list that it has, or what its source is called."""
        wanted = tuple(self.classes or ())
        return next((name for name, wnids in class_lists().items() if wnids == wanted), self.source.called)
