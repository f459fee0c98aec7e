"""The denoiser as a sampler sees it: one noise prediction per image, classifier-free guidance inside."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

from distillery.devices import fused_attention
from distillery.diffusion.losses import PredictionType, noise_of
from distillery.diffusion.models import open_transformer
from distillery.errors import damaged


class Denoiser(nn.Module):
    """A `DiTTransformer2DModel` with classifier-free guidance.

    The null class is the last row of the label table. One state per image goes in; the batch is doubled inside, so that
    autograd sums both branches by itself.
    """

    def __init__(
        self,
        transformer: Any,
        guidance_scale: float = 1.0,
        cfg_channels: int | Literal["auto", "all"] = "all",
        scheduler: Any = None,
        half: bool = False,
    ) -> None:
        """
        Args:
            cfg_channels: that are guided, from the first; auto: 3 where the variance is learned, else all.
            scheduler: says what the transformer predicts; none: the noise.
            half: the transformer computes in bfloat16; everything around it stays in fp32.
        """
        super().__init__()
        self._prediction: PredictionType = "epsilon" if scheduler is None else scheduler.config.prediction_type
        self._levels = None if scheduler is None else scheduler.alphas_cumprod
        self._half = half
        self.transformer = transformer.eval().requires_grad_(False)
        self.guidance_scale = guidance_scale
        self.channels: int = transformer.config.in_channels
        if cfg_channels == "auto":
            cfg_channels = 3 if transformer.config.out_channels == 2 * self.channels else "all"
        self.cfg_channels: int | Literal["all"] = cfg_channels
        self.null_class: int = transformer.config.num_embeds_ada_norm

    def forward(self, noisy: Tensor, timestep: int, conditions: Tensor) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            noisy: (N, C, H, W).
            timestep: of the training schedule, 0 to 999.
            conditions: (N,) class indices of the generator.

        Returns:
            The noise prediction (N, C, H, W), and the variance logits of the same shape, or None if the model has none.
            The logits come from the conditional branch and are never guided.
        """
        scale = self.guidance_scale
        states, labels = noisy, conditions
        if scale != 1:
            states = torch.cat([noisy, noisy])
            labels = torch.cat([conditions, torch.full_like(conditions, self.null_class)])
        steps = torch.full((len(states),), timestep, device=noisy.device, dtype=torch.long)
        half = torch.autocast(noisy.device.type, torch.bfloat16) if self._half else nullcontext()
        with half, fused_attention(noisy.device):
            output = self.transformer(states, timestep=steps, class_labels=labels).sample
        output = output.to(noisy.dtype)
        noise, variance = output.split(self.channels, 1) if output.shape[1] > self.channels else (output, None)
        if self._levels is not None:  # of a velocity, the noise is an affine function: guiding either is the same
            noise = noise_of(noise, states, float(self._levels[timestep]), self._prediction)
        if scale != 1:
            conditional, unconditional = noise.chunk(2)
            guided = unconditional + scale * (conditional - unconditional)
            if self.cfg_channels != "all":  # DiT guides three of its four channels, and so did all who built on it
                guided = torch.cat([guided[:, : self.cfg_channels], conditional[:, self.cfg_channels :]], 1)
            noise, variance = guided, None if variance is None else variance.chunk(2)[0]
        return noise, variance


def build_transformer(
    *, classes: int, channels: int, size: int, layers: int, heads: int, head_dim: int, patch_size: int
) -> Any:
    """A DiT without trained weights, for latents of (channels, size, size). One further class row stands for "none"."""
    return DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        sample_size=size,
        patch_size=patch_size,
        num_embeds_ada_norm=classes,
    )


def load_generator(folder: Path) -> tuple[Any, Any]:
    """The transformer and the noise scheduler of a folder in the layout of `save_pretrained`.

    Raises:
        DamagedArtifact: it cannot be opened.
    """
    try:
        transformer = open_transformer(folder / "transformer")
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    except Exception as error:  # diffusers raises anything here
        raise damaged(folder, "train_generator", str(error).splitlines()[0]) from error
    return transformer, scheduler
