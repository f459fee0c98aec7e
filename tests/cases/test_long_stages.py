"""A stage that takes long has a card where it computes, and a checkpoint."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from rule_files import RESOURCES
from tiny import World, job, stopped_at

from distillery.__main__ import stage_names
from distillery.diffusion.settings import Latents
from distillery.plan.rules import stage_module
from distillery.settings import Block
from distillery.stages import encode_latents, extract_features, select_by_learnability

SHORT = {
    "measure_validity": "the candidates of one method, and one pass of one network over them",
    "measure_coverage": "one pass over a distilled set",
    "measure_neighbours": "one pass over a distilled set; the features of the real one are read",
    "measure_held_out_neighbours": "one pass over the test images",
    "measure_autoencoder": "the test images, once",
    "measure_gradients": "some steps for some images",
    "trace_sample": "some images of each class",
    "render": "the decoder alone",
    "stitch_crops": "crops of some hundred images of each class, without gradients",
}
"""Stages that compute for minutes at the size of the presets, and start afresh when they are stopped."""


def computing() -> list[str]:
    """The stages that compute with networks."""
    return [stage for stage in stage_names() if "job.device" in inspect.getsource(stage_module(stage).run)]


@pytest.mark.parametrize("stage", sorted({*stage_names()} - {"check_network"}))
def test_a_stage_has_a_card_if_and_only_if_it_computes_with_networks(stage: str) -> None:
    assert ("gpu=" in RESOURCES[stage]) == (stage in computing())


@pytest.mark.parametrize("stage", computing())
def test_a_stage_that_computes_for_long_has_a_checkpoint(stage: str) -> None:
    assert ("job.resume(" in inspect.getsource(stage_module(stage))) == (stage not in SHORT)


def run_stage(stage: str, world: World, folder: Path) -> Path:
    """Run a stage on the tiny training images; its output."""
    out = folder / "out"
    files: dict[str, Any]
    settings: Block
    if stage == "select_by_learnability":
        settings = select_by_learnability.Settings(
            seed=0, increment=2, increment_size=3, reference_weight=0.5, min_reference_probability=0.0
        )
        files = {"data": world.data, **world.networks, "images": out}
    elif stage == "extract_features":
        settings = extract_features.Settings(reference="real")
        files = {"images": world.data, "reference": world.networks["reference"], "features": out}
    else:
        settings = encode_latents.Settings(latents=Latents(batch_size=256, mirrored=True))
        files = {"images": world.data, "autoencoder": world.models["autoencoder"], "latents": out}
    stage_module(stage).run(settings, **files, job=job(stage, settings))
    return out


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("stage", ["select_by_learnability", "extract_features", "encode_latents"])
def test_a_stage_that_was_stopped_goes_on_and_writes_the_same_bytes(
    stage: str, stop: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_stage(stage, world, tmp_path).read_bytes()
    (tmp_path / "out").unlink()
    with stopped_at(stop, monkeypatch), pytest.raises(SystemExit):
        run_stage(stage, world, tmp_path)
    assert not (tmp_path / "out").exists()
    passes = 0
    forward = torch.nn.Conv2d.forward

    def counted(self: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return forward(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Conv2d, "forward", counted)
        assert run_stage(stage, world, tmp_path).read_bytes() == whole
        resumed, passes = passes, 0
        run_stage(stage, world, tmp_path)
    assert resumed * 3 == passes * (3 - stop)  # of three batches, those that were left
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
