"""Sets that were made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from distillery.data import external
from distillery.methods.base import Context, Method, Part
from distillery.settings import InputPattern


class External(Method):
    """A distilled set that was made elsewhere, evaluated as any other."""

    stage: ClassVar[str] = "import_images"
    kind: Literal["external"]
    images: InputPattern = Field(
        description="A folder of class folders, or a Parquet file in the Hugging Face image layout. `{ipc}` in it "
        "stands for the images per class, `{seed}` for the seed of the experiment.",
    )

    @property
    def nested(self) -> bool:
        """A set of one size need not hold that of another."""
        return False

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        """The set of this size, imported."""
        return [Part("imported", {"ipc": ipc})]

    def check(self, key: str, context: Context) -> Iterator[str]:
        """Whether there is a set for every size, with so many images of every class."""
        yield from external.check_external(key, self.images, context.ipc, context.seeds, context.class_names)
