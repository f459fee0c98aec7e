"""Calibrate the guidance: the strength at which a pilot is still valid, without a test image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.settings import Sampling
from distillery.guidance.base import counts
from distillery.guidance.registry import Guidances
from distillery.guidance.settings import Calibration
from distillery.job import Input, Job, Output
from distillery.methods.lgd import LGD
from distillery.report.about import About
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    method: str
    resolution: int
    sampling: Sampling
    guidance: Guidances
    guidance_files: dict[str, int]
    increment_size: int
    candidates: int
    min_reference_probability: float
    calibration: Calibration
    images: int
    judge: str
    student_recipe: Recipe | None
    about: About

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str) -> Settings:
        lgd = experiment.method_of(method, LGD)
        network = experiment.student_networks(method)[0]
        protocol = lgd.student.protocol or experiment.evaluation.protocols[0]
        taught = lgd.calibration.aim == "accuracy"
        learned = lgd.pilot_ipc(experiment.ipc, experiment.classes)
        return cls(
            seed=experiment.seed(run),
            method=method,
            resolution=experiment.dataset.resolution,
            sampling=experiment.generators[lgd.generator].sampling,
            guidance=experiment.resolved_guidance(method),
            guidance_files=counts(experiment.guidance_files(run, method)),
            increment_size=lgd.increment_size,
            candidates=lgd.candidates,
            min_reference_probability=lgd.min_reference_probability,
            calibration=lgd.calibration.model_copy(update={"images": None, "budget": 1.0}),  # of planning alone
            images=lgd.pilot_images(experiment.ipc, experiment.classes),
            judge=lgd.calibration.judge or lgd.reference,
            student_recipe=experiment.recipe(protocol, network, learned, method) if taught else None,
            about=experiment.about_data,
        )


def run(
    settings: Settings,
    *,
    validation: Input | None = None,
    teacher: Input | None = None,
    generator: list[Input],
    autoencoder: list[Input],
    guidance_autoencoder: list[Input] | None = None,
    increment: Input,
    student: Input,
    other_students: Input | None = None,
    reference: Input,
    judge: Input,
    guidance_files: list[Input] | None = None,
    guidance: Output,
    curve: Output,
    csv: Output,
    job: Job,
) -> None:
    """Generator, increment 1, its students, and the judge to the chosen strength and weight, and their curve.

    `validation` are the images on which `aim: accuracy` tests students of the pilot; `teacher` gives their soft labels.
    """
    import pyarrow as pa
    from pyarrow.csv import WriteOptions, write_csv

    from distillery.data.pixels import decoded
    from distillery.data.reading import ImageTable
    from distillery.diffusion.renderer import class_conditions, load_renderer
    from distillery.guidance.base import Scene
    from distillery.guidance.calibration import MOST_CLASSES, Line, pilot_slots
    from distillery.guidance.lgd import LoopGuidance
    from distillery.guidance.pilot import Pilot, calibrate, curve_table, spread, student_accuracy
    from distillery.guidance.score import load_students
    from distillery.spreadsheets import csv_text
    from distillery.storage.atomic import replacing, write_json
    from distillery.storage.images import read_images
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier, Domain
    from distillery.students.soft_labels import online_answers

    students = load_students(student, other_students, job.device)
    folder, calibration = generator[0].parent, settings.calibration
    renderer = load_renderer(
        folder,
        autoencoder[0].parent,
        resolution=settings.resolution,
        **settings.sampling.model_dump(),
        device=job.device,
        guidance_autoencoder=guidance_autoencoder[0].parent if guidance_autoencoder else None,
    )
    seed_images = read_images(increment, "select_increment")
    classes = seed_images.classes
    labels = spread(len(classes), MOST_CLASSES)
    files = settings.guidance.divided(guidance_files, settings.guidance_files)
    loop = LoopGuidance(settings.guidance, files, Scene(renderer, classes, images=[seed_images]))
    size = settings.increment_size
    pilot = Pilot(
        renderer,
        students,
        reference=Classifier.load(reference, "train_reference").to(job.device),
        judge=Classifier.load(judge, "train_reference").to(job.device),
        loop=loop,
        labels=labels,
        conditions=class_conditions(folder, classes),
        slots=range(size, size + pilot_slots(settings.images, len(classes))),
        key=lambda label, slot, number: (settings.seed, job.stage, classes[label], slot, number),
    )
    if settings.student_recipe is not None and validation is not None:
        recipe = settings.student_recipe
        domain = Domain.of(decoded(seed_images.take([0])), recipe)
        pilot.teach = student_accuracy(
            students[0].name,
            seed_images,
            ImageTable(validation),
            recipe,
            calibration.students,
            (settings.seed, job.stage),
            job.device,
            online_answers(teacher, classes, domain, job.device),
        )
    strength, weight = loop.learnability.resolved_strength, loop.learnability.reference_weight
    strengths, weights = calibration.relative_strengths, calibration.reference_weights
    if strength != "auto":
        strengths = [strength / renderer.latent_numbers**0.5] if strength else []
    if weight != "auto":
        weights = [weight]
    resume = job.resume(curve)
    outcome = calibrate(
        pilot,
        relative_strengths=strengths,
        lines=[Line(weight, *mode) for weight in weights for mode in calibration.modes],
        extend=calibration.extend and strength == "auto",
        calibration=calibration,
        candidates=settings.candidates,
        min_reference_probability=settings.min_reference_probability,
        resume=resume,
    )
    table = curve_table(outcome, settings.judge, calibration, pilot.images)
    source = settings.about.origin
    write_table(curve, table, {**job.provenance, **source})
    for name, value in source.items():
        table = table.append_column(name, pa.array([csv_text(value)] * len(table)))
    with replacing(csv) as temporary:
        write_csv(table, temporary, WriteOptions(quoting_style="needed"))
    chosen = {
        "strength": outcome.chosen.strength,
        "reference_weight": outcome.chosen.reference_weight,
        "mode_strength": outcome.chosen.mode_strength,
        "mode_stop": outcome.chosen.mode_stop,
    }
    write_json(guidance, {name: value for name, value in chosen.items() if value is not None})
    resume.finish()
