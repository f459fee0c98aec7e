"""Show the paths of samples: the predicted images of some sampling steps, without guidance and with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The title, and the line below."""

    method: str
    guidances: list[str]
    about: About

    @classmethod
    def of(cls, experiment: Experiment, *, method: str, **wildcards: str) -> Settings:
        guidances = experiment.guidance(method).acting
        return cls(method=method, guidances=guidances, about=experiment.about_data)


def run(settings: Settings, *, path: Input, png: Output, svg: Output, job: Job) -> None:
    """Draw a block per class, its columns the recorded steps."""
    from distillery.report import style
    from distillery.report.path import path_figure
    from distillery.storage.images import read_images

    traced = read_images(path, "trace_sample")
    style.save(path_figure(traced, settings.method, settings.guidances, settings.about), png, svg)
