"""Show the images of a method's largest set on a contact sheet, a row per class."""

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
    ipc: int
    about: About

    @classmethod
    def of(cls, experiment: Experiment, *, method: str, **wildcards: str) -> Settings:
        return cls(method=method, ipc=max(experiment.ipc), about=experiment.about_data)


def run(settings: Settings, *, images: Input, png: Output, svg: Output, job: Job) -> None:
    """Draw the images of each class in the order of their slots."""
    from distillery.report import style
    from distillery.report.contact_sheet import images_by_class
    from distillery.storage.images import read_images

    title = f"{settings.method}, {settings.ipc} images per class"
    style.save(images_by_class(read_images(images, "collect"), title, settings.about), png, svg)
