"""Settings of autoencoders, latents, generators and sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from distillery.settings import Block, Count, Fraction, Name, NonNegative, Number, Positive


def _trained_unless_said(value: Any) -> Any:
    """A block without a kind is one that is trained here."""
    return {"kind": "train", **value} if isinstance(value, Mapping) else value


class Perceptual(Block):
    """A term on what a reference network sees in an image, beside the pixels."""

    reference: Name = Field(description="The network: an entry of `references`.")
    weight: NonNegative = 0.1


class Autoencoder(Block):
    """An `AutoencoderKL` of diffusers, trained on the images: reconstruction, KL, perceptual if asked for."""

    pretrained: ClassVar[None] = None
    kind: Literal["train"] = "train"
    block_out_channels: list[Count] = Field(
        [16, 32], min_length=1, description="Each block but the last halves the side."
    )
    layers_per_block: Count = 1
    latent_channels: Count = 4
    steps: Count = 500
    batch_size: Count = 64
    learning_rate: Positive = 2e-3
    kl_weight: NonNegative = 1e-5
    images: Count | None = Field(
        None, description="Training images that it sees, drawn by the seed, which are kept in memory; none: all."
    )
    ema_decay: Fraction | None = Field(None, description="Of an average of the weights, which is kept; none: the last.")
    perceptual: Perceptual | None = None
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="Of the networks in training; auto: bfloat16 on a GPU."
    )


class Pretrained(Block):
    """Weights in the layout of diffusers that come from elsewhere."""

    weights: str = Field(min_length=1, description="A folder, or a name on the Hugging Face hub.")
    revision: str | None = Field(None, description="Of a name on the hub: a commit or a tag.")
    subfolder: str | None = Field(None, description="Where in the folder it lies, as `vae` in that of a pipeline.")
    sha256: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        {}, description="File in the folder -> the digest that it must have."
    )
    origin: str | None = Field(
        None, description="What to download and where to put it, for whoever has no such folder."
    )

    @property
    def pretrained(self) -> Self:
        """The block itself; None of one that is trained here."""
        return self


class PretrainedAutoencoder(Pretrained):
    """An `AutoencoderKL`, `AutoencoderTiny` or `VQModel` of diffusers."""

    kind: Literal["pretrained"]
    scaling_factor: Positive | None = Field(None, description="Latents = (encoded - shift) x scale; none: its own.")
    shift_factor: Number | None = Field(None, description="None: its own, or 0.")


AnyAutoencoder = Annotated[
    Autoencoder | PretrainedAutoencoder, Field(discriminator="kind"), BeforeValidator(_trained_unless_said)
]


class Latents(Block):
    """The cache of encoded training images."""

    shards: Count = Field(1, description="Jobs that the images are spread over, a file each.")
    mirrored: bool = Field(False, description="Encode the mirror of each image too; for generators with `flip`.")
    precision: Literal["float16", "float32"] = Field("float16", description="In the files; the encoder takes float32.")
    batch_size: Count = Field(64, description="Images in one pass of the encoder.")


class Sampling(Block):
    """Sampling on respaced steps with classifier-free guidance."""

    solver: Literal["ddpm", "ddim", "dpm"] = Field(
        "ddpm",
        description="`ddpm`: ancestral, as published; `ddim`: without fresh noise; `dpm`: DPM-Solver++ of second "
        "order, for about 20 steps.",
    )
    steps: int = Field(50, ge=2, le=1000)
    guidance_scale: Positive = Field(4.0, description="Classifier-free guidance; 1 means none.")
    cfg_channels: Count | Literal["auto", "all"] = Field(
        "auto",
        description="Noise channels that classifier-free guidance acts on; auto: the first 3 for a model of learned "
        "variance, as DiT was published and sampled by all who built on it, and all for any other.",
    )
    batch_size: Count = Field(256, description="Most images in one pass.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the denoiser; auto: bfloat16 on a GPU, float32 on a CPU. Scores are always float32."
    )
    decoder_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the decoder where a guidance decodes. Images are rendered in float32."
    )


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


def _named(given: object) -> object:
    """A name alone stands for `{kind: name}`."""
    return {"kind": given} if isinstance(given, str) else given


class Training(Block):
    """What every training of a generator knows."""

    pretrained: ClassVar[None] = None
    network: ClassVar[Literal["dit"]] = "dit"
    objective: Annotated[
        AnyTrainingObjective, BeforeValidator(_named, json_schema_input_type=AnyTrainingObjective | ObjectiveName)
    ] = Field(PlainLoss(), description="What it is trained for; a name alone stands for `{kind: name}`.")
    steps: Count = 2000
    batch_size: Count = 128
    accumulate: Count = Field(1, description="Passes that a batch is cut into, to save memory.")
    processes: Count = Field(1, description="Processes that share a batch, one GPU each, in one job.")
    learning_rate: Positive = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    ema_decay: Fraction = 0.99
    ema_warmup: bool = Field(True, description="The average forgets faster in the first steps.")
    weights: Literal["ema", "raw"] = Field("ema", description="What is kept: the average of the weights, or the last.")
    label_dropout: Fraction = 0.1
    min_snr_gamma: Positive | None = Field(
        None, description="Weights of arXiv 2303.09556; none: all noise counts alike."
    )
    flip: bool = Field(False, description="Take the mirror of an image every other time; needs `latents.mirrored`.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the network; weights and loss are float32. auto: bfloat16 on a GPU."
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations twice, to save memory.")

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


class Generator(Training):
    """A class-conditional `DiTTransformer2DModel` of diffusers, trained on the latents."""

    kind: Literal["train"] = "train"
    num_layers: Count = 4
    num_attention_heads: Count = 3
    attention_head_dim: Count = 32
    patch_size: Count = 2
    prediction: Literal["epsilon", "v_prediction"] = Field("epsilon", description="What the network predicts.")
    sampling: Sampling = Sampling()


class PretrainedGenerator(Pretrained):
    """A class-conditional `DiTTransformer2DModel` from elsewhere; `facebook/DiT-XL-2-256` is the reference.

    Methods of kind `ld3m` take a UNet too.
    """

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

    @property
    def part(self) -> str:
        """The folder that holds the network."""
        return "unet" if self.network == "unet" else "transformer"


class FinetunedGenerator(Training):
    """Another generator, trained further on the latents; defaults as published for DiT-XL/2 and ten classes."""

    kind: Literal["finetune"]
    base: Name = Field(description="The generator that it starts from: another entry of `generators`.")
    trainable: Literal["difffit", "bias", "full"] = Field(
        "difffit", description="Biases, scales and class table (arXiv 2304.06648); biases and class table; all."
    )
    gamma_blocks: int | None = Field(None, ge=0, description="Blocks with scales, from the first; none: half of them.")
    unknown_classes: Literal["error", "new_row"] = Field(
        "error", description="What a class that the base does not know gets: a refusal, or a row that is learned."
    )
    steps: Count = 12000
    batch_size: Count = 8
    learning_rate: Positive = 1e-3
    schedule: Literal["cosine", "constant"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    ema_decay: Fraction = 0.9999
    ema_warmup: bool = False
    sampling: Sampling = Sampling()


AnyGenerator = Annotated[
    Generator | PretrainedGenerator | FinetunedGenerator,
    Field(discriminator="kind"),
    BeforeValidator(_trained_unless_said),
]
