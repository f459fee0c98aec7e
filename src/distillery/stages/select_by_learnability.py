"""Select increment k among the real images: those of largest learnability, no generation (a control of LGD)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillery.job import Input, Job, Output
from distillery.methods.lgd import RealByLearnability
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """Increments that no student chooses have the defaults of the scores' settings."""

    seed: int
    increment: int
    increment_size: int
    reference_weight: float
    min_reference_probability: float

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, k: str) -> Settings:
        control = experiment.method_of(method, RealByLearnability)
        first = int(k) <= control.beginning
        return cls(
            seed=experiment.seed(run),
            increment=int(k),
            increment_size=control.increment_size,
            reference_weight=0.0 if first else control.reference_weight,
            min_reference_probability=0.0 if first else control.min_reference_probability,
        )


def run(
    settings: Settings,
    *,
    data: Input,
    previous: list[Input] | None = None,
    student: Input | None = None,
    other_students: Input | None = None,
    reference: Input | None = None,
    seed_images: Input | None = None,
    images: Output,
    job: Job,
) -> None:
    """Training images, students and reference to the real images of increment k, in the order slot, class.

    An increment without a student is random, or the images of its slots in `seed_images`, another method's set.
    """
    import numpy as np

    from distillery.storage.images import ImageSet, read_images, write_images

    count, first = settings.increment_size, (settings.increment - 1) * settings.increment_size
    if seed_images is not None:
        seed = read_images(seed_images, "collect")
        slots = seed.columns["slot"]
        rows = np.flatnonzero((slots >= first) & (slots < first + count))
        chosen = seed.take(rows[np.lexsort((seed.labels[rows], slots[rows]))])
        chosen.columns = {"slot": chosen.columns["slot"], "increment": np.full(len(rows), settings.increment)}
        write_images(images, chosen, job.provenance)
        return

    import torch

    from distillery.data.reading import ImageTable
    from distillery.guidance.score import Scorer, load_students
    from distillery.selection.by_class import most_learnable
    from distillery.selection.random import ordered_by_slot, random_order
    from distillery.students.networks import Classifier

    table = ImageTable(data)  # only chosen images are read: the table may be larger than the memory
    real = ImageSet([], table.labels, table.classes, table.paths())
    labels = range(len(real.classes))
    columns: dict[str, Any] = {}
    resume = None
    if student is None or reference is None:
        orders = [random_order(real, label, count, settings.seed) for label in labels]
    else:
        taken = {path for before in previous or [] for path in read_images(before, job.stage).paths}
        scorer = Scorer(
            load_students(student, other_students, job.device),
            Classifier.load(reference, "train_reference").to(job.device),
            settings.reference_weight,
        )
        resume = job.resume(images)
        score = scorer.score_stored(table, torch.from_numpy(real.labels), resume=resume)
        columns = {name: values.numpy() for name, values in vars(score).items()}
        orders = [
            most_learnable(
                real,
                label,
                count,
                columns["learnability"],
                columns["reference_probability"] >= settings.min_reference_probability,
                taken,
            )
            for label in labels
        ]
    chosen = ordered_by_slot(table, orders)
    rows = np.array(orders, dtype=np.int64).T.ravel()
    chosen.columns = {
        "slot": chosen.columns["slot"] + first,
        "increment": np.full(len(rows), settings.increment),
        **{name: values[rows] for name, values in columns.items()},
    }
    write_images(images, chosen, job.provenance)
    if resume is not None:
        resume.finish()
