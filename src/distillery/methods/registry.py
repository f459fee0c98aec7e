"""Every kind of method: the classes with a `kind` in the modules of this package. A new family is a new module."""

from __future__ import annotations

import importlib
import pkgutil
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from distillery import methods
from distillery.methods.base import Method


def method_classes() -> list[type[Method]]:
    """The kinds of method, module by module, each in the order of its definition."""
    return [
        value
        for name in [f"{methods.__name__}.{file.name}" for file in pkgutil.iter_modules(methods.__path__)]
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and issubclass(value, Method)
        if value.__module__ == name and "kind" in value.model_fields
    ]


if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod = Annotated[reduce(or_, method_classes()), Field(discriminator="kind")]
