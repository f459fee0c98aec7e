"""Measure learning dynamics: how sure a network is of each image, original or distilled, over a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillery.analysis.settings import Thresholds
from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

ORIGINAL = ""
"""The name of the original images among sets, which no method can have."""

SUBSETS = 100
"""Random subsets of the original images behind the divergence that sets of this size have by chance."""


class Settings(Block):
    """`methods`: of the sets, in the order of their files; `own_recipe`: None where sets are only recorded."""

    seed: int
    methods: list[str]
    network: str
    recipe: Recipe
    own_recipe: Recipe | None
    students: int
    thresholds: Thresholds

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        block = experiment.analysis.learning_dynamics
        assert block is not None
        network, protocol = block.network or experiment.evaluation.networks[0], experiment.evaluation.protocols[0]
        full, own = (
            experiment.recipe(protocol, network, ipc).model_copy(update={"epochs": block.epochs})
            for ipc in ("full", max(experiment.ipc))
        )
        return cls(
            seed=experiment.seed(run),
            methods=list(dict.fromkeys(block.methods)),
            network=network,
            recipe=full,
            own_recipe=own if block.train_on == "own" else None,
            students=block.students,
            thresholds=block.thresholds,
        )


def run(
    settings: Settings,
    *,
    data: Input,
    images: list[Input],
    teacher: Input | None = None,
    dynamics: Output,
    shares: Output,
    job: Job,
) -> None:
    """Original images and distilled sets to mean and standard deviation of each image, and to shares of each set."""
    import numpy as np
    import pyarrow as pa

    from distillery.analysis.learning_dynamics import (
        KINDS,
        Dynamics,
        js_divergence,
        js_of_subsets,
        kinds_of,
        recorded_dynamics,
    )
    from distillery.data.pixels import load_pixels
    from distillery.storage.resume import Resume
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier, Domain
    from distillery.students.soft_labels import Teacher

    files = {
        ORIGINAL: (data, "ingest"),
        **{name: (path, "collect") for name, path in zip(settings.methods, images, strict=True)},
    }
    loaded = {name: load_pixels(*file) for name, file in files.items()}
    sets = {name: (pixels, labels) for name, (pixels, labels, _, _) in loaded.items()}
    classes = loaded[ORIGINAL][2]
    domain, answers = Domain.of(sets[ORIGINAL][0], settings.recipe), None
    if teacher is not None:
        answers = Teacher(Classifier.load(teacher, "train_reference"), classes, domain, job.device).online()
    resumes: list[Resume] = []

    def over_training(trained: str, watched: list[str], recipe: Recipe, student: int) -> dict[str, Dynamics]:
        key = (settings.seed, job.stage, settings.network, student)
        resumes.append(job.resume(dynamics.with_name(f"{dynamics.stem}.student-{student}-{trained}")))
        recorded = recorded_dynamics(
            Classifier(settings.network, classes, domain, key),
            sets[trained],
            [sets[name] for name in watched],
            recipe,
            key=key,
            device=job.device,
            soft_labels=answers,
            resume=resumes[-1],
            what=f"{trained or 'original images'}, student {student + 1}/{settings.students}",
        )
        return dict(zip(watched, recorded, strict=True))

    tables, rows = [], list[dict[str, Any]]()
    for student in range(settings.students):
        if settings.own_recipe is None:
            of_sets = over_training(ORIGINAL, list(sets), settings.recipe, student)
        else:
            recipes = {name: settings.own_recipe if name else settings.recipe for name in sets}
            of_sets = {name: over_training(name, [name], recipe, student)[name] for name, recipe in recipes.items()}
        original, original_labels = of_sets[ORIGINAL], sets[ORIGINAL][1].numpy()
        for name, of_set in of_sets.items():
            replicate: dict[str, Any] = {"set": name, "seed": settings.seed, "student": student}
            kinds, labels = kinds_of(of_set, settings.thresholds), sets[name][1].numpy()
            count = len(kinds)
            columns = {
                **{key: [value] * count for key, value in replicate.items()},
                "image": loaded[name][3],
                "label": labels,
                "mean": of_set.mean,
                "std": of_set.std,
                "kind": [KINDS[kind] for kind in kinds],
            }
            tables.append(pa.table(columns))
            row = {**replicate, "images": count}
            row |= {kind: 100 * float((kinds == place).mean()) for place, kind in enumerate(KINDS)}
            if name != ORIGINAL:
                row["js"] = js_divergence(of_set, original)
                sizes = np.bincount(labels, minlength=len(classes))
                key = (settings.seed, job.stage, "subsets", name)
                row["js_of_subset"] = js_of_subsets(original, original_labels, sizes, SUBSETS, key)
            rows.append(row)
    write_table(dynamics, pa.concat_tables(tables), job.provenance)
    whole_numbers = [(name, pa.int64()) for name in ("seed", "student", "images")]
    numbers = [(name, pa.float64()) for name in (*KINDS, "js", "js_of_subset")]
    schema = pa.schema([("set", pa.string()), *whole_numbers, *numbers])
    write_table(shares, pa.Table.from_pylist(rows, schema), job.provenance)
    for part in resumes:
        part.finish()
