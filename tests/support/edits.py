"""Experiments that are changed in one place, and what planning says of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml
from clone import PROJECT, SMOKE

from distillery.errors import ExperimentError
from distillery.plan.load import load

Config = dict[str, Any]
Edit = Callable[[Config], object]
STARTER: Config = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))


def changed(edit: Edit) -> Config:
    """The smoke experiment with one change."""
    config = deepcopy(STARTER)
    edit(config)
    return config


def put(path: str, value: Any) -> Edit:
    """Set the value of a dotted key; blocks on the way are made."""
    return put_at(path.split("."), value)


def put_at(path: list[str], value: Any) -> Edit:
    """Set the value of a key whose parts may hold dots; blocks on the way are made."""

    def edit(config: Config) -> None:
        for block in path[:-1]:
            if not isinstance(config.get(block), dict):
                config[block] = {}
            config = config[block]
        config[path[-1]] = value

    return edit


def faults(*edits: Edit) -> list[str]:
    """The lines that the changes are refused with."""

    def edit(config: Config) -> None:
        for one in edits:
            one(config)

    with pytest.raises(ExperimentError) as refused:
        load(changed(edit))
    return str(refused.value).split("\n")
