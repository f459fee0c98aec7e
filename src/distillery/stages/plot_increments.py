"""Show the images of each increment of a method on a contact sheet, a row per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The title, and the line below."""

    method: str
    about: About

    @classmethod
    def of(cls, experiment: Experiment, *, method: str, **wildcards: str) -> Settings:
        return cls(method=method, about=experiment.about_data)


def run(settings: Settings, *, increments: list[Input], png: Output, svg: Output, job: Job) -> None:
    """Draw a block per increment, in the order in which they are given."""
    from distillery.report import style
    from distillery.report.contact_sheet import contact_sheet
    from distillery.storage.images import read_images

    if not increments:
        raise BadInput("no increments were given, so there is nothing to show")
    sets = [read_images(path, made_by="select_increment") for path in increments]
    style.save(contact_sheet(sets, settings.method, settings.about), png, svg)
