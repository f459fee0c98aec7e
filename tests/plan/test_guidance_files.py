"""Which files the guidances of a method need."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from clone import PROJECT, SMOKE

from distillery.guidance.base import counts
from distillery.plan.experiment import Experiment, MethodFiles
from distillery.plan.load import load


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    config: dict[str, Any] = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))
    mgd3 = {"kind": "mgd3", "generator": "dit"}
    config["surrogates"] = {"conv": {"network": "convnet2_w8"}}
    config["latents"] = {"shards": 2}
    config["methods"] |= {
        "igd": {"kind": "igd", "generator": "dit", "guidance": {"influence": {"surrogate": "conv"}, "mode": {}}},
        "mgd3": mgd3,
        "fixed": {**mgd3, "guidance": {"mode": {"count": 5}}},
    }
    return load(config)


def test_guidances_name_their_files_in_the_order_of_the_registry(experiment: Experiment) -> None:
    gradients, modes = "surrogates/conv/gradients.safetensors", "distilled/igd/modes-2.safetensors"
    files = experiment.guidance_files("seed-3/", "igd", 1)
    assert files == {"influence": [f"<results>/seed-3/{gradients}"], "mode": [f"<results>/seed-3/{modes}"]}
    assert counts(files) == {"influence": 1, "mode": 1}
    assert experiment.guidance_files("", "dit", 1) == experiment.guidance_files("", "random") == {}


@pytest.mark.parametrize(("method", "ipc", "count"), [("mgd3", 1, 1), ("mgd3", 2, 2), ("fixed", 1, 5), ("igd", 1, 2)])
def test_sizes_that_are_not_nested_have_modes_of_their_own(
    method: str, ipc: int, count: int, experiment: Experiment
) -> None:
    assert experiment.guidance_files("", method, ipc)["mode"] == [
        f"<results>/distilled/{method}/modes-{count}.safetensors"
    ]


def test_latents_are_those_of_the_run_where_the_autoencoder_is_trained(experiment: Experiment) -> None:
    files = MethodFiles(experiment, "seed-3/", "igd", 1)
    assert files.latents() == [f"<results>/seed-3/latents/train-{shard}.safetensors" for shard in (0, 1)]
