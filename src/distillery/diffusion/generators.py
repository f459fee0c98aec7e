"""Settings of generators: what they are trained for, and what each kind asks of an experiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from distillery.data.identity import conditions
from distillery.diffusion.class_names import class_table
from distillery.diffusion.settings import (
    LatentShape,
    Pretrained,
    Sampling,
    TransformerShape,
    kind_of_name,
    too_large,
    trained_unless_said,
)
from distillery.diffusion.weights import stated_folder, stated_scheduler
from distillery.errors import UnknownClass, WeightsError
from distillery.settings import (
    Batch,
    BelowOne,
    Block,
    Count,
    Epochs,
    Layers,
    Name,
    NonNegative,
    Positive,
    Rate,
    Repeats,
    Shards,
    Steps,
    Width,
)

TRAINING_STEPS = 1000
"""Of the noise schedule of generators that are trained here, and of all published ones."""

Policy = Literal["fifo", "max", "min"]


class PlainLoss(Block):
    """The diffusion loss alone."""

    remembers: ClassVar[bool] = False
    kind: Literal["plain"] = "plain"


class _Memory(Block):
    """Two terms on the predicted clean latent: near to every real latent, far from every earlier prediction."""

    remembers: ClassVar[bool] = True
    memory_size: Count = Field(64, description="Latents of each class in each of the two memories.")
    lambda_real: NonNegative = Field(0.002, description="Weight of 1 - cos with the least similar real latent.")
    lambda_generated: NonNegative = Field(0.008, description="Weight of cos with the most similar earlier prediction.")
    reduction: Literal["class_extreme", "sample_mean"] = Field(
        "class_extreme", description="One pair of each class, as in the published code, or of each sample, as printed."
    )
    multiplicity: Literal["once", "cumulative"] = Field(
        "once", description="`cumulative`: the k-th of n classes counts n-k+1 times, a slip of the published code."
    )
    real_latent: Literal["sample", "mean"] = Field(
        "sample", description="What the memory of real latents keeps: the sample of the posterior, or its mean."
    )
    max_timestep: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Beyond it predictions count in no term and enter no memory; none: all do."
    )
    max_age: Count | None = Field(None, description="Latents leave after so many steps; none: they do not.")

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.multiplicity == "cumulative" and self.reduction == "sample_mean":
            raise ValueError("multiplicity: cumulative counts classes, and sample_mean has none; allowed: once")
        return self


class Minimax(_Memory):
    """Minimax diffusion (arXiv 2311.15529): the oldest latents leave."""

    kind: Literal["minimax"]
    policy_real: Policy = "fifo"
    policy_generated: Policy = "fifo"


class Memory(_Memory):
    """Self-adaptive memory (arXiv 2505.19469): the latent most similar to the others of its class leaves."""

    kind: Literal["memory"]
    policy_real: Policy = "max"
    policy_generated: Policy = "max"


AnyTrainingObjective = Annotated[PlainLoss | Minimax | Memory, Field(discriminator="kind")]
ObjectiveName = Literal["plain", "minimax", "memory"]


class AskedGenerator(Block):
    """What an experiment asks every generator, with the answers of a DiT that is trained here from nothing."""

    opened: ClassVar[bool] = False
    """Whether it comes from elsewhere: then it is the same for every seed."""

    @property
    def starts_from(self) -> str | None:
        """The generator that it is trained further from: another entry of `generators`."""
        return None

    @property
    def part(self) -> str:
        """The folder of its network."""
        return "transformer"

    @property
    def class_groups(self) -> int:
        """How many generators it is, each for its share of the classes."""
        return 1

    @property
    def cards(self) -> int:
        """GPUs of its training, one for each process; 0: it is not trained."""
        return 0

    @property
    def samples(self) -> bool:
        """Whether samplers and trainings take it."""
        return True

    @property
    def schedule_length(self) -> int:
        """Steps of its training schedule; where nobody can say yet, those of all published ones."""
        return TRAINING_STEPS

    @property
    def asks_for_classes(self) -> bool:
        """Whether its training asks the generator that it starts from for every class of the data."""
        return False

    @property
    def knows_no_classes(self) -> bool:
        """Whether its network is known to take no class."""
        return False

    @property
    def trains_all(self) -> bool:
        """Whether all of its weights are trained."""
        return False

    def transformer(self, latent_side: int | None) -> TransformerShape | None:
        """The shape of its network for latents of this side, if it is a DiT; None where nobody knows it yet."""
        return None

    def check_shape(self, key: str, side: int, native: bool, shape: LatentShape | None) -> Iterator[str]:
        """Whether its network fits the latents, as far as this machine can say.

        Args:
            side: of the images of the data.
            native: whether it draws at its own side, and images are resized.
        """
        yield from ()

    def check_class_names(self, key: str, classes: Sequence[str], asked: bool) -> Iterator[str]:
        """Whether it has the classes of the data, as far as this machine can say, if anything asks it for them."""
        yield from ()

    def check(self, key: str, mirrored: bool) -> Iterator[str]:
        """The faults of its settings, one line each; `mirrored`: latents have mirrors."""
        yield from ()

    def check_images(self, key: str, images: int) -> Iterator[str]:
        """Whether so many training images are enough, of the smallest group of classes."""
        yield from ()


class Training(AskedGenerator):
    """What every training of a generator knows."""

    network: ClassVar[Literal["dit"]] = "dit"
    objective: Annotated[
        AnyTrainingObjective, BeforeValidator(kind_of_name, json_schema_input_type=AnyTrainingObjective | ObjectiveName)
    ] = Field(PlainLoss(), description="What it is trained for; a name alone stands for `{kind: name}`.")
    steps: Steps | None = Field(2000, description="Of the optimiser; None where `epochs` says how many.")
    epochs: Epochs | None = Field(
        None,
        exclude_if=lambda epochs: epochs is None,
        description="Passes over the training images, instead of `steps`; what is left of a pass and makes no batch is "
        "not counted.",
    )
    order: Literal["replacement", "shuffled"] = Field(
        "replacement",
        exclude_if=lambda order: order == "replacement",
        description="Each batch is drawn with replacement; or every image comes once in an epoch, in an order that is "
        "drawn for it, as public code has it.",
    )
    batch_size: Batch = 128
    accumulate: Repeats = Field(1, description="Passes that a batch is cut into, to save memory.")
    processes: Repeats = Field(1, description="Processes that share a batch, one GPU each, in one job.")
    learning_rate: Rate = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0, le=10_000_000)
    ema_decay: BelowOne = 0.99
    ema_warmup: bool = Field(True, description="The average forgets faster in the first steps.")
    weights: Literal["ema", "raw"] = Field("ema", description="What is kept: the average of the weights, or the last.")
    label_dropout: BelowOne = 0.1
    min_snr_gamma: Positive | None = Field(
        None, description="Weights of arXiv 2303.09556; none: all noise counts alike."
    )
    flip: bool = Field(False, description="Take the mirror of an image every other time; needs `latents.mirrored`.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the network; weights and loss are float32. auto: bfloat16 on a GPU."
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations twice, to save memory.")

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        steps, epochs = value.get("steps"), value.get("epochs")
        if steps is not None and epochs is not None:
            raise ValueError("steps and epochs both say how long it is trained; allowed: one of them")
        if epochs is not None:
            return {**value, "steps": None}
        if "steps" in value and steps is None:
            raise ValueError("steps: none, and no epochs say how long it is trained; give one of them")
        return value

    @model_validator(mode="after")
    def _remembers_once(self) -> Self:
        if self.processes > 1 and self.objective.remembers:
            raise ValueError(
                f"processes: {self.processes} would have memories of their own, and {self.objective.kind} has one; "
                "allowed: 1"
            )
        if self.accumulate > 1 and self.objective.remembers:
            raise ValueError(
                f"accumulate: {self.accumulate} passes would be as many steps of the memories of "
                f"{self.objective.kind}, which compare a whole batch; allowed: 1"
            )
        return self

    @property
    def length_key(self) -> str:
        """The key that says how long it is trained."""
        return "steps" if self.epochs is None else "epochs"

    def steps_on(self, images: int) -> int:
        """The steps of the optimiser on so many training images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None, "one of both is given"
        return self.epochs * max(images // self.batch_size, 1)

    @property
    def cards(self) -> int:
        return self.processes

    def files_here(self) -> list[str]:
        """None: it is trained here."""
        return []

    def check(self, key: str, mirrored: bool) -> Iterator[str]:
        if self.flip and not mirrored:
            yield f"{key}.flip: there are no mirrors; set latents.mirrored: true"
        pieces = self.processes * self.accumulate
        if self.batch_size % pieces:
            yield (
                f"{key}.batch_size: {self.batch_size} images for {self.processes} processes of {self.accumulate} "
                f"passes each; allowed: a multiple of {pieces}"
            )

    def check_images(self, key: str, images: int) -> Iterator[str]:
        if self.order == "shuffled" and self.batch_size > images:
            yield (
                f"{key}.batch_size: {self.batch_size}, and {images} training images make no batch of different ones; "
                f"allowed: 1 to {images}, or order: replacement"
            )


MOST_PATCHES = 16_384
"""Of an image: each attends to all others."""


class Generator(Training):
    """A class-conditional `DiTTransformer2DModel` of diffusers, trained on the latents."""

    stage: ClassVar[str] = "train_generator"
    kind: Literal["train"] = "train"
    num_layers: Layers = 4
    num_attention_heads: Width = 3
    attention_head_dim: Width = 32
    patch_size: Width = 2
    prediction: Literal["epsilon", "v_prediction"] = Field("epsilon", description="What the network predicts.")
    sampling: Sampling = Sampling()

    @property
    def trains_all(self) -> bool:
        return True

    def transformer(self, latent_side: int | None) -> TransformerShape | None:
        tokens = ((latent_side or 0) // self.patch_size) ** 2
        return TransformerShape(self.num_layers, self.num_attention_heads * self.attention_head_dim, tokens)

    def check_shape(self, key: str, side: int, native: bool, shape: LatentShape | None) -> Iterator[str]:
        if shape is not None and (side // shape.factor) % self.patch_size:
            latent = side // shape.factor
            yield f"{key}.patch_size: {self.patch_size} does not divide the {latent} x {latent} latents"
        width = self.num_attention_heads * self.attention_head_dim
        if width % 4:
            yield (
                f"{key}.attention_head_dim: {self.num_attention_heads} heads of {self.attention_head_dim} make "
                f"{width} channels; allowed: a multiple of 4, for sines and cosines of rows and columns"
            )
        yield from too_large(f"{key}.num_layers", 18 * self.num_layers * width**2)
        patches = (side // shape.factor // self.patch_size) ** 2 if shape is not None else 0
        if patches > MOST_PATCHES:
            yield f"{key}.patch_size: {patches:,} patches of an image; allowed: {MOST_PATCHES:,} (DiT-XL has 1,024)"


class PretrainedGenerator(Pretrained, AskedGenerator):
    """A class-conditional `DiTTransformer2DModel` from elsewhere; `facebook/DiT-XL-2-256` is the reference.

    Methods of kind `ld3m` take a UNet too.
    """

    stage: ClassVar[str] = "open_generator"
    kind: Literal["pretrained"]
    network: Literal["dit", "unet"] = Field(
        "dit",
        description="What the folder holds: `transformer/`, or `unet/` with a UNet2DModel or UNet2DConditionModel.",
    )
    classes: Literal["imagenet1k", "own"] = Field(
        "imagenet1k", description="Where a class finds its row: the table of ImageNet-1K, or the folder's `id2label`."
    )
    timestep_shift: Literal["auto", "dit", "diffusers"] = Field(
        "auto",
        description="Frequencies of the timestep embedding: as DiT has them, or as diffusers; auto: what the config "
        "says, and else DiT's for a model of learned variance, as those converted from DiT are.",
    )
    sampling: Sampling = Sampling()

    opened: ClassVar[bool] = True

    @property
    def part(self) -> str:
        return "unet" if self.network == "unet" else "transformer"

    @property
    def samples(self) -> bool:
        return self.network == "dit"

    @property
    def schedule_length(self) -> int:
        try:
            return int(stated_scheduler(self)["num_train_timesteps"])
        except (WeightsError, KeyError, TypeError, ValueError):
            return TRAINING_STEPS

    def transformer(self, latent_side: int | None) -> TransformerShape | None:
        config = self.config()
        try:
            width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
            tokens = (int(config["sample_size"]) // int(config["patch_size"])) ** 2
            return TransformerShape(int(config["num_layers"]), width, tokens)
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None

    @property
    def knows_no_classes(self) -> bool:
        config = self.config()
        inputs = ("num_class_embeds", "class_embed_type", "cross_attention_dim")
        return self.network == "unet" and bool(config) and not any(config.get(name) for name in inputs)

    def check_shape(self, key: str, side: int, native: bool, shape: LatentShape | None) -> Iterator[str]:
        config = self.config()
        try:
            channels, size = int(config["in_channels"]), int(config["sample_size"])
        except (KeyError, TypeError, ValueError):
            return
        if shape is None:
            return
        side = size * shape.factor if native else side
        latent = side // shape.factor
        if self.network == "unet" and not native:  # convolutions and attention take other sides than that of training
            size, least = latent, 2 ** (len(config.get("block_out_channels") or [0]) - 1)
            if latent % least:
                yield (
                    f"{key}.weights: {self.weights} halves latents to 1/{least} of their side, and those of "
                    f"dataset.resolution {side} have {latent}; allowed: a multiple of {least * shape.factor}"
                )
        if (channels, size) != (shape.channels, latent):
            yield (
                f"{key}.weights: {self.weights} takes latents of {channels} x {size} x {size}, and the autoencoder "
                f"gives {shape.channels} x {latent} x {latent} at dataset.resolution {side}; allowed: "
                f"dataset.resolution {size * shape.factor} and an autoencoder of {channels} latent channels"
            )

    def check_class_names(self, key: str, classes: Sequence[str], asked: bool) -> Iterator[str]:
        config = self.config()
        if not config or self.network != "dit":
            return
        rows = config.get("num_embeds_ada_norm")
        if not isinstance(rows, int) or rows < 1:
            yield (
                f"{key}.weights: {self.weights} has no classes (num_embeds_ada_norm), and every method here asks "
                "for images of a class; give a class-conditional one"
            )
            return
        try:
            conditions(class_table(stated_folder(self), self.classes, rows), classes)
        except WeightsError as error:
            yield f"{key}.weights: {error}"
        except UnknownClass as missing:
            if asked or missing.alike:
                yield (
                    f"{key}.weights: {self.weights} knows no class {missing}; name the classes of the data as it "
                    "does (by wnid, for one of ImageNet), leave them out of dataset.classes, or fine-tune it on them "
                    "(kind: finetune, unknown_classes: new_row)"
                )

    def check(self, key: str, mirrored: bool) -> Iterator[str]:
        yield from self.check_weights(key)


class FinetunedGenerator(Training):
    """Another generator, trained further on the latents; defaults as published for DiT-XL/2 and ten classes."""

    stage: ClassVar[str] = "finetune_generator"
    kind: Literal["finetune"]
    base: Name = Field(description="The generator that it starts from: another entry of `generators`.")
    trainable: Literal["difffit", "bias", "full"] = Field(
        "difffit", description="Biases, scales and class table (arXiv 2304.06648); biases and class table; all."
    )
    gamma_blocks: int | None = Field(None, ge=0, description="Blocks with scales, from the first; none: half of them.")
    groups: Shards = Field(
        1,
        exclude_if=lambda groups: groups == 1,
        description="Generators that it is fine-tuned to, each on its share of the classes: the first one on every "
        "`groups`-th class from the first on. Published settings hold for groups of ten to twenty classes.",
    )
    unknown_classes: Literal["error", "new_row"] = Field(
        "error", description="What a class that the base does not know gets: a refusal, or a row that is learned."
    )
    steps: Steps | None = Field(12000, description="Of the optimiser; None where `epochs` says how many.")
    batch_size: Batch = 8
    learning_rate: Rate = 1e-3
    schedule: Literal["cosine", "constant"] = "constant"
    warmup_steps: int = Field(0, ge=0, le=10_000_000)
    ema_decay: BelowOne = 0.9999
    ema_warmup: bool = False
    sampling: Sampling = Sampling()

    @property
    def starts_from(self) -> str | None:
        return self.base

    @property
    def class_groups(self) -> int:
        return self.groups

    @property
    def trains_all(self) -> bool:
        return self.trainable == "full"

    @property
    def asks_for_classes(self) -> bool:
        return self.unknown_classes == "error"


AnyGenerator = Annotated[
    Generator | PretrainedGenerator | FinetunedGenerator,
    Field(discriminator="kind"),
    BeforeValidator(trained_unless_said),
]
