"""Networks as denoisers: one noise prediction per image, with classifier-free guidance inside."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distillery.devices import fused_attention
from distillery.diffusion.losses import PredictionType, noise_of
from distillery.lean_imports import from_diffusers


class GuidedNetwork(nn.Module):
    """Noise predictions of a conditional network under classifier-free guidance (arXiv 2207.12598).

    One state per image goes in; the batch is doubled inside, so that autograd sums both branches by itself.

    Attributes:
        channels: of a latent.
    """

    def __init__(
        self,
        network: Any,
        scheduler: Any = None,
        *,
        guidance_scale: float,
        cfg_channels: int | Literal["all"] = "all",
        half: bool = False,
    ) -> None:
        """
        Args:
            scheduler: its config names what the network predicts; None: the noise.
            cfg_channels: that are guided, from the first.
            half: the network computes in bfloat16; everything around it stays as the states are.
        """
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.channels, self.guidance_scale, self.cfg_channels = network.config.in_channels, guidance_scale, cfg_channels
        self._alphas_cumprod = [] if scheduler is None else alphas_cumprod_of(scheduler)
        self._prediction: PredictionType = "epsilon" if scheduler is None else scheduler.config.prediction_type
        self._half = half

    def predict(self, states: Tensor, timesteps: Tensor, conditions: Tensor | None) -> Tensor:
        """One call of the network.

        Args:
            states: (N, C, h, w).
            timesteps: (N,) int64.
            conditions: class labels or vectors, (N, …), or None where there are no classes.

        Returns:
            (N, C, h, w), or (N, 2C, h, w) where the variance is learned.
        """
        raise NotImplementedError

    def guided(
        self, noisy: Tensor, timestep: int, conditions: Tensor | None, null: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Args:
            noisy: (N, C, h, w).
            timestep: of the training schedule, 0 to 999.
            conditions: class labels or vectors, (N, …), or None where there are no classes.
            null: the condition of no class, of the shape of one; None: nothing is guided.

        Returns:
            The noise e_u + s (e_c - e_u), (N, C, h, w), in the type of `noisy`, and the variance logits of the same
            shape, or None where the network has none. The logits come from the conditional branch, never guided.
        """
        scale, states, asked = self.guidance_scale, noisy, conditions
        doubled = conditions is not None and null is not None and scale != 1
        if conditions is not None and null is not None and doubled:
            states = torch.cat([noisy, noisy])
            asked = torch.cat([conditions, null.to(conditions).expand_as(conditions)])
        timesteps = torch.full((len(states),), timestep, device=noisy.device, dtype=torch.long)
        with torch.autocast(noisy.device.type, torch.bfloat16) if self._half else nullcontext():
            output = self.predict(states, timesteps, asked)
        output = output.to(noisy.dtype)
        noise, variance = output.split(self.channels, 1) if output.shape[1] > self.channels else (output, None)
        if self._prediction != "epsilon":  # the noise is an affine function of a velocity: guiding either is the same
            noise = noise_of(noise, states, self._alphas_cumprod[timestep], self._prediction)
        if doubled:
            conditional, unconditional = noise.chunk(2)
            noise = unconditional + scale * (conditional - unconditional)
            if self.cfg_channels != "all":  # DiT guides three of its four channels, and so did all who built on it
                noise = torch.cat([noise[:, : self.cfg_channels], conditional[:, self.cfg_channels :]], 1)
            variance = None if variance is None else variance.chunk(2)[0]
        return noise, variance


class Denoiser(GuidedNetwork):
    """A class-conditional `DiTTransformer2DModel` as a sampler sees it, from states and class labels."""

    def __init__(
        self,
        transformer: Any,
        guidance_scale: float = 1.0,
        cfg_channels: int | Literal["auto", "all"] = "all",
        scheduler: Any = None,
        half: bool = False,
    ) -> None:
        """`cfg_channels`: auto: 3 where the variance is learned, else all; the rest is as for `GuidedNetwork`."""
        config = transformer.config
        if cfg_channels == "auto":
            cfg_channels = 3 if config.out_channels == 2 * config.in_channels else "all"
        super().__init__(transformer, scheduler, guidance_scale=guidance_scale, cfg_channels=cfg_channels, half=half)
        self._null = torch.tensor(config.num_embeds_ada_norm)  # the last row of the label table

    def predict(self, states: Tensor, timesteps: Tensor, conditions: Tensor | None) -> Tensor:
        with fused_attention(states.device):
            return self.network(states, timestep=timesteps, class_labels=conditions).sample

    def forward(self, noisy: Tensor, timestep: int, conditions: Tensor) -> tuple[Tensor, Tensor | None]:
        """The noise prediction and the variance logits, as `guided` gives them; conditions: (N,) class indices."""
        return self.guided(noisy, timestep, conditions, self._null)


def alphas_cumprod_of(scheduler: Any) -> list[float]:
    """The cumulative products of alpha, for every timestep of the training schedule."""
    return [float(value) for value in scheduler.alphas_cumprod.double()]


def build_transformer(
    *, classes: int, channels: int, size: int, layers: int, heads: int, head_dim: int, patch_size: int
) -> Any:
    """A DiT without trained weights, for latents of (channels, size, size). One further class row stands for "none"."""
    return from_diffusers("DiTTransformer2DModel")(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        sample_size=size,
        patch_size=patch_size,
        num_embeds_ada_norm=classes,
    )
