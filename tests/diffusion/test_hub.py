"""Weights by their name on the hub: fetched once by the hub's own client, then opened without a connection."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub, serving
from huggingface_hub import constants
from safetensors.torch import load_file
from tiny_weights import dit, kl, open_dit, open_vae, openings, save_dit

from distillery.diffusion.generators import PretrainedGenerator
from distillery.errors import BadInput
from distillery.settings import canonical
from distillery.stages import open_generator

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


@pytest.fixture
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub's client of this process has this hub and an empty cache, as if `HF_ENDPOINT` and `HF_HOME` were set."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return hub


def opened_by_a_job(folder: Path, cache: Path, hub: Hub, **environment: str) -> subprocess.CompletedProcess[str]:
    """Let the stage open a generator in a process of its own, which is told of the hub by its environment."""
    settings = open_generator.Settings(name="dit", generator=PretrainedGenerator(kind="pretrained", weights=DIT))
    call = [sys.executable, "-m", "distillery", "open_generator", "--settings", canonical(settings)]
    for name, path in openings(folder).items():
        call += [f"--{name}", str(path)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    told = {"HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        call, env={**kept, **told, **environment}, text=True, capture_output=True, check=False, timeout=1800
    )


def test_a_name_is_fetched_once_and_then_opened_offline(
    hub: Hub, repositories: dict[str, Path], tmp_path: Path
) -> None:
    first = opened_by_a_job(tmp_path / "first", tmp_path / "cache", hub)
    assert first.returncode == 0, first.stderr
    assert WEIGHTS in hub.sent
    assert not [
        name for name in hub.sent if name.endswith((".bin", ".md"))
    ]  # no pickle, and nothing that is not needed
    files = len(hub.sent)
    again = opened_by_a_job(tmp_path / "again", tmp_path / "cache", hub, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert len(hub.sent) == files
    assert (tmp_path / "first" / WEIGHTS).exists()
    for path in openings(tmp_path / "first").values():
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "first")).read_bytes()
    given, kept = load_file(repositories[DIT] / WEIGHTS), load_file(tmp_path / "first" / WEIGHTS)
    assert given.keys() == kept.keys()
    assert all((given[name] == kept[name]).all() for name in given)


def test_a_download_that_breaks_off_is_told_and_the_same_command_ends_it(
    client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.breaks = 100
    with pytest.raises(BadInput, match=f"generators.dit.weights: {DIT}: no such folder, and not to be had"):
        open_dit(DIT, tmp_path / "opened")
    assert not (tmp_path / "opened" / WEIGHTS).exists()
    with monkeypatch.context() as patch:  # half of it is in the cache now: without a connection that is no model
        patch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(BadInput, match="HF_HUB_OFFLINE is set"):
            open_dit(DIT, tmp_path / "opened")
    client.breaks = 0
    open_dit(DIT, tmp_path / "opened")
    assert (tmp_path / "opened" / WEIGHTS).exists()


def test_what_the_cache_has_of_a_repository_does_not_stop_a_plan(tmp_path: Path) -> None:
    """Half a download, or another part of it, is completed by the job that opens the rest."""
    place = tmp_path / "hub" / f"models--{DIT.replace('/', '--')}" / "snapshots" / ("0" * 40)
    (place / "vae").mkdir(parents=True)
    (place / "vae" / "config.json").write_text("{}", "utf-8")
    code = (
        "from distillery.diffusion.weights import WeightsError, check_stated\n"
        "from distillery.diffusion.generators import PretrainedGenerator\n"
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
    weights: str, revision: str | None, words: str, client: Hub, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=words):
        open_dit(weights, tmp_path / "opened", revision=revision)
    assert client.sent == []


def test_an_autoencoder_below_a_folder_of_its_repository_is_fetched(client: Hub, tmp_path: Path) -> None:
    open_vae(VAE, tmp_path / "opened", subfolder="vae")
    assert sorted(client.sent) == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
