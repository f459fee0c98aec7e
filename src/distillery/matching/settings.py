"""Settings of methods that optimise images: spaces, objectives, steps, experts, and the choice among snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from distillery.data.channels import Known
from distillery.diffusion.settings import kind_of_name
from distillery.settings import (
    Batch,
    BelowOne,
    Block,
    Count,
    Decay,
    Epochs,
    ImageRate,
    InputPath,
    Name,
    Positive,
    Rate,
    Repeats,
    Steps,
)
from distillery.students.presets import DSA
from distillery.students.settings import Network, Protocol, Recipe

Whole = Annotated[int, Field(ge=0)]


def drawn(sizes: Sequence[float], batch: int) -> float:
    """Real images in one step: of each class a batch, or all that there are."""
    return sum(min(batch, size) for size in sizes)


class _Objective(Block):
    """What methods ask an objective, whichever it is."""

    published_rate: ClassVar[float]
    """Of DSA, DM and MTT for standardised pixels; LD3M took them over for latents and class vectors."""

    trains_inside: ClassVar[bool] = True
    """Whether a network learns within it, at a rate of its own."""

    learns_rate: ClassVar[bool] = False
    """Whether a step size on the images is learned with them."""

    @property
    def couples_classes(self) -> bool:
        """Whether networks learn from all classes together."""
        return False

    @property
    def updates(self) -> int:
        """Steps of the images in one iteration."""
        return 1

    def passes(self, sizes: Sequence[float], images: float) -> float:
        """Least number of forward passes that a step takes, of single images; one back counts as two.

        Args:
            sizes: real images of each class.
            images: of ours.
        """
        raise NotImplementedError

    @property
    def last_epoch(self) -> int | None:
        """The last epoch of an expert that is read; None: it needs no experts."""
        return None


class Gradient(_Objective):
    """Gradient matching (DC, arXiv 2006.05929) under siamese augmentation (DSA, arXiv 2102.08259)."""

    published_rate = 0.1
    kind: Literal["gradient"]
    outer: Repeats = Field(1, description="Steps of the images on one network.")
    inner: Repeats = Field(
        1, description="Epochs that the network is trained on the images between two of these steps."
    )
    batch_real: Batch = Field(256, description="Real images per class and step, at most.")
    learning_rate: Rate = Field(0.01, description="Of the network between two steps of the images.")
    batch_train: Batch = Field(256, description="Images in one step of the network.")
    augment: bool = Field(True, description="One operation of DSA, the same for real images and ours.")

    @property
    def couples_classes(self) -> bool:
        return self.outer > 1

    @property
    def updates(self) -> int:
        return self.outer

    def passes(self, sizes: Sequence[float], images: float) -> float:
        return 3 * (drawn(sizes, self.batch_real) + images)


class Distribution(_Objective):
    """Distribution matching (DM, arXiv 2110.04181): mean features of networks that were never trained."""

    published_rate = 1.0
    trains_inside = False
    kind: Literal["distribution"]
    batch_real: Batch = Field(256, description="Real images per class and step, at most.")
    augment: bool = Field(True, description="One operation of DSA, the same for real images and ours.")

    def passes(self, sizes: Sequence[float], images: float) -> float:
        return drawn(sizes, self.batch_real) + 3 * images


class Trajectory(_Objective):
    """Trajectory matching (MTT, arXiv 2203.11932) in constant memory (TESLA, arXiv 2211.10586)."""

    published_rate = 1000.0
    kind: Literal["trajectory"]
    experts: Name | None = Field(None, description="An entry of `experts`: whose trajectories are matched.")
    epochs: Epochs = Field(3, description="M: epochs of an expert that our steps are to reach.")
    max_start_epoch: Epochs = Field(5, description="The expert's epoch that we start from is drawn below this one.")
    steps: Repeats = Field(20, description="N: steps on our images.")
    batch: Batch | None = Field(None, description="Our images in one step; none: all of them.")
    learning_rate: Rate = Field(0.01, description="Alpha, of these steps; it is learned.")
    learning_rate_step: Decay = Field(1e-6, description="Learning rate of alpha; 0: alpha stays.")
    gradient: Literal["tesla", "exact"] | None = Field(
        None,
        description="`tesla`: earlier steps are held fixed, as published for LD3M; `exact`: the adjoint goes through "
        "them. None: `exact` for pixels, else `tesla`.",
    )
    augment: bool = Field(True, description="One operation of DSA per step, with parameters for each image.")

    couples_classes: ClassVar[bool] = True
    """The steps are taken on images of all classes."""

    learns_rate: ClassVar[bool] = True

    @property
    def last_epoch(self) -> int:
        return self.max_start_epoch - 1 + self.epochs

    def passes(self, sizes: Sequence[float], images: float) -> float:
        return 3 * self.steps * min(self.batch or images, images)


AnyObjective = Annotated[Gradient | Distribution | Trajectory, Field(discriminator="kind")]
NamedObjective = Annotated[AnyObjective, BeforeValidator(kind_of_name, json_schema_input_type=AnyObjective | str)]


class _Step(Block):
    """What the two kinds of step have in common."""

    def rate(self, stated: float | None, objective: AnyObjective) -> float:
        """The rate as stated, or as published, or where rates are relative a start that suits all objectives."""
        if stated is not None:
            return stated
        return objective.published_rate if self.rule == "absolute" else RELATIVE_RATE  # type: ignore[attr-defined]


class LatentStep(_Step):
    """How far the optimiser goes in latents and class vectors."""

    rule: Literal["relative", "absolute"] = Field(
        "relative",
        description="`relative`: each image's gradient at unit RMS, in units of the sigma that it began with; "
        "`absolute`: SGD.",
    )
    latent: ImageRate | None = Field(
        None,
        description="Rate of latents; none: for `absolute` as published, 0.1 (gradient), 1 (distribution), 1000 "
        "(trajectory), for `relative` 0.01.",
    )
    condition: ImageRate | None = Field(None, description="Rate of class vectors; none: that of latents.")
    momentum: BelowOne = 0.5


class PixelStep(_Step):
    """How far the optimiser goes in pixels, standardised by channel."""

    rule: Literal["relative", "absolute"] = Field("absolute", description="As for latents.")
    pixels: ImageRate | None = Field(
        None,
        description="Rate; none: as published: for `absolute` 0.1 (gradient), 1 (distribution), 1000 (trajectory), "
        "for `relative` 0.01.",
    )
    momentum: BelowOne = 0.5


RELATIVE_RATE = 0.01
"""A start: one for all objectives."""


class Chain(Block):
    """The reverse diffusion that a latent goes through."""

    steps: int = Field(10, ge=1, le=1000)
    uneven: bool = Field(
        False,
        description="Allow 1 step, and numbers that do not divide the training schedule: the highest levels are left "
        "out then.",
    )
    guidance_scale: Positive = Field(3.0, description="Classifier-free guidance; 1 means none.")
    residual: Literal["x0", "eq7", "none"] = Field(
        "x0",
        description="What brings the latent into every step: a share of it in the predicted clean latent (the released "
        "code), of its noised state in the step's result (eq. 7 of the paper), or nothing.",
    )
    quantise: Literal["none", "vq"] = Field("none", description="`vq`: the residual takes the codebook's entry.")
    noise: Literal["fixed", "per_iteration"] = Field(
        "fixed",
        description="`fixed`: the distilled set is one set of images; `per_iteration`: drawn anew, as published.",
    )
    render_size: Literal["native", "target"] = Field(
        "native", description="Side at which a pretrained generator draws: its own, then resized, or that of the data."
    )
    denoiser: Literal["trained", "random"] = Field(
        "trained", description="`random`: the generator without its weights."
    )
    condition: Literal["class", "none"] = Field(
        "class",
        description="Where class vectors start: the generator's row of the class, or its row of no class, for a "
        "generator that does not know the classes.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the denoiser; auto: bfloat16 on a GPU. Everything around it is float32."
    )
    gradient_checkpointing: bool = Field(False, description="Within the denoiser too: less memory, one more pass.")


class Experts(Block):
    """Networks whose training on the real images is kept, epoch by epoch."""

    network: Network | None = Field(None, description="None: ConvNet-d with d = log2(side) - 2.")
    count: Count = Field(100, description="Trajectories.")
    per_shard: Count = Field(10, description="Trajectories in one job and file.")
    epochs: Epochs | None = Field(None, description="None: as many as the methods that name them read.")
    learning_rate: Rate = 0.01
    momentum: BelowOne = 0.0
    weight_decay: Decay = 0.0
    batch_size: Batch = 256
    augment: bool = Field(True, description="One operation of DSA per batch, with parameters for each image.")
    files: list[InputPath] | None = Field(
        None, min_length=1, description="None: trained here. Files of `train_experts`, of the same images and network."
    )

    @property
    def shards(self) -> int:
        """Jobs that train them."""
        return -(-self.count // self.per_shard)

    def recipe(self, epochs: int, normalization: Known = "imagenet") -> Recipe:
        """How they are trained: plain SGD at one rate, DSA with parameters for each image.

        Args:
            normalization: whose means and deviations standardise images.
        """
        return Recipe(
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            optimizer="sgd",
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule="constant",
            normalize=normalization,
            dsa="_".join(DSA) if self.augment else "",
            evaluations=1,
        )


class Matching(Block):
    """What all methods share that optimise images: when snapshots are taken, and which one is kept."""

    every: Steps = Field(200, description="Iterations between two snapshots; the first and the last always are.")
    choose: Literal["best", "last"] = Field(
        "best",
        description="Kept is the snapshot that networks learn most from, by their accuracy on the images of "
        "`dataset.validation`, or the last.",
    )
    network: Network | None = Field(None, description="The network that is trained; none: the one that compares.")
    protocol: Protocol | None = Field(None, description="How; none: the first protocol of the evaluation.")
    students: Repeats = Field(2, description="Networks trained on each snapshot.")
