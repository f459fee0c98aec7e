"""RDED: the crops of real images that a network finds easiest, several of them in one image (arXiv 2312.03526)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distillery.methods.base import Context, Method, Needs, Part, check_named
from distillery.settings import Count, Exponent, Name, Repeats

Share = Annotated[float, Field(gt=0, le=1), Exponent]


class RDED(Method):
    """Realistic and diverse crops, stitched (arXiv 2312.03526); defaults as in the scripts of the public code."""

    stage: ClassVar[str] = "stitch_crops"
    nested: ClassVar[bool] = False  # ranks are dealt out to all images of a size: each size has images of its own
    kind: Literal["rded"]
    reference: Name = Field(description="The network that finds crops easy or hard: an entry of `references`.")
    factor: Repeats = Field(2, description="Crops in a row and in a column of an image; 1: one crop is an image.")
    crops: Repeats = Field(5, description="Random crops of each image, of which the easiest is a candidate.")
    images_per_class: Count = Field(300, description="Training images that are cropped, at most, drawn at random.")
    scale: list[Share] = Field(
        [0.08, 1.0], min_length=2, max_length=2, description="Smallest and largest area of a crop, as a share."
    )
    stream: Name | None = Field(None, description="Methods of one stream share their crops; none: the method's name.")

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.reference)

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        return [Part("selected", {"ipc": ipc})]

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from check_named(f"{key}.reference", "reference", self.reference, context.references)
        if self.factor > (side := context.dataset.resolution):
            yield f"{key}.factor: {self.factor} crops in a row of {side} pixels; allowed: 1 to {side}"
        if self.scale[0] > self.scale[1]:
            yield f"{key}.scale: {self.scale[0]} lies above {self.scale[1]}; allowed: the smaller one first"
        wanted = max(context.ipc) * self.factor**2
        if wanted > self.images_per_class:
            yield (
                f"{key}.images_per_class: {self.images_per_class} images for the {wanted} crops of a class at ipc "
                f"{max(context.ipc)}, each of an image of its own; allowed: {wanted} or more"
            )

    def check_sizes(self, key: str, sizes: Sequence[int], images: Mapping[str, int]) -> Iterator[str]:
        wanted, smallest = max(sizes) * self.factor**2, min(images, key=lambda name: images[name])
        if wanted > images[smallest]:
            yield (
                f"{key}.factor: {wanted} crops of a class at ipc {max(sizes)}, each of an image of its own, but class "
                f"{smallest!r} has {images[smallest]} training images; lower factor or ipc"
            )
