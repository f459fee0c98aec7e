"""An artifact that was cut off, or with flipped bits, is named with the stage that makes it, whatever its kind.

Nothing of it is used: tensors and the footers of tables carry a checksum, and Parquet checks its pages.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import CLASSES, CPU, LATENT, World, digits, image_set_of

import distillery.__main__ as command_line
from distillery.data.reading import ImageTable
from distillery.data.whitening import Whitening, fit_whitening
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.generators import Generator
from distillery.diffusion.latents import LatentCache, layout
from distillery.diffusion.models import load_generator
from distillery.errors import DamagedArtifact, NotSafetensors
from distillery.guidance.influence_gradients import GradientDistance
from distillery.guidance.mode_discovery import read_modes
from distillery.matching.experts import Trajectories
from distillery.report.tables import read_rows
from distillery.selection.by_class import read_features
from distillery.settings import canonical
from distillery.stages import encode_latents, train_generator
from distillery.storage.atomic import read_json, write_json
from distillery.storage.images import read_images, write_images
from distillery.storage.resume import Resume
from distillery.storage.tables import read_table, write_table
from distillery.storage.tensors import (
    growing_tensors,
    load_tensors,
    opened_tensor,
    partial_name,
    read_tensors,
    write_tensors,
    writing_tensors,
)
from distillery.students.networks import Classifier, load_networks, save_networks

HISTORY = ["method", "accuracy"]
EXPERTS = {"network": "convnet2_w8", "epochs": 3}


class Kind(NamedTuple):
    """A kind of artifact: the stage that makes it, how a stage writes it, and how the stages after it open it."""

    stage: str
    write: Callable[[World, Path], None]
    read: Callable[[Path], Any]


def write_latents(_: World, path: Path) -> None:
    tensors = layout(6, *LATENT[:2], "float16", True)
    with writing_tensors(path, tensors, {"stage": "encode_latents"}, classes=CLASSES) as writer:
        for name in tensors:
            if name != "labels":
                writer.put(name, 0, np.random.default_rng(0).random((6, *LATENT)).astype(np.float16))


def write_soft_labels(_: World, path: Path) -> None:
    shape = (4, 6, len(CLASSES))
    with growing_tensors(path, {"logits": (np.dtype(np.float16), shape)}, {}, False, classes=CLASSES) as writer:
        writer.put("logits", 0, np.random.default_rng(0).random(shape).astype(np.float16))


def write_gradients(world: World, path: Path) -> None:
    states = {f"0/{name}": value for name, value in world.student.state_dict().items()}
    gradients = {"gradients": torch.rand(1, len(CLASSES), 50)}
    write_tensors(path, {**states, **gradients}, {}, **world.student.description, kept=[0])


def write_set(_: World, path: Path) -> None:
    pixels, labels = digits()
    columns = {"slot": np.arange(6), "latent": np.random.default_rng(0).random((6, 16))}
    write_images(path, image_set_of(pixels[:6], labels[:6], **columns), {})


def content_of_set(path: Path) -> list[object]:
    images = read_images(path, "collect")
    columns = {name: values.tolist() for name, values in images.columns.items()}
    return [[*images.images], images.labels.tolist(), images.classes, images.paths, columns]


def content_of_images(path: Path) -> list[object]:
    table = ImageTable(path)
    [(pixels, labels)] = table.batches(6, workers=1)
    return [pixels.tolist(), labels.tolist(), table.classes]


def write_features(_: World, path: Path) -> None:
    flat = pa.array(np.random.default_rng(0).random(24).astype(np.float32))
    columns = {"path": ["a", "b", "c"], "features": pa.FixedSizeListArray.from_arrays(flat, 8)}
    write_table(path, pa.table(columns), {})


TENSORS = {
    "latents": Kind("encode_latents", write_latents, lambda path: LatentCache([path])),
    "autoencoder": Kind(
        "train_autoencoder",
        lambda world, path: write_tensors(path, world.codec.autoencoder.state_dict(), {"stage": "train_autoencoder"}),
        lambda path: Codec.load(path.parent),
    ),
    "generator": Kind(
        "train_generator",
        lambda world, path: write_tensors(path, world.transformer.state_dict(), {"stage": "train_generator"}),
        lambda path: load_generator(path.parents[1]),
    ),
    "fine-tuned generator": Kind(
        "finetune_generator",
        lambda world, path: write_tensors(path, world.transformer.state_dict(), {"stage": "finetune_generator"}),
        lambda path: load_generator(path.parents[1]),
    ),
    "network": Kind(
        "train_student",
        lambda world, path: world.student.save(path, {}),
        lambda path: Classifier.load(path, "train_student"),
    ),
    "networks": Kind(
        "train_student",
        lambda world, path: save_networks(path, [world.student, world.reference], {}),
        lambda path: load_networks(path, "train_student"),
    ),
    "soft labels": Kind(
        "store_soft_labels", write_soft_labels, lambda path: opened_tensor(path, "logits", "store_soft_labels")
    ),
    "experts": Kind(
        "train_experts",
        lambda _, path: write_tensors(path, {"theta": torch.rand(2, 4, 30)}, {}, **EXPERTS),
        lambda path: Trajectories([path], {}),
    ),
    "gradients": Kind("select_checkpoints", write_gradients, lambda path: GradientDistance.load(path, CLASSES, CPU)),
    "modes": Kind(
        "discover_modes",
        lambda _, path: write_tensors(path, {name: torch.rand(2, *LATENT) for name in CLASSES}, {}),
        lambda path: read_modes(path, CLASSES),
    ),
    "whitening": Kind(
        "fit_whitening",
        lambda _, path: fit_whitening([torch.rand(9, 1, 4, 4)], 0.1).save(path, {}),
        lambda path: Whitening.load(path, CPU),
    ),
    "snapshots": Kind(
        "match",
        lambda _, path: write_tensors(path, {"0/latents": torch.rand(4, *LATENT)}, {}, classes=CLASSES),
        lambda path: read_tensors(path, "match"),
    ),
}

TABLES = {
    "a set": Kind("collect", write_set, content_of_set),
    "training images": Kind("ingest", write_set, content_of_images),
    "evaluations": Kind(
        "evaluate",
        lambda _, path: write_table(path, pa.table({"method": ["lgd"] * 90, "accuracy": np.arange(90) / 7}), {}),
        lambda path: read_rows([path], HISTORY, "evaluate").to_dict("list"),
    ),
    "features": Kind("extract_features", write_features, lambda path: read_features(path, ["a", "b", "c"]).tolist()),
}

JSON = {
    "calibration": Kind(
        "calibrate_guidance",
        lambda _, path: write_json(path, {"strength": 1.0, "reference_weight": 0.5}),
        lambda path: read_json(path, "calibrate_guidance", "strength", "reference_weight"),
    ),
    "config of an autoencoder": Kind("train_autoencoder", lambda *_: None, lambda path: Codec.load(path.parent)),
    "config of a generator": Kind("train_generator", lambda *_: None, lambda path: load_generator(path.parents[1])),
    "schedule of a generator": Kind("train_generator", lambda *_: None, lambda path: load_generator(path.parents[1])),
}

PLACES = {
    "autoencoder": "autoencoder/diffusion_pytorch_model.safetensors",
    "generator": "generator/transformer/diffusion_pytorch_model.safetensors",
    "fine-tuned generator": "generator/transformer/diffusion_pytorch_model.safetensors",
    "config of an autoencoder": "autoencoder/config.json",
    "config of a generator": "generator/transformer/config.json",
    "schedule of a generator": "generator/scheduler/scheduler_config.json",
}
KINDS = {**TENSORS, **TABLES, **JSON}


@pytest.fixture
def made(world: World, tmp_path: Path) -> Callable[[str], Path]:
    """Writes an artifact of a kind that can be opened; where it is."""

    def make(name: str) -> Path:
        for folder in ("autoencoder", "generator"):
            shutil.copytree(world.folder / folder, tmp_path / folder)
        path = tmp_path / PLACES.get(name, "artifact")
        KINDS[name].write(world, path)
        KINDS[name].read(path)
        return path

    return make


def refusal(kind: Kind, path: Path) -> str:
    """The message of the error of a damaged file."""
    with pytest.raises(DamagedArtifact) as error:
        kind.read(path)
    message = str(error.value)
    assert message.startswith(str(path)) or str(path).startswith(message.partition(": cannot be read (")[0] + "/")
    assert message.endswith("makes it: delete it and run the same command again")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", KINDS)
def test_half_an_artifact_is_named_with_the_stage_that_makes_it(name: str, made: Callable[[str], Path]) -> None:
    path, kind = made(name), KINDS[name]
    whole = path.read_bytes()
    for length in (0, 6, len(whole) // 3, len(whole) - 4):
        path.write_bytes(whole[:length])
        message = refusal(kind, path)
        if length > len(whole) // 2:  # what is left of a shorter one may not say which of several stages wrote it
            assert f"The stage `{kind.stage}` makes it" in message


def flipped(path: Path, count: int, first: int = 0) -> Iterator[int]:
    """The file with one bit flipped, many times, but not in the key of the checksum or the size that stands behind it,
    which harms nothing else.
    """
    whole = path.read_bytes()
    key = whole.index(b"crc32")
    draws = np.random.default_rng(0)
    for place in draws.integers(first, len(whole), count).tolist():
        if not (key - 2 <= place < key + 8 or key + 15 <= place < key + 27):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draws.integers(8)]) + whole[place + 1 :])
            yield place


@pytest.mark.parametrize("name", TENSORS)
def test_a_flipped_bit_among_tensors_is_told(name: str, made: Callable[[str], Path]) -> None:
    path, told = made(name), 0
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    for place in flipped(path, 40):
        message = refusal(TENSORS[name], path)
        assert place < header or f"The stage `{TENSORS[name].stage}` makes it" in message
        told += 1
    assert told > 30


@pytest.mark.parametrize("name", TABLES)
def test_a_flipped_bit_in_a_table_is_told_or_changes_nothing(name: str, made: Callable[[str], Path]) -> None:
    path, kind, told = made(name), TABLES[name], 0
    whole, expected = path.read_bytes(), repr(KINDS[name].read(path))
    footer = len(whole) - int.from_bytes(whole[-8:-4], "little") - 8
    for first in (0, footer):
        path.write_bytes(whole)
        for place in flipped(path, 60, first):
            try:
                read = kind.read(path)
            except DamagedArtifact as error:
                assert f"The stage `{kind.stage}` makes it" in str(error)
                told += 1
            else:
                assert repr(read) == expected, f"byte {place}"
                assert not footer <= place < len(whole) - 4
    assert told > 80


def test_a_file_from_elsewhere_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert load_tensors(tmp_path / "a.safetensors")[0]["a"].sum() == 3
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet", "test")["a"].to_pylist() == [1]


def test_the_checksum_is_that_of_the_whole_file_and_repeats(tmp_path: Path) -> None:
    for name in "ab":
        write_tensors(tmp_path / name, {"x": torch.arange(5.0)}, {})
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    (tmp_path / "a").write_bytes(content.replace(b'"crc32":"', b'"crc32":"0')[: len(content)])
    with pytest.raises((NotSafetensors, ValueError)):
        load_tensors(tmp_path / "a")


# ---- through the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """The one line with which a stage ends with status 1."""
    monkeypatch.setattr("distillery.devices.prepare", lambda _: CPU)
    monkeypatch.setattr("distillery.storage.resume.stop_on_signals", lambda: None)

    def run(arguments: list[str]) -> str:
        assert command_line.main(arguments) == 1
        [line] = capsys.readouterr().err.splitlines()
        return line

    return run


def test_a_stage_ends_with_one_line(
    world: World, made: Callable[[str], Path], tmp_path: Path, refused: Callable[[list[str]], str]
) -> None:
    path, out = made("autoencoder"), str(tmp_path / "out")
    next(flipped(path, 1))
    files = ["--images", str(world.folder / "train.parquet"), "--latents", out]
    files += ["--autoencoder", str(path.with_name("config.json")), str(path)]
    line = refused(["encode_latents", "--settings", canonical(encode_latents.Settings()), *files])
    assert line.startswith(f"distillery encode_latents: {path.parent}")
    assert "The stage `train_autoencoder` makes it: delete it and run the same command again" in line

    write_latents(world, latents := tmp_path / "latents")
    next(flipped(latents, 1))
    settings = train_generator.Settings(seed=0, generator=Generator(steps=1))
    outputs = [
        word
        for name in ("index", "config", "weights", "scheduler", "history")
        for word in (f"--{name}", f"{out}-{name}")
    ]
    line = refused(["train_generator", "--settings", canonical(settings), "--latents", str(latents), *outputs])
    assert line.startswith(f"distillery train_generator: {latents}: cannot be read (")

    write_set(world, images := tmp_path / "images")
    next(flipped(images, 1))
    line = refused(["collect", "--settings", '{"ipc":1}', "--parts", str(images), "--images", out])
    assert line.startswith(f"distillery collect: {images}: cannot be read (")
    assert not list(tmp_path.glob("out*"))


# ---- what a stage goes on from ---------------------------------------------------------------------------------------


def test_a_damaged_resume_file_is_a_fresh_start_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = Resume(tmp_path / "model", "digest", every=0)
    resume.checkpoint(lambda: ({"weights": torch.rand(100)}, {"step": 3}))
    for _ in flipped(resume.path, 20):
        assert resume.restore() is None
        assert f"{resume.path}: cannot be read (" in (told := capsys.readouterr().err)
        assert told.endswith("); starting afresh\n")


def test_soft_labels_go_on_from_a_whole_file_alone(tmp_path: Path) -> None:
    from distillery.storage.tensors import is_whole

    partial = partial_name(tmp_path / "labels")
    assert not is_whole(partial)
    with (
        pytest.raises(KeyboardInterrupt),
        growing_tensors(tmp_path / "labels", {"logits": (np.dtype(np.float16), (4, 6, 2))}, {}, False),
    ):
        raise KeyboardInterrupt
    assert is_whole(partial)
    partial.write_bytes(partial.read_bytes()[:-1])  # the lost end would come back as zeros
    assert not is_whole(partial)
