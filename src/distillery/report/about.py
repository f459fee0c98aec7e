"""What a table or a figure says of its experiment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distillery.provenance import commit
from distillery.settings import Block


class About(Block):
    """The experiment behind a table or a figure; `Experiment.about` makes it.

    Attributes:
        experiment: its name.
        dataset: the data set in words, with classes and side of the images; where accuracies are of validation images,
            it says so.
        protocols: labels of the protocols of its evaluation, in their order; none for a stage that evaluates nothing.
        split: the images that accuracies are of.
    """

    experiment: str
    dataset: str
    protocols: list[str] = Field([])
    split: Literal["test", "validation"] = "test"

    @property
    def origin(self) -> dict[str, str]:
        """What a table is of: experiment, data set, and the commit of the code that writes it.

        The commit is no setting: another one runs nothing again, and a table names the commit that it was written at.
        """
        return {"experiment": self.experiment, "dataset": self.dataset, "commit": commit()}
