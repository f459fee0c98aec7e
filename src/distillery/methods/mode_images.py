"""The discovery of MGD3 without its guidance: the real images nearest to the modes (arXiv 2505.18963)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from distillery.guidance.mode import ModeDiscovery
from distillery.methods.base import Context, Method, Needs, Part, RealImageUse


class ModeImages(Method):
    """Real images, each the nearest to a mode of its class: the ablation "discovery only" of MGD3.

    There are as many modes as images of a class, so that each size has images of its own.
    """

    stage: ClassVar[str] = "select_by_modes"
    real_images: ClassVar[RealImageUse] = "any"
    nested: ClassVar[bool] = False
    kind: Literal["mode_images"]
    modes: ModeDiscovery = ModeDiscovery()

    @property
    def needs(self) -> Needs:
        return Needs(autoencoder=True, modes=True)

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        return [Part("selected", {"ipc": ipc})]

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from self.modes.check_pool(f"{key}.modes", context.latent_side)
