"""Write the resolved experiment: every block with all defaults filled in, as a file that can be run again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillery.job import Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The whole experiment."""

    experiment: dict[str, Any]

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(experiment=experiment.resolved)


def run(settings: Settings, *, experiment: Output, job: Job) -> None:
    """Write it as YAML that Snakemake and this project read to equal values."""
    import yaml

    from distillery.storage.atomic import write_bytes

    text = yaml.safe_dump(settings.experiment, sort_keys=False, allow_unicode=True, width=120)
    write_bytes(experiment, f"# The resolved experiment: `--configfile` takes it.\n{text}".encode())
