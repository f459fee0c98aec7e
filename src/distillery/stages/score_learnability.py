"""Score images by their learnability: what the student has not learned and the reference finds valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from distillery.job import Input, Job, Output
from distillery.methods.lgd import LGD
from distillery.settings import Block, NonNegative

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """What the stage depends on."""

    reference_weight: NonNegative | Literal["auto"]

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, k: str) -> Settings:
        """The part of an experiment that this stage reads."""
        return cls(reference_weight=experiment.method_of(method, LGD).learnability.reference_weight)


def run(
    settings: Settings,
    *,
    images: list[Input],
    student: Input,
    reference: Input,
    guidance: Input | None = None,
    scores: Output,
    job: Job,
) -> None:
    """Image sets and two networks to one row per image: its place, S, both losses, the reference's probability."""
    import pyarrow as pa
    import torch

    from distillery.data.pixels import decoded
    from distillery.guidance.score import Scorer
    from distillery.storage.atomic import read_json
    from distillery.storage.images import concatenate, read_images
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier

    chosen = read_json(guidance, "calibrate_guidance") if guidance else settings.model_dump()
    scorer = Scorer(
        Classifier.load(student, "train_student").to(job.device),
        Classifier.load(reference, "train_reference").to(job.device),
        chosen["reference_weight"],
    )
    whole = concatenate([read_images(path, "generate_increment") for path in images])
    score = scorer.score_stored(decoded(whole), torch.from_numpy(whole.labels))
    columns: dict[str, Any] = {"path": whole.paths, "label": whole.labels}
    columns.update({name: whole.columns[name] for name in ("slot", "candidate") if name in whole.columns})
    columns.update({name: values.numpy() for name, values in vars(score).items()})
    write_table(scores, pa.table(columns), job.provenance)
