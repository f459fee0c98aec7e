"""The wildcards of a job, as Snakemake gives them to input functions."""

from __future__ import annotations

from typing import Any


class Job(dict[str, str]):
    """Wildcards by name; a run is that of the first seed unless it is given."""

    def __init__(self, **wildcards: object) -> None:
        super().__init__({"run": "", **{name: str(value) for name, value in wildcards.items()}})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None
