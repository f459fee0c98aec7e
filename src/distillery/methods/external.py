"""Sets that were made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from distillery.data import external
from distillery.data.arrays import Normalization
from distillery.methods.base import Context, Method, Part
from distillery.settings import InputPattern


class External(Method):
    """A distilled set that was made elsewhere, evaluated as any other."""

    stage: ClassVar[str] = "import_images"
    nested: ClassVar[bool] = False  # a set of one size need not hold that of another
    kind: Literal["external"]
    images: InputPattern = Field(
        description="A folder of class folders, a Parquet file in the Hugging Face image layout, or a .pt, .npy or "
        ".npz file of images. `{ipc}` in it stands for the images per class, `{seed}` for the seed of the experiment.",
    )
    labels: InputPattern | None = Field(
        None, description="The file of the labels of a file of images, hard or soft; none: it holds them too."
    )
    normalization: Normalization | None = Field(
        None, description="What the values in a file of images are: a range, a named mean and deviation, or numbers."
    )

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        return [Part("imported", {"ipc": ipc})]

    def files(self, context: Context) -> list[str]:
        """The files of its sets; none of those that are folders."""
        places = [
            external.external_files(self.images, ipc, seed, self.labels)
            for seed in context.seeds
            for ipc in context.ipc
        ]
        return [path for paths in places for path in paths]

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from self._check_places(key, context.ipc, context)

    def check_set(self, where: str, ipc: int, context: Context) -> Iterator[str]:
        if ipc not in context.ipc and any(self._check_places("", [ipc], context)):
            yield f"{where} has no set of {ipc} images per class in {self.images}"

    def _check_places(self, key: str, sizes: Sequence[int], context: Context) -> Iterator[str]:
        names = context.class_names
        yield from external.check_external(
            key, self.images, sizes, context.seeds, names, self.labels, self.normalization
        )
