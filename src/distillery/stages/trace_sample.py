"""Trace samples of a method: draw images of its set again, with guidance and without, and record their paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.settings import Sampling
from distillery.errors import BadInput
from distillery.guidance.base import counts
from distillery.guidance.registry import Guidances
from distillery.job import Input, Job, Output
from distillery.methods.sampling import Sampled
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """The first image of slot `slot` of some classes. Guidances are resolved; what a pilot chooses is `auto`.

    A method that has increments draws that slot in its last one.
    """

    seed: int
    stream: str
    slot: int
    classes: list[str]
    recorded: int
    resolution: int
    sampling: Sampling
    guidance: Guidances
    guidance_files: dict[str, int]

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str) -> Settings:
        path = experiment.analysis.path
        assert path is not None
        sampled = experiment.method_of(method, Sampled)
        last = sampled.increments(experiment.ipc)
        guidance = experiment.increment_guidance(method, last) if last else experiment.resolved_guidance(method)
        return cls(
            seed=experiment.seed(run),
            stream=experiment.stream(method),
            slot=experiment.first_slot_of_last_part(method),
            classes=experiment.path_classes,
            recorded=path.steps,
            resolution=experiment.dataset.resolution,
            sampling=experiment.generators[sampled.generator].sampling,
            guidance=guidance,
            guidance_files=counts(experiment.guidance_files(run, method)),
        )


def run(
    settings: Settings,
    *,
    data: Input,
    generator: list[Input],
    autoencoder: list[Input],
    images: Input,
    guidance_autoencoder: list[Input] | None = None,
    previous: list[Input] | None = None,
    student: Input | None = None,
    other_students: Input | None = None,
    reference: Input | None = None,
    calibrated: Input | None = None,
    guidance_files: list[Input] | None = None,
    path: Output,
    shifts: Output,
    job: Job,
) -> None:
    """The inputs of a sampling stage and the finished set to the decoded predictions of some steps, as an image set.

    Its columns: `guided`; `index`, the sampling index, and -1 for the finished image; `steered`, whether a guidance
    acts at that index; `repeats_set`, whether the finished image with guidance is that of the set, to 2 of 255 steps
    of brightness on average. `shifts` has how far each guidance moved each image at each index, as `Shift` says.
    """
    from dataclasses import asdict

    import numpy as np
    import pyarrow as pa
    import torch

    from distillery.data.pixels import to_bytes
    from distillery.diffusion.renderer import class_conditions, load_renderer
    from distillery.guidance.base import Scene
    from distillery.guidance.lgd import LoopGuidance, open_loop
    from distillery.guidance.path import Weighed, recorded_indices, sample_path, shifts_of
    from distillery.storage.images import ImageSet, decode_image, encode_png, read_classes, read_images, write_images
    from distillery.storage.tables import write_table

    classes = read_classes(data, "ingest")
    folder = generator[0].parent
    renderer = load_renderer(
        folder,
        autoencoder[0].parent,
        resolution=settings.resolution,
        **settings.sampling.model_dump(),
        device=job.device,
        guidance_autoencoder=guidance_autoencoder[0].parent if guidance_autoencoder else None,
    )
    before = [read_images(file, "sample or select_increment") for file in previous or []]
    scene = Scene(renderer, classes, images=before)
    files = settings.guidance.divided(guidance_files, settings.guidance_files)
    if student is not None and reference is not None:
        loop = LoopGuidance(settings.guidance, files, scene)
        _, guidances = open_loop(loop, student, other_students, reference, calibrated, job.device)
    else:
        guidances = settings.guidance.open(files, scene)

    finished, conditions = read_images(images, "collect"), class_conditions(folder, classes)
    indices = recorded_indices(settings.sampling.steps, settings.recorded)
    pictures: list[bytes] = []
    rows: list[dict[str, object]] = []
    moved: list[dict[str, object]] = []
    for name in settings.classes:
        label = classes.index(name)
        drawn = np.flatnonzero((finished.labels == label) & (finished.columns["slot"] == settings.slot))
        if len(drawn) != 1:
            raise BadInput(f"{images}: no image of class {name!r} in slot {settings.slot}; run collect again")
        candidate = int(finished.columns["candidate"][drawn[0]]) if "candidate" in finished.columns else 0
        key = (settings.seed, settings.stream, name, settings.slot, candidate)
        weighed = [Weighed(guidance) for guidance in guidances]
        for guided in (False, True):
            clean, last = sample_path(
                renderer, key, label, conditions[label], settings.slot, weighed if guided else [], indices
            )
            with torch.no_grad():
                decoded = to_bytes(renderer.codec.decode(clean.to(job.device))).cpu()
            away = np.abs(last[0].numpy().astype(float) - decode_image(finished.images[drawn[0]]).astype(float)).mean()
            pictures += [encode_png(image) for image in [*decoded.numpy(), last[0].numpy()]]
            rows += [
                {
                    "label": label,
                    "guided": guided,
                    "index": index,
                    "steered": guided and any(guidance.active(index) for guidance in guidances),
                    "repeats_set": guided and bool(away <= 2),
                }
                for index in [*indices, -1]
            ]
        moved += [{"class": name, **asdict(shift)} for shift in shifts_of(weighed)]
    labels = np.array([row.pop("label") for row in rows], dtype=np.int64)
    names = [f"{classes[label]}/{row['guided']:d}-{row['index']}.png" for label, row in zip(labels, rows, strict=True)]
    columns = {column: np.array([row[column] for row in rows]) for column in rows[0]}
    numbers = [("length", pa.float64()), ("sigma", pa.float64()), ("other", pa.string()), ("cosine", pa.float64())]
    schema = pa.schema([("class", pa.string()), ("index", pa.int64()), ("guidance", pa.string()), *numbers])
    write_table(shifts, pa.Table.from_pylist(moved, schema), job.provenance)
    write_images(path, ImageSet(pictures, labels, classes, names, columns), job.provenance)
