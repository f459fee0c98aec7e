"""Import single classes of large packages, and use optimizers without loading torch's compiler.

`import torch._dynamo`, which each optimizer and each model of diffusers asks for, takes as long as torch itself;
`from diffusers import AutoencoderKL` loads every autoencoder, and each of their schedulers `scipy.stats`. None of it
changes a result. Stand-ins are in `sys.modules` only while one of these functions runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

_MODULES = {
    "AutoencoderKL": "models.autoencoders.autoencoder_kl",
    "AutoencoderTiny": "models.autoencoders.autoencoder_tiny",
    "VQModel": "models.autoencoders.vq_model",
    "DiTTransformer2DModel": "models.transformers.dit_transformer_2d",
    "UNet2DModel": "models.unets.unet_2d",
    "UNet2DConditionModel": "models.unets.unet_2d_condition",
    "DDIMScheduler": "schedulers.scheduling_ddim",
    "DDPMScheduler": "schedulers.scheduling_ddpm",
    "DPMSolverMultistepScheduler": "schedulers.scheduling_dpmsolver_multistep",
}
_TABLES = tuple(f"diffusers.models.{name}" for name in ("autoencoders", "transformers", "unets"))


class _StandIn(ModuleType):
    """An empty module in the place of one that is not loaded; whoever needs more of it gets the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    return function if function is not None else _unchanged


def _compiler() -> ModuleType:
    compiler = _StandIn("torch._dynamo")
    vars(compiler).update(allow_in_graph=_unchanged, disable=_unchanged, graph_break=lambda: None)
    return compiler


def _without_table(name: str) -> ModuleType:
    package, spec = ModuleType(name), importlib.util.find_spec(name)
    assert spec is not None and spec.submodule_search_locations is not None
    vars(package).update(__path__=spec.submodule_search_locations, __spec__=spec)
    return package


@contextmanager
def _standing_in(makers: Mapping[str, Callable[[], ModuleType]]) -> Iterator[None]:
    absent = {name: maker() for name, maker in makers.items() if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name, module in absent.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let optimizers be made and take their steps without loading torch's compiler, unless something is compiled."""
    if "torch._dynamo" in sys.modules:
        yield
    else:
        with _standing_in({"torch._dynamo": _compiler}):
            yield


def from_diffusers(name: str) -> Any:
    """A class of diffusers, without the other models of its package.

    Args:
        name: of a model or a scheduler that this project opens.
    """
    module = f"diffusers.{_MODULES[name]}"
    if module not in sys.modules:
        scipy = {name: partial(_StandIn, name) for name in ("scipy.stats", "scipy.integrate")}
        tables = {table: partial(_without_table, table) for table in _TABLES}
        with _standing_in({"torch._dynamo": _compiler, **scipy}), _standing_in(tables):
            importlib.import_module(module)
            importlib.import_module("diffusers.hooks.group_offloading")  # models ask for it when they are opened
        if "schedulers" in module:
            # Else each `from_config` imports all schedulers, to tell which keys of a config are theirs.
            getattr(sys.modules[module], name)._compatibles = []
    return getattr(sys.modules[module], name)
