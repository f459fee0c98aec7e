"""Guidance of each image towards one mode of its class (MGD3, arXiv 2505.18963)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from distillery.errors import BadInput
from distillery.guidance.base import GuidanceBlock, GuidanceContext, GuidanceFiles, Scene
from distillery.settings import Block, Count, NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.diffusion.step import Step


class ModeDiscovery(Block):
    """How the modes of a class are found among the latents of its training images."""

    discovery: Literal["centroid", "nearest", "random", "dbscan", "spectral", "mixture"] = Field(
        "centroid",
        description="Means of k-means clusters, the latents closest to them, latents at random, means of the clusters "
        "of DBSCAN or spectral clustering, or means of a mixture of normal distributions.",
    )
    smallest_cluster: Count = Field(
        1,
        description="Images that a cluster needs to be a mode; those of a smaller one join the next, and the largest "
        "clusters then give their mode to several slots.",
    )
    pool: Count | None = Field(None, description="Side that latents are pooled to before k-means; none: not at all.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of the clusters, and of the latents at random.")

    def check_pool(self, key: str, side: int | None) -> Iterator[str]:
        """Whether latents of this side can be pooled."""
        if side is not None and self.pool is not None and self.pool > side:
            yield f"{key}.pool: {self.pool} is more than the side of the latents; allowed: 1 to {side}"


class Mode(ModeDiscovery, GuidanceBlock):
    """Guidance of each image towards one mode of its class (MGD3, arXiv 2505.18963)."""

    strength: NonNegative = Field(0.1, description="Lambda; free of the latent's size.")
    stop: Annotated[int, Field(ge=0)] | None = Field(
        None, description="It acts at indices above this one; none: 25 of 50, scaled to the steps."
    )
    count: Count | None = Field(
        None, description="Modes per class; none: one per image, for kind mgd3 discovered anew for every size."
    )

    def _stop(self, steps: int) -> int:
        return min(round(steps * 25 / 50), steps - 2) if self.stop is None else self.stop  # at least one step is guided

    def guided_range(self, steps: int) -> list[int]:
        return [min(self._stop(steps) + 1, steps - 1), steps - 1]

    def resolved(self, steps: int, beside: list[int] | None) -> Self:
        return self.model_copy(update={"stop": self._stop(steps)})

    def check(self, key: str, context: GuidanceContext) -> Iterator[str]:
        steps, side = context.sampling.steps, context.latent_side
        if self.stop is not None and self.stop >= steps - 1:
            yield (
                f"{key}.stop: {self.stop} leaves no index above it in {context.steps}; allowed: 0 to {steps - 2}, or "
                "strength: 0"
            )
        yield from self.check_pool(key, side)

    def check_sizes(self, key: str, sizes: Sequence[int], images: Mapping[str, int]) -> Iterator[str]:
        count, smallest = self.count or max(sizes), min(images, key=lambda name: images[name])
        if count <= images[smallest]:
            return
        where = f"{key}.guidance.mode.count: {count} modes"
        other = ""
        if self.count is None:
            where = f"ipc: {count} images per class are as many modes for {key}"
            other = f", or a {key}.guidance.mode.count"
        yield (
            f"{where}, but class {smallest!r} has {images[smallest]} training images, and a mode needs one of its own; "
            f"allowed: 1 to {images[smallest]}{other}"
        )

    def files(self, files: GuidanceFiles) -> list[str]:
        return [files.modes(self.count)]

    def open(self, files: Sequence[Path], scene: Scene) -> ModeGuidance:
        """
        Raises:
            BadInput: a class without modes, or modes of other latents.
        """
        from distillery.guidance.mode_discovery import read_modes

        assert self.stop is not None, "it is resolved when the settings of a stage are made"
        renderer = scene.renderer
        modes = read_modes(files[0], scene.classes).to(renderer.device)
        latent = (renderer.codec.channels, renderer.size, renderer.size)
        if modes.shape[2:] != latent:
            raise BadInput(f"{files[0]}: modes of shape {tuple(modes.shape[2:])}, but latents have {latent}")
        return ModeGuidance(modes, strength=self.strength, stop=self.stop)


class ModeGuidance:
    """Draws each image towards the mode of its class and slot: mean + strength * sigma * (m - x0).

    Eq. 6 of arXiv 2505.18963 is printed for the noise; its "+" means towards the mode, a minus in the noise. It
    needs no gradient, so it costs what plain sampling costs. Slot j takes mode j, modulo their number.
    """

    rank: ClassVar[int] = 2

    def __init__(self, modes: Tensor, *, strength: float, stop: int) -> None:
        """`modes`: (classes, modes, C, h, w), on the sampler's device; the guidance acts at indices above `stop`."""
        self._modes, self._strength, self._stop = modes, strength, stop

    def active(self, index: int) -> bool:
        return self._strength != 0 and index > self._stop

    def needs_graph(self) -> bool:
        return False

    def shift(self, step: Step) -> Tensor:
        """The shift of the posterior mean, (N, C, H, W).

        Raises:
            ValueError: the sampler has no slots.
        """
        if step.slots is None:
            raise ValueError("mode guidance needs the slot of each image")
        modes = self._modes[step.labels, step.slots % self._modes.shape[1]]
        return self._strength * step.sigma * (modes - step.clean.detach())
