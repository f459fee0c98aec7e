"""Weights by their name on the hub: fetched once by the hub's own client, then opened without a connection."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub, serving
from safetensors.torch import load_file
from tiny_weights import autoencoder_files, dit, kl, openings, save_dit

from distillery.diffusion.settings import PretrainedAutoencoder, PretrainedGenerator
from distillery.settings import canonical
from distillery.stages import open_autoencoder, open_generator

DIT, VAE = "someone/tiny-dit", "someone/tiny-vae"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A generator, with what nobody needs beside it, and an autoencoder below a folder of its repository."""
    place = tmp_path_factory.mktemp("hub")
    folder = save_dit(place / "dit", dit(layers=1))
    (folder / "README.md").write_text("# a card\n", "utf-8")
    (folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"pickled weights")
    kl().save_pretrained(place / "vae" / "vae")
    return {DIT: folder, VAE: place / "vae"}


@pytest.fixture
def hub(repositories: dict[str, Path]) -> Iterator[Hub]:
    with serving(repositories) as served:
        yield served


def opened(
    folder: Path, cache: Path, hub: Hub, weights: str = DIT, revision: str | None = None, offline: bool = False
) -> subprocess.CompletedProcess[str]:
    """Let the stage open a generator, in a process that has this hub and this cache."""
    block = PretrainedGenerator(kind="pretrained", weights=weights, revision=revision)
    return _stage("open_generator", open_generator.Settings(name="dit", generator=block), openings(folder),
                  cache, hub, offline)  # fmt: skip


def _stage(
    stage: str, settings: object, files: dict[str, Path], cache: Path, hub: Hub, offline: bool
) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "distillery", stage, "--settings", canonical(settings)]  # type: ignore[arg-type]
    for name, path in files.items():
        call += [f"--{name}", str(path)]
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
    }
    return subprocess.run(call, env=environment, text=True, capture_output=True, check=False, timeout=300)


def test_a_name_is_fetched_once_and_then_opened_offline(
    hub: Hub, repositories: dict[str, Path], tmp_path: Path
) -> None:
    first = opened(tmp_path / "first", tmp_path / "cache", hub)
    assert first.returncode == 0, first.stderr
    assert WEIGHTS in hub.sent
    assert not [
        name for name in hub.sent if name.endswith((".bin", ".md"))
    ]  # no pickle, and nothing that is not needed
    files = len(hub.sent)
    again = opened(tmp_path / "again", tmp_path / "cache", hub, offline=True)
    assert again.returncode == 0, again.stderr
    assert len(hub.sent) == files
    assert (tmp_path / "first" / WEIGHTS).exists()
    for path in openings(tmp_path / "first").values():
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "first")).read_bytes()
    given, kept = load_file(repositories[DIT] / WEIGHTS), load_file(tmp_path / "first" / WEIGHTS)
    assert given.keys() == kept.keys()
    assert all((given[name] == kept[name]).all() for name in given)


def test_a_download_that_breaks_off_is_told_and_the_same_command_ends_it(hub: Hub, tmp_path: Path) -> None:
    hub.breaks = 100
    broken = opened(tmp_path / "opened", tmp_path / "cache", hub)
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr
    assert f"generators.dit.weights: {DIT}: no such folder, and not to be had" in broken.stderr.splitlines()[-1]
    assert not (tmp_path / "opened" / WEIGHTS).exists()
    # Half of it is in the cache now: without a connection that is no model.
    half = opened(tmp_path / "opened", tmp_path / "cache", hub, offline=True)
    assert half.returncode == 1
    assert "HF_HUB_OFFLINE is set" in half.stderr.splitlines()[-1]
    hub.breaks = 0
    whole = opened(tmp_path / "opened", tmp_path / "cache", hub)
    assert whole.returncode == 0, whole.stderr


def test_what_the_cache_has_of_a_repository_does_not_stop_a_plan(tmp_path: Path) -> None:
    """Half a download, or another part of it, is completed by the job that opens the rest."""
    place = tmp_path / "hub" / f"models--{DIT.replace('/', '--')}" / "snapshots" / ("0" * 40)
    (place / "vae").mkdir(parents=True)
    (place / "vae" / "config.json").write_text("{}", "utf-8")
    code = (
        "from distillery.diffusion.weights import WeightsError, check_stated\n"
        "from distillery.diffusion.settings import PretrainedGenerator\n"
        f"block = PretrainedGenerator(kind='pretrained', weights={DIT!r})\n"
        "try:\n    check_stated(block, ('transformer',))\nexcept WeightsError as error:\n    print(error)"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {
        "HF_HOME": str(tmp_path)
    }
    for more, words in (({}, ""), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**environment, **more}, text=True, capture_output=True, check=True
        )
        assert words in done.stdout if words else done.stdout == ""


@pytest.mark.parametrize(
    ("weights", "revision", "words"),
    [("someone/else", None, "someone/else: no such folder, and not to be had"), (DIT, "v9", "hf download")],
)
def test_a_name_or_a_revision_that_the_hub_lacks_is_refused(
    weights: str, revision: str | None, words: str, hub: Hub, tmp_path: Path
) -> None:
    refused = opened(tmp_path / "opened", tmp_path / "cache", hub, weights, revision)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert words in refused.stderr.splitlines()[-1]
    assert hub.sent == []


def test_an_autoencoder_below_a_folder_of_its_repository_is_fetched(hub: Hub, tmp_path: Path) -> None:
    block = PretrainedAutoencoder(kind="pretrained", weights=VAE, subfolder="vae")
    settings = open_autoencoder.Settings(opened="autoencoder", autoencoder=block, resolution=16, image_channels=3)
    done = _stage("open_autoencoder", settings, autoencoder_files(tmp_path / "opened"), tmp_path / "cache", hub, False)
    assert done.returncode == 0, done.stderr
    assert sorted(hub.sent) == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    shutil.rmtree(tmp_path / "cache")
