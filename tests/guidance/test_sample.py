"""What the stage that samples promises: the guidances of its settings, in any shards, from any smaller size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from increments import settings_of
from steering import MADE_BY, discovered, latents
from tiny import CLASSES, SIDE, World, digits, image_set_of, job, stopped_at

from distillery.diffusion.renderer import class_conditions
from distillery.diffusion.settings import Sampling
from distillery.errors import BadInput
from distillery.guidance.deviation import Deviation
from distillery.guidance.influence import Influence
from distillery.guidance.mode import Mode
from distillery.guidance.registry import Guidances
from distillery.stages import generate_increment
from distillery.stages import sample as sample_stage
from distillery.storage.atomic import write_json
from distillery.storage.images import read_images, write_images
from distillery.storage.tensors import write_tensors


def guided(world: World, out: Path, surrogate: Path, modes: Path, previous: list[Path], **options: Any) -> Path:
    guidance = Guidances().replaced(
        influence=options.pop("influence", Influence(surrogate="conv", strength=1.0, range=[4, 6])),
        mode=options.pop("mode", Mode(stop=3)),
        deviation=options.pop("deviation", Deviation(strength=5.0, range=[4, 6], capacity=64)),
    )
    files: dict[str, Path] = {"influence": surrogate, "mode": modes}
    files = {name: path for name, path in files.items() if name in guidance.present()}
    defaults: dict[str, Any] = {
        "seed": 0,
        "stream": "study",
        "first": 0,
        "ipc": 2,
        "resolution": SIDE,
        "sampling": Sampling(steps=8, guidance_scale=3.0),
        "guidance": guidance,
        "guidance_files": dict.fromkeys(files, 1),
        "shard": 0,
        "shards": 1,
    }
    settings = sample_stage.Settings(**{**defaults, **options})
    sample_stage.run(
        settings,
        data=world.data,
        **world.models,
        previous=previous,
        guidance_files=[*files.values()],
        images=out,
        job=job("sample", settings, [surrogate, modes, *previous]),
    )
    return out


def test_a_size_goes_on_from_the_smaller_one_and_shards_change_nothing(
    world: World, surrogate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = discovered(tmp_path, [0, 1, 2, 3])
    whole = read_images(guided(world, tmp_path / "whole.parquet", surrogate, modes, []), "x")
    one = guided(world, tmp_path / "one.parquet", surrogate, modes, [], ipc=1)
    two = read_images(guided(world, tmp_path / "two.parquet", surrogate, modes, [one], first=1), "x")
    assert whole.images == [*read_images(one, "x").images, *two.images]
    shard = read_images(guided(world, tmp_path / "s.parquet", surrogate, modes, [], shard=1, shards=2), "x")
    rows = [row for row, label in enumerate(whole.labels) if label in (1, 3)]
    difference = torch.from_numpy(shard.columns["latent"] - whole.columns["latent"][rows]).abs().max()
    assert difference < 1e-3
    with stopped_at(1, monkeypatch), pytest.raises(SystemExit):
        guided(world, tmp_path / "stopped.parquet", surrogate, modes, [])
    resumed = guided(world, tmp_path / "stopped.parquet", surrogate, modes, [])
    assert resumed.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_what_the_settings_say_of_influence_and_deviation_reaches_the_sampler(
    world: World, surrogate: Path, tmp_path: Path
) -> None:
    modes = discovered(tmp_path, [0, 1, 2, 3])

    def drawn_with(**options: Any) -> list[bytes]:
        return read_images(
            guided(world, tmp_path / "x.parquet", surrogate, modes, [], mode=None, **options), "x"
        ).images

    influence = Influence(surrogate="conv", strength=1.0, range=[4, 6])
    assert drawn_with(influence=influence) == drawn_with()
    assert drawn_with(influence=influence.model_copy(update={"repeats": 2})) != drawn_with()
    # 120 d / 4096 of latents of 256 numbers is 7.5, and 50 d / 4096 is 3.125
    for published, strength in ((120.0, 7.5), (50.0, 3.125)):
        auto = Deviation(strength="auto", published_strength=published, range=[4, 6], capacity=64)
        scaled = drawn_with(deviation=auto)
        assert scaled == drawn_with(deviation=auto.model_copy(update={"strength": strength}))
        assert scaled != drawn_with(deviation=auto.model_copy(update={"strength": 5.0}))


def test_modes_of_other_latents_are_refused(world: World, surrogate: Path, tmp_path: Path) -> None:
    small = {name: torch.zeros(2, 4, 4, 4) for name in CLASSES}
    write_tensors(tmp_path / "modes.safetensors", small, MADE_BY)
    with pytest.raises(BadInput, match=r"modes of shape \(4, 4, 4\), but latents have \(4, 8, 8\)"):
        guided(world, tmp_path / "x.parquet", surrogate, tmp_path / "modes.safetensors", [])


def test_a_generator_without_classes_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "model_index.json", {"_class_name": "DiTPipeline"})
    with pytest.raises(BadInput, match="the generator has no classes"):
        class_conditions(tmp_path, CLASSES)


def test_influence_and_modes_join_the_loop(world: World, surrogate: Path, tmp_path: Path) -> None:
    modes, found = discovered(tmp_path, [0, 1, 2, 3], count=4), {}
    pixels, labels = digits()
    rows = [int((labels == label).nonzero()[0, 0]) for label in range(4)]
    before = image_set_of(pixels[rows], labels[rows], latent=latents(4, "before").flatten(1).numpy())
    write_images(tmp_path / "before.parquet", before, MADE_BY)
    joined = {
        "influence": Influence(surrogate="conv", strength=1.0, range=[4, 6]),
        "mode": Mode(stop=3),
    }
    for name, blocks in {"alone": {}, "mode": {"mode": joined["mode"]}, "both": joined}.items():
        paths = [path for key, path in (("influence", surrogate), ("mode", modes)) if key in blocks]
        settings = settings_of(2, increment_size=1, candidates=2, guidance_files=dict.fromkeys(blocks, 1), **blocks)
        out = tmp_path / f"{name}.parquet"
        files: dict[str, Any] = {**world.models, **world.networks, "guidance_files": paths}
        files["previous"] = [tmp_path / "before.parquet"]
        run = job("generate_increment", settings)
        generate_increment.run(settings, data=world.data, **files, candidates=out, job=run)
        found[name] = read_images(out, "x").columns["latent"]
    assert len({value.tobytes() for value in found.values()}) == 3
