"""What a table or a figure says of its experiment."""

from __future__ import annotations

from distillery.settings import Block


class About(Block):
    """The experiment behind a table or a figure; `Experiment.about` makes it.

    Attributes:
        experiment: its name.
        dataset: the data set in words, with classes and side of the images.
        protocols: labels of the protocols of its evaluation, in their order.
    """

    experiment: str
    dataset: str
    protocols: list[str]
