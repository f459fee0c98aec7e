"""The mean and the standard deviation of each channel that an autoencoder's config states are applied everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_weights import CHANNELS, SIDE, kl, open_vae, tiny, vq
from torch import Tensor

from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.pipelines import copy_autoencoder
from distillery.diffusion.settings import PretrainedAutoencoder
from distillery.errors import BadInput
from distillery.matching.generator import quantiser
from distillery.streams import stream

MEAN = [-1.6, 1.2, 0.5, -0.3][:CHANNELS]
STD = [8.4, 5.9, 3.0, 5.2][:CHANNELS]
SCALE = 0.5


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=stream("statistics")) * 2 - 1


def by_channel(values: list[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def stated(folder: Path, model: Any, **config: Any) -> Path:
    """A model of diffusers whose config states this too, whether its class knows it or not."""
    model.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"scaling_factor": SCALE} | config), "utf-8")
    return folder


@pytest.mark.parametrize("make", [kl, tiny, vq])
def test_each_channel_is_shifted_and_divided_by_its_own(make: Any, tmp_path: Path) -> None:
    model = make()
    given = stated(tmp_path / "given", model, latents_mean=MEAN, latents_std=STD)
    codec = open_vae(given, tmp_path / "opened")
    with torch.no_grad():
        mean, std = codec.encode(images())
        raw = model.encode(images())
        if make is kl:
            expected, spread = raw.latent_dist.mean, raw.latent_dist.std
            torch.testing.assert_close(std, spread * SCALE / by_channel(STD))
        else:
            expected = raw.latents
        torch.testing.assert_close(mean, (expected - by_channel(MEAN)) * SCALE / by_channel(STD))
        torch.testing.assert_close(codec.decode(mean), model.decode(expected).sample, atol=1e-4, rtol=1e-4)


def test_the_gradient_at_latents_is_that_of_the_division(tmp_path: Path) -> None:
    model = kl()
    codec = open_vae(stated(tmp_path / "given", model, latents_mean=MEAN, latents_std=STD), tmp_path / "opened")
    latents = torch.randn(2, CHANNELS, codec.latent_size(SIDE), codec.latent_size(SIDE), generator=stream("latents"))
    own, raw = latents.clone().requires_grad_(), (latents * by_channel(STD) / SCALE + by_channel(MEAN)).requires_grad_()
    codec.decode(own).square().sum().backward()
    model.requires_grad_(False).decode(raw).sample.square().sum().backward()
    assert own.grad is not None and raw.grad is not None
    torch.testing.assert_close(own.grad, raw.grad * by_channel(STD) / SCALE, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(codec.halved().decode(latents), codec.decode(latents), rtol=0.1, atol=0.1)


def test_a_codebook_is_looked_up_in_the_latents_of_the_autoencoder(tmp_path: Path) -> None:
    codec = open_vae(stated(tmp_path / "given", vq(), latents_mean=MEAN, latents_std=STD), tmp_path / "opened")
    book = codec.autoencoder.quantize.embedding.weight
    latents = (book[:4, :, None, None] - by_channel(MEAN)) * SCALE / by_channel(STD)
    torch.testing.assert_close(quantiser(codec)(latents), latents, rtol=1e-4, atol=1e-5)


def test_a_copy_of_an_autoencoder_keeps_them(tmp_path: Path) -> None:
    first = open_vae(stated(tmp_path / "given", kl(), latents_mean=MEAN, latents_std=STD), tmp_path / "opened")
    vae = tmp_path / "vae"
    copy_autoencoder(tmp_path / "opened", vae / "config.json", vae / "diffusion_pytorch_model.safetensors")
    copied = Codec.load(vae)
    assert copied.digest == first.digest
    with torch.no_grad():
        assert torch.equal(copied.encode(images())[0], first.encode(images())[0])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"latents_mean": MEAN}, r"latents_std None; allowed: a number for each of the 4 channels"),
        ({"latents_mean": MEAN[:2], "latents_std": STD}, r"latents_mean \[-1.6, 1.2\]; allowed"),
        ({"latents_mean": MEAN, "latents_std": [1.0, 1.0, 0.0, 1.0]}, "latents_std .* a standard deviation above 0"),
        ({"latents_mean": MEAN, "latents_std": STD, "shift_factor": 0.1}, "shift_factor 0.1 beside latents_mean"),
    ],
)
def test_statistics_that_cannot_be_applied_are_refused_at_planning_and_at_opening(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    given = stated(tmp_path / "given", kl(), **config)
    block = PretrainedAutoencoder(kind="pretrained", weights=str(given))
    assert [*block.check("autoencoder", [])] != []
    with pytest.raises(BadInput, match=rf"autoencoder\.weights: .*config\.json: {words}"):
        open_vae(given, tmp_path / "opened")
    assert not (tmp_path / "opened").exists()


def test_a_shift_of_zero_leaves_the_mean_of_each_channel(tmp_path: Path) -> None:
    given = stated(tmp_path / "given", kl(), latents_mean=MEAN, latents_std=STD, shift_factor=0.1)
    block = PretrainedAutoencoder(kind="pretrained", weights=str(given), shift_factor=0.0)
    assert [*block.check("autoencoder", [])] == []
    codec = open_vae(given, tmp_path / "opened", shift_factor=0.0)
    assert isinstance(codec.shift, Tensor) and codec.shift.flatten().tolist() == pytest.approx(MEAN)


def test_the_shift_in_the_config_of_a_model_whose_class_knows_none_is_kept(tmp_path: Path) -> None:
    model = vq()
    codec = open_vae(stated(tmp_path / "given", model, shift_factor=0.25), tmp_path / "opened")
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(images())[0], (model.encode(images()).latents - 0.25) * SCALE)
