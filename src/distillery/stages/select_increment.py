"""Collect increment k: the candidates of all shards that were chosen, one per class and slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The stage depends on its files alone."""

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, k: str) -> Settings:
        return cls()


def run(settings: Settings, *, candidates: list[Input], images: Output, job: Job) -> None:
    """Candidates of all shards to the chosen ones in the order slot, class.

    `generate_increment` chooses slot by slot, because deviation steers away from the images of earlier slots.
    """
    from distillery.selection.by_class import chosen_rows
    from distillery.storage.images import concatenate, read_images, write_images

    whole = concatenate([read_images(path, "generate_increment") for path in candidates])
    write_images(images, chosen_rows(whole), job.provenance)
