"""Settings of autoencoders, latents and sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from distillery.diffusion.weights import check_stated, files_here, latent_statistics, stated_config
from distillery.errors import WeightsError
from distillery.settings import (
    Batch,
    BelowOne,
    Block,
    Count,
    InputPath,
    Layers,
    Name,
    NonNegative,
    Number,
    Positive,
    Rate,
    Shards,
    Steps,
    Width,
)


def kind_of_name(value: object) -> object:
    """A name alone stands for `{kind: name}`."""
    return {"kind": value} if isinstance(value, str) else value


def trained_unless_said(value: Any) -> Any:
    """A block without a kind is one that is trained here."""
    return {"kind": "train", **value} if isinstance(value, Mapping) else value


MOST_PARAMETERS = 10e9
"""With gradients, both moments of AdamW and an average, four bytes each: 200 GB, more than a GPU has."""


def too_large(key: str, parameters: float) -> Iterator[str]:
    """Whether a network fits a GPU while it is trained."""
    if parameters > MOST_PARAMETERS:
        yield (
            f"{key}: about {parameters / 1e9:,.0f} billion parameters, {20 * parameters / 1e9:,.0f} GB in training; "
            f"allowed: {MOST_PARAMETERS / 1e9:.0f} billion"
        )


@dataclass(frozen=True)
class LatentShape:
    """What latents are to images.

    Attributes:
        factor: by how much their side is smaller.
        channels: of a latent.
        why: the key that says so, for messages.
    """

    factor: int
    channels: int
    why: str


@dataclass(frozen=True)
class TransformerShape:
    """The shape of a DiT.

    Attributes:
        layers, width: of the network.
        tokens: of an image.
    """

    layers: int
    width: int
    tokens: int


class Perceptual(Block):
    """A term on what a reference network sees in an image, beside the pixels."""

    reference: Name = Field(description="The network: an entry of `references`.")
    weight: NonNegative = 0.1


class Autoencoder(Block):
    """An `AutoencoderKL` of diffusers, trained on the images: reconstruction, KL, perceptual if asked for."""

    stage: ClassVar[str] = "train_autoencoder"
    model_class: ClassVar[str] = "AutoencoderKL"
    image_channels: ClassVar[None] = None
    """Of the images that it takes: those of the data."""

    kind: Literal["train"] = "train"
    block_out_channels: list[Width] = Field(
        [16, 32], min_length=1, description="Each block but the last halves the side."
    )
    layers_per_block: Layers = 1
    latent_channels: Width = 4
    steps: Steps = 500
    batch_size: Batch = 64
    learning_rate: Rate = 2e-3
    kl_weight: NonNegative = 1e-5
    images: Count | None = Field(
        None, description="Training images that it sees, drawn by the seed, which are kept in memory; none: all."
    )
    ema_decay: BelowOne | None = Field(None, description="Of an average of the weights, which is kept; none: the last.")
    perceptual: Perceptual | None = None
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="Of the networks in training; auto: bfloat16 on a GPU."
    )

    @property
    def latents(self) -> LatentShape | None:
        """The shape of its latents."""
        blocks = len(self.block_out_channels)
        why = f"autoencoder.block_out_channels: {blocks} blocks halve the side {blocks - 1} times"
        return LatentShape(2 ** (blocks - 1), self.latent_channels, why)

    @property
    def blocks(self) -> tuple[list[int], int]:
        """Channels of its blocks, and layers of a block."""
        return self.block_out_channels, self.layers_per_block

    @property
    def perceptual_reference(self) -> str | None:
        """The network of its perceptual term: an entry of `references`."""
        return self.perceptual.reference if self.perceptual else None

    def check(self, key: str, references: Sequence[str]) -> Iterator[str]:
        """Whether its perceptual term has its network."""
        yield from too_large(
            f"{key}.block_out_channels", sum(72 * self.layers_per_block * width**2 for width in self.block_out_channels)
        )
        if self.perceptual_reference not in (None, *references):
            known = ", ".join(references) or "none"
            yield f"{key}.perceptual.reference: no reference {self.perceptual_reference!r}; references: {known}"


class Pretrained(Block):
    """Weights in the layout of diffusers that come from elsewhere."""

    weights: InputPath = Field(description="A folder, or a name on the Hugging Face hub.")
    revision: str | None = Field(None, description="Of a name on the hub: a commit or a tag.")
    subfolder: InputPath | None = Field(
        None, description="Where in the folder it lies, as `vae` in that of a pipeline."
    )
    sha256: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        {}, description="File in the folder -> the digest that it must have."
    )
    origin: str | None = Field(
        None, description="What to download and where to put it, for whoever has no such folder."
    )

    @property
    def part(self) -> str:
        """The folder of the network in the folder of the weights; empty where it is the same."""
        return ""

    def config(self, part: str | None = None) -> Mapping[str, Any]:
        """The config of the network, or of another part, as far as it is on this machine; empty otherwise."""
        try:
            return stated_config(self, self.part if part is None else part)
        except WeightsError:
            return {}

    def files_here(self) -> list[str]:
        """The configs and weights, where they are in a folder; none of a name on the hub."""
        return files_here(self.weights, self.subfolder)

    def check_weights(self, key: str) -> Iterator[str]:
        """Whether the weights are there and whole, as far as this machine can say without a download."""
        try:
            check_stated(self, (self.part,))
        except WeightsError as error:
            yield f"{key}.weights: {error}"


class PretrainedAutoencoder(Pretrained):
    """An `AutoencoderKL`, `AutoencoderTiny` or `VQModel` of diffusers."""

    stage: ClassVar[str] = "open_autoencoder"
    perceptual_reference: ClassVar[None] = None
    kind: Literal["pretrained"]
    scaling_factor: Positive | None = Field(
        None,
        description="Latents = (encoded - shift) x scale; none: its own. Where the weights state `latents_mean` and "
        "`latents_std`, each channel is shifted and divided by its own.",
    )
    shift_factor: Number | None = Field(None, description="None: its own, or 0.")

    @property
    def model_class(self) -> str | None:
        """Its class in diffusers; None where nobody knows yet."""
        name = self.config().get("_class_name")
        return None if name is None else str(name)

    @property
    def image_channels(self) -> int | None:
        """Of the images that it takes; None where nobody knows yet."""
        channels = self.config().get("in_channels")
        return channels if isinstance(channels, int) else None

    @property
    def latents(self) -> LatentShape | None:
        """The shape of its latents; None where nobody knows yet."""
        config = self.config()
        try:
            halvings = len(config.get("encoder_block_out_channels") or config["block_out_channels"]) - 1
            channels = int(config.get("vq_embed_dim") or config["latent_channels"])
        except (KeyError, TypeError, ValueError):
            return None
        why = f"autoencoder.weights: {self.weights} halves the side {halvings} times"
        return LatentShape(2**halvings, channels, why)

    @property
    def blocks(self) -> tuple[list[int], int] | None:
        """Channels of its blocks, and layers of a block; None where nobody knows yet, or it is no `AutoencoderKL`."""
        config = self.config()
        if config.get("_class_name") != "AutoencoderKL" or "block_out_channels" not in config:
            return None
        return [int(width) for width in config["block_out_channels"]], int(config.get("layers_per_block", 1))

    def check(self, key: str, references: Sequence[str]) -> Iterator[str]:
        """Whether its weights are there and whole, and what they say of the scale of latents can be applied."""
        yield from self.check_weights(key)
        shift = {} if self.shift_factor is None else {"shift_factor": self.shift_factor}
        try:
            latent_statistics({**self.config(), **shift})
        except WeightsError as error:
            yield f"{key}.weights: {self.weights}: {error}"


AnyAutoencoder = Annotated[
    Autoencoder | PretrainedAutoencoder, Field(discriminator="kind"), BeforeValidator(trained_unless_said)
]


class Latents(Block):
    """The cache of encoded training images."""

    shards: Shards = Field(1, description="Jobs that the images are spread over, a file each.")
    mirrored: bool = Field(False, description="Encode the mirror of each image too; for generators with `flip`.")
    precision: Literal["float16", "float32"] = Field("float16", description="In the files; the encoder takes float32.")
    batch_size: Batch = Field(64, description="Images in one pass of the encoder.")


class Sampling(Block):
    """Sampling on respaced steps with classifier-free guidance."""

    solver: Literal["ddpm", "ddim", "dpm"] = Field(
        "ddpm",
        description="`ddpm`: ancestral, as published; `ddim`: without fresh noise; `dpm`: DPM-Solver++ of second "
        "order, for about 20 steps.",
    )
    steps: int = Field(50, ge=2, le=1000)
    guidance_scale: Positive = Field(4.0, le=100, description="Classifier-free guidance; 1 means none.")
    cfg_channels: Count | Literal["auto", "all"] = Field(
        "auto",
        description="Noise channels that classifier-free guidance acts on; auto: the first 3 for a model of learned "
        "variance, as DiT was published and sampled by all who built on it, and all for any other.",
    )
    batch_size: Batch = Field(256, description="Most images in one pass.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the denoiser; auto: bfloat16 on a GPU, float32 on a CPU. Scores are always float32."
    )
    decoder_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the decoder where a guidance decodes. Images are rendered in float32."
    )
