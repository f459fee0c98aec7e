"""Imports without tables and compilers give the same classes and steps, and leave nothing behind."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch
from torch import nn

from distillery.lean_imports import without_compiler

CLASSES = ["AutoencoderKL", "AutoencoderTiny", "VQModel", "DiTTransformer2DModel", "UNet2DModel"]
CLASSES += ["UNet2DConditionModel", "DDPMScheduler", "DPMSolverMultistepScheduler"]


def printed(program: str) -> list[str]:
    """What a program prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_classes_are_those_of_diffusers_and_no_stand_in_stays() -> None:
    program = f"""
import sys
from distillery.lean_imports import from_diffusers
lean = [from_diffusers(name) for name in {CLASSES}]
absent = ("torch._dynamo", "torchvision", "scipy.stats", "scipy.integrate", "diffusers.models.transformers")
print(*[name for name in absent if name in sys.modules], "|")
import diffusers, scipy.integrate, scipy.stats, torch
assert lean == [getattr(diffusers, name) for name in {CLASSES}]
scheduler = diffusers.LMSDiscreteScheduler()
scheduler.set_timesteps(3)
print(scheduler.get_lms_coefficient(1, 0, 0), "|")
scheduler = diffusers.EulerDiscreteScheduler(use_beta_sigmas=True)
scheduler.set_timesteps(3)
print(len(scheduler.sigmas), "|", torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""
    absent, coefficient, sigmas, compiled = " ".join(printed(program)).split("|")
    assert absent == ""
    assert float(coefficient) != 0
    assert (int(sigmas), float(compiled)) == (4, 2.0)


def test_a_module_that_needs_more_than_the_stand_in_gets_the_compiler() -> None:
    program = """
import sys
from distillery.lean_imports import without_compiler
with without_compiler():
    import torch._dynamo
    print(torch._dynamo.config.cache_size_limit > 0, "torch._dynamo.eval_frame" in sys.modules)
"""
    assert printed(program) == ["True", "True"]


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_the_steps_of_an_optimizer_are_the_same_bits(kind: str) -> None:
    program = f"""
import sys
from contextlib import nullcontext
import torch
from distillery.lean_imports import without_compiler
def trained(context):
    weights = torch.linspace(-1, 1, 50).requires_grad_()
    with context():
        optimizer = torch.optim.{kind}([weights], 0.1, fused=True)
    for _ in range(5):
        with context():
            optimizer.zero_grad()
            (weights.sin() ** 2).sum().backward()
            optimizer.step()
    return weights.detach()
lean = trained(without_compiler)
print("torch._dynamo" in sys.modules)
plain = trained(nullcontext)
print("torch._dynamo" in sys.modules, torch.equal(lean, plain))
"""
    assert printed(program) == ["False", "True", "True"]


def test_with_the_compiler_loaded_nothing_stands_in() -> None:
    compiler = importlib.import_module("torch._dynamo")
    with without_compiler():
        assert sys.modules["torch._dynamo"] is compiler
    assert nn.Linear(2, 2)(torch.ones(1, 2)).shape == (1, 2)
