"""The cache of latents: shards that are independent, mirrors, half precision, memory that does not grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import CLASSES, World, digits, image_set_of, job
from tiny_weights import open_vae, tiny

from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable, span_of
from distillery.diffusion.latents import LatentCache
from distillery.diffusion.settings import Latents
from distillery.errors import BadInput, DamagedArtifact
from distillery.stages import encode_latents
from distillery.storage.images import write_images
from distillery.storage.tensors import write_tensors


def encode(world: World, folder: Path, shards: int = 1, **options: object) -> list[Path]:
    """Let the stage encode the digits of the tiny world."""
    outputs = []
    for shard in range(shards):
        settings = encode_latents.Settings(latents=Latents(shards=shards, **options), shard=shard)  # type: ignore[arg-type]
        outputs.append(folder / f"train-{shard}.safetensors")
        encode_latents.run(
            settings,
            images=world.data,
            autoencoder=world.models["autoencoder"],
            latents=outputs[-1],
            job=job("encode_latents", settings),
        )
    return outputs


def test_latents_have_unit_variance_and_keep_their_labels(world: World, tmp_path: Path) -> None:
    cache = LatentCache(encode(world, tmp_path, precision="float32", batch_size=100))
    mean, std = cache.take(torch.arange(len(cache)))
    assert mean.std().item() == pytest.approx(1, abs=1e-4)
    assert cache.labels.equal(digits()[1])
    assert cache.classes == CLASSES
    with torch.no_grad():
        expected = world.codec.encode(to_unit(digits()[0][:5]))
    torch.testing.assert_close((mean[:5], std[:5]), expected)


def test_half_precision_differs_by_rounding_alone_and_safetensors_reads_it(world: World, tmp_path: Path) -> None:
    half, whole = (encode(world, tmp_path / name, precision=name) for name in ("float16", "float32"))
    rows = torch.arange(50)
    torch.testing.assert_close(LatentCache(half).take(rows), LatentCache(whole).take(rows), atol=2e-3, rtol=1e-3)
    with safe_open(half[0], framework="pt") as file:
        assert file.get_tensor("mean").dtype == torch.float16
        assert torch.equal(file.get_tensor("mean")[rows].float(), LatentCache(half).take(rows)[0])
        assert file.get_tensor("labels").equal(digits()[1])


def test_shards_join_to_what_one_file_holds(world: World, tmp_path: Path) -> None:
    one, three = (LatentCache(encode(world, tmp_path / str(n), shards=n, batch_size=50)) for n in (1, 3))
    assert len(one) == len(three) == len(digits()[0])
    assert one.labels.equal(three.labels)
    rows = torch.randperm(len(one), generator=torch.Generator().manual_seed(0))[:100]
    torch.testing.assert_close(one.take(rows), three.take(rows), atol=2e-3, rtol=1e-3)


def test_a_mirror_is_the_latent_of_the_mirrored_image(world: World, tmp_path: Path) -> None:
    cache = LatentCache(encode(world, tmp_path, mirrored=True, precision="float32"))
    rows = torch.arange(4)
    mirror = torch.tensor([True, False, True, False])
    mean, _ = cache.take(rows, mirror)
    with torch.no_grad():
        plain, _ = world.codec.encode(to_unit(digits()[0][:4]))
        turned, _ = world.codec.encode(to_unit(digits()[0][:4]).flip(-1))
    torch.testing.assert_close(mean, torch.where(mirror.view(-1, 1, 1, 1), turned, plain))


def test_an_autoencoder_without_a_posterior_has_no_deviation(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "given")
    open_vae(tmp_path / "given", tmp_path / "autoencoder")
    pixels = digits()[0][:6].expand(-1, 3, -1, -1)
    write_images(tmp_path / "train.parquet", image_set_of(pixels, digits()[1][:6]), {})
    settings = encode_latents.Settings()
    encode_latents.run(
        settings,
        images=tmp_path / "train.parquet",
        autoencoder=[tmp_path / "autoencoder" / "config.json"],
        latents=tmp_path / "latents.safetensors",
        job=job("encode_latents", settings),
    )
    assert not LatentCache([tmp_path / "latents.safetensors"]).take(torch.arange(6))[1].any()


def test_latents_of_two_autoencoders_are_not_joined(tmp_path: Path) -> None:
    latents = torch.zeros(2, 4, 8, 8)
    for name in ("one", "two"):
        tensors = {"mean": latents, "std": latents.clone(), "labels": torch.zeros(2, dtype=torch.int64)}
        write_tensors(tmp_path / name, tensors, {}, classes=CLASSES, autoencoder=name)
    with pytest.raises(BadInput, match="two: latents of another autoencoder than those of"):
        LatentCache([tmp_path / "one", tmp_path / "two"])
    (tmp_path / "two").write_bytes((tmp_path / "one").read_bytes()[:-10])
    with pytest.raises(DamagedArtifact, match=r"bytes of .*encode_latents"):
        LatentCache([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize("start", [0, 3, 517])
def test_a_table_is_read_in_batches_that_are_its_rows(start: int, tmp_path: Path) -> None:
    pixels, labels = digits()[0][:600], digits()[1][:600]
    write_images(tmp_path / "images.parquet", image_set_of(pixels, labels), {})
    table = ImageTable(tmp_path / "images.parquet")
    found = list(table.batches(64, start, 590, workers=3))
    assert torch.cat([batch for batch, _ in found]).equal(pixels[start:590])
    assert torch.cat([its for _, its in found]).equal(labels[start:590])
    rows = np.array([5, 599, 0])
    assert table.pixels(rows).equal(pixels[rows])
    assert table.take(rows).labels.tolist() == labels[rows].tolist()


def test_spans_cover_all_rows_once() -> None:
    spans = [span_of(10, shard, 4) for shard in range(4)]
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(10))
