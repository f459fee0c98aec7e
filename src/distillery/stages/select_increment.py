"""Select increment k: the candidate of largest learnability for every slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.job import Input, Job, Output
from distillery.methods.lgd import LGD
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """What the stage depends on."""

    choose: Literal["learnability", "random"]
    min_reference_probability: float

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, k: str) -> Settings:
        """The part of an experiment that this stage reads."""
        if int(k) == 1:  # one candidate per slot: nothing to choose
            return cls(choose="learnability", min_reference_probability=0.0)
        lgd = experiment.method_of(method, LGD)
        return cls(choose=lgd.choose, min_reference_probability=lgd.min_reference_probability)


def run(settings: Settings, *, candidates: list[Input], scores: Input | None = None, images: Output, job: Job) -> None:
    """Candidates of all shards, and their scores, to the increment in the order slot, class.

    The loop chose as it went, because a slot sees what the slots before it kept. Here the choice is repeated on the
    scores, and a difference that rounding does not explain is an error.
    """
    from distillery.selection.learnability import check_choice, chosen_rows
    from distillery.storage.images import concatenate, read_images, write_images
    from distillery.storage.tables import read_table

    whole = concatenate([read_images(path, "generate_increment") for path in candidates])
    if scores is not None and settings.choose == "learnability":
        table = read_table(scores, "score_learnability")
        check_choice(whole, table, settings.min_reference_probability)
    write_images(images, chosen_rows(whole), job.provenance)
