"""From a key and a class to an image: sampler and decoder as one, in batches that fit the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from distillery.data.identity import conditions
from distillery.data.pixels import to_bytes
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.denoiser import Denoiser
from distillery.diffusion.models import load_generator
from distillery.diffusion.sampler import WAY_OUT, Guidance, sample
from distillery.diffusion.schedule import Schedule
from distillery.diffusion.solvers import SolverName
from distillery.divergence import refuse_diverged
from distillery.errors import BadInput, Diverged, UnknownClass
from distillery.memory_limit import in_fitting_batches
from distillery.storage.atomic import read_json
from distillery.streams import Key


@dataclass
class Renderer:
    """All that turns a key and a class into an image.

    Attributes:
        size: side of a latent.
        batch_size: most images in one pass; halved when the device runs out of memory.
        name: of the generator.
        guidance_codec: the autoencoder that guidances decode with; none: the one that renders.
    """

    denoiser: Denoiser
    codec: Codec
    schedule: Schedule
    size: int
    batch_size: int
    device: torch.device
    guidance_codec: Codec | None = None
    solver: SolverName = "ddpm"
    name: str = "generator"

    @property
    def latent_numbers(self) -> int:
        """d, how many numbers one latent has."""
        return self.codec.channels * self.size**2

    def render(
        self,
        keys: Sequence[Key],
        labels: Tensor,
        conditions: Tensor,
        guidances: Sequence[Guidance] = (),
        slots: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Latents (N, C, h, w) fp32 and images (N, C, H, W) uint8 on the CPU, one per key; arguments as of `sample`.

        Raises:
            Diverged: latents or images are not finite, or all images of a pass are of one colour.
        """
        latents: list[Tensor] = []
        pixels: list[Tensor] = []

        def render(rows: slice) -> None:
            try:
                drawn, images = render_pass(rows)
            except Diverged as error:
                raise Diverged(f"generators.{self.name}: {error}") from error
            latents.append(drawn)
            pixels.append(images)

        def render_pass(rows: slice) -> tuple[Tensor, Tensor]:
            drawn = sample(
                self.denoiser,
                self.schedule,
                self.size,
                keys[rows],
                labels[rows],
                conditions[rows],
                guidances,
                device=self.device,
                slots=None if slots is None else slots[rows],
                solver=self.solver,
            )
            with torch.no_grad():
                decoded = self.codec.decode(drawn)
            refuse_diverged([decoded], "the images that the autoencoder decodes", WAY_OUT)
            images = to_bytes(decoded).cpu()
            if bool((images.flatten(2) == images.flatten(2)[..., :1]).all()):
                raise Diverged(f"each of {len(images)} images is of a single colour; {WAY_OUT}")
            return drawn.cpu(), images

        self.batch_size = in_fitting_batches(len(keys), self.batch_size, render)
        return torch.cat(latents), torch.cat(pixels)


def load_renderer(
    generator: Path,
    autoencoder: Path,
    *,
    resolution: int,
    steps: int,
    guidance_scale: float,
    cfg_channels: int | Literal["auto", "all"],
    batch_size: int,
    device: torch.device,
    guidance_autoencoder: Path | None = None,
    solver: SolverName = "ddpm",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    decoder_precision: Literal["float32", "bfloat16"] = "float32",
) -> Renderer:
    """Open a generator and the autoencoders that decode for it, all in the layout of `save_pretrained`.

    Args:
        precision: of the denoiser; auto: bfloat16 on a GPU.
        decoder_precision: of what decodes for guidances; images are rendered in fp32.

    Raises:
        BadInput: they do not belong together.
    """
    transformer, scheduler = load_generator(generator)
    codec = codec_of(generator, autoencoder, transformer.config.in_channels).to(device)
    half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    denoiser = Denoiser(transformer, guidance_scale, cfg_channels, scheduler, half).to(device)
    size = codec.latent_size(resolution)
    if transformer.config.sample_size != size:
        raise BadInput(
            f"{generator}: makes latents of side {transformer.config.sample_size}, but images of {resolution} px "
            f"have latents of side {size}"
        )
    small = None
    if guidance_autoencoder is not None:
        small = Codec.load(guidance_autoencoder, "open_autoencoder").to(device)
        if (small.channels, small.factor) != (codec.channels, codec.factor):
            raise BadInput(
                f"guidance_autoencoder: latents of {small.channels} channels and 1/{small.factor} of the side, but "
                f"those of the autoencoder have {codec.channels} and 1/{codec.factor}; take one for the same latents"
            )
    if decoder_precision == "bfloat16":
        small = (small or codec).halved()
    schedule, name = Schedule(scheduler, steps), generator.name
    return Renderer(denoiser, codec, schedule, size, batch_size, device, small, solver, name)


def codec_of(generator: Path | None, autoencoder: Path, channels: int | None) -> Codec:
    """Open the autoencoder of a generator's latents, which have `channels`; without a generator nothing is compared.

    Raises:
        BadInput: they do not belong together.
    """
    codec = Codec.load(autoencoder)
    if generator is None:
        return codec
    trained_on = read_json(generator / "model_index.json", "train_generator").get("_autoencoder")
    if trained_on and trained_on != codec.digest:
        raise BadInput(
            f"{autoencoder}: not the autoencoder that {generator} was trained with ({codec.digest}, not {trained_on})"
        )
    if channels != codec.channels:
        raise BadInput(
            f"{generator}: makes latents of {channels} channels, and {autoencoder} has {codec.channels}; take the "
            "autoencoder that it was trained with"
        )
    return codec


def class_conditions(generator: Path, classes: Sequence[str]) -> dict[int, int]:
    """Label -> class index of the generator, by the class names that the generator itself carries.

    Raises:
        BadInput: the generator does not know a class, or has no classes at all.
    """
    known = read_json(generator / "model_index.json", "train_generator").get("id2label")
    if not known:
        raise BadInput(
            f"{generator}: the generator has no classes (no `id2label` in model_index.json), and every method here "
            "asks for images of a class; give a class-conditional one"
        )
    try:
        return conditions(known, classes)
    except UnknownClass as missing:
        raise BadInput(
            f"{generator}: the generator knows no class {missing}; it knows {', '.join(list(known.values())[:20])}. "
            "Name the classes as it does, or fine-tune it on them (kind: finetune, unknown_classes: new_row)"
        ) from missing
