"""Send the histories of a run to the tool that tracks experiments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.report.tracking import AnyTracker
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The tool, and panels and names of the trainings, in the order of the histories."""

    seed: int
    about: About
    tracking: AnyTracker
    panels: list[str]
    names: list[str]

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        from distillery.plan.trainings import trainings

        assert experiment.tracking is not None
        rows = trainings(experiment, run)
        return cls(
            seed=experiment.seed(run),
            about=experiment.about,
            tracking=experiment.tracking,
            panels=[row.panel for row in rows],
            names=[row.name for row in rows],
        )


def run(settings: Settings, *, histories: list[Input], receipt: Output, job: Job) -> None:
    """Histories to the tool, and a receipt of the trainings that were sent.

    A note beside the receipt says which were sent already: none is sent again before it changes.
    """
    import hashlib

    from distillery.report.tracking import TrackedTraining, curves
    from distillery.settings import canonical
    from distillery.storage.atomic import read_json, write_json
    from distillery.storage.tables import read_table

    about, tracker = settings.about, settings.tracking
    if len(histories) != len(settings.panels):
        raise BadInput(f"{len(settings.panels)} panels are named for {len(histories)} histories; name one for each")
    project, note = tracker.project or about.experiment, receipt.with_name("sent.json")
    facts = {"experiment": about.experiment, "data set": about.dataset, "seed": str(settings.seed)}
    sent: dict[str, str] = read_json(note, job.stage) if note.exists() else {}
    rows: list[dict[str, Any]] = []
    for path, panel, name in zip(histories, settings.panels, settings.names, strict=True):
        training = TrackedTraining(f"{about.experiment}, seed {settings.seed}", panel, name, facts)
        steps = list(curves(read_table(path, "the training beside it")))
        rows.append({"training": training.title, "steps": len(steps)})
        digest = hashlib.sha256(json.dumps([canonical(tracker), steps]).encode()).hexdigest()
        if sent.get(training.title) == digest:
            continue
        try:
            with tracker.open(project, training) as log:
                for step, values in steps:
                    log(step, values)
        except Exception as error:  # whatever a tool raises when it is not reached
            raise BadInput(
                f"tracking: {tracker.kind} did not take {training.title}: {error}; the results are complete: set the "
                "tool's environment variables right and run the same command again, or leave out `tracking`"
            ) from error
        write_json(note, sent | {training.title: digest})
        sent[training.title] = digest
    write_json(receipt, {"kind": tracker.kind, "project": project, "trainings": rows})
