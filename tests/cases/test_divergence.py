"""Whatever computes with numbers that are none any more ends its stage and names the setting to change."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from steering import chosen
from tiny import CLASSES, CPU, LATENT, MADE_BY, NETWORK, SIDE, World, digits, image_set_of, job, keys, no_resume
from torch import Tensor

import distillery.__main__ as command_line
from distillery.data.reading import ImageTable
from distillery.diffusion.autoencoder import Codec, train_autoencoder
from distillery.diffusion.latents import encode_rows
from distillery.diffusion.schedule import training_scheduler
from distillery.diffusion.training import InMemory, new_transformer, train_generator
from distillery.errors import BadInput, Diverged
from distillery.matching.experts import Trajectories
from distillery.settings import canonical
from distillery.stages import sample, train_student
from distillery.storage.images import write_images
from distillery.storage.resume import Resume
from distillery.storage.tensors import write_tensors
from distillery.students.networks import Classifier, Domain
from distillery.students.pretrained import open_pretrained
from distillery.students.settings import Recipe
from distillery.students.soft_labels import Teacher, store

HUGE = 1e30


def tiny_generator(learning_rate: float, resume: Resume, steps: int = 40) -> Any:
    """Train a DiT on latents of noise."""
    draws = torch.Generator().manual_seed(0)
    mean = torch.randn(12, *LATENT, generator=draws)
    return train_generator(
        new_transformer(0, classes=4, channels=4, size=8, layers=1, heads=2, head_dim=8, patch_size=2),
        training_scheduler(),
        InMemory(mean, torch.zeros_like(mean)),
        torch.arange(12) % 4,
        torch.arange(4),
        steps=steps,
        batch_size=4,
        learning_rate=learning_rate,
        warmup_steps=0,
        ema_decay=0.9,
        label_dropout=0.1,
        seed=0,
        device=CPU,
        resume=resume,
    )


def test_a_generator_that_diverges_names_its_learning_rate_and_the_step(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"in step [1-9]\d* of 40 the loss .* learning_rate of the generator, 1e\+30$"):
        tiny_generator(HUGE, no_resume(tmp_path))


def test_the_last_good_state_of_a_generator_is_kept(tmp_path: Path) -> None:
    """A resume file that is written after every step holds finite weights alone."""
    resume = Resume(tmp_path / "weights", "digest", every=0.0)
    with pytest.raises(Diverged, match=rf"The last good state is kept in {resume.path}"):
        tiny_generator(HUGE, resume)
    state = resume.restore()
    assert state is not None and state[1]["step"] >= 1
    assert all(bool(value.isfinite().all()) for value in state[0].values())


def test_an_autoencoder_that_diverges_names_its_learning_rate(tmp_path: Path) -> None:
    options: dict[str, Any] = {"block_out_channels": (8, 8), "layers_per_block": 1, "latent_channels": 4}
    options |= {"steps": 20, "batch_size": 4, "kl_weight": 1e-6, "seed": 0, "device": CPU}
    with pytest.raises(Diverged, match=r"autoencoder\.learning_rate, 1e\+30"):
        train_autoencoder(digits()[0][:8], learning_rate=HUGE, resume=no_resume(tmp_path), **options)


def sampled(
    world: World,
    out: Path,
    guidance_scale: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[int, str]:
    """Exit status and words of the stage `sample` on the command line, with a scale that its settings would refuse."""
    settings = sample.Settings.model_validate_json(
        json.dumps(
            {
                "seed": 0,
                "stream": "plain",
                "first": 0,
                "ipc": 2,
                "resolution": SIDE,
                "sampling": {"steps": 4, "guidance_scale": 3.0},
                "guidance": {},
                "guidance_files": {},
                "shard": 0,
                "shards": 1,
            }
        )
    )
    sampling = settings.sampling.model_copy(update={"guidance_scale": guidance_scale})
    scaled = settings.model_copy(update={"sampling": sampling})
    monkeypatch.setattr(sample.Settings, "model_validate_json", lambda _: scaled)
    files = {"data": [world.data], **world.models, "images": [out]}
    words = ["sample", "--settings", canonical(settings), "--threads", "1"]
    words += [word for name, paths in files.items() for word in (f"--{name}", *map(str, paths))]
    return command_line.main(words), capsys.readouterr().err


def test_samples_of_a_huge_guidance_scale_end_the_stage_by_name(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_request: None,
) -> None:
    out = tmp_path / "distilled" / "plain" / "sampled.parquet"
    status, words = sampled(world, out, HUGE, capsys, monkeypatch)
    assert (status, out.exists()) == (1, False)
    line = next(line for line in words.splitlines() if line.startswith("distillery sample: "))
    assert "generators.generator: sampling: the latents after step" in line
    assert "lower its sampling.guidance_scale" in line and line.endswith(f"Not made: {out}")
    assert "Traceback" not in words
    assert sampled(world, out, 3.0, capsys, monkeypatch)[0] == 0


class Flat(torch.nn.Module):
    """Decodes everything to one colour."""

    def forward(self, latents: Tensor) -> Tensor:
        return latents.new_full((len(latents), 1, SIDE, SIDE), -1.0)


def test_images_of_one_colour_are_no_samples(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, labels = world.renderer(steps=4), torch.arange(4)
    renderer.render(keys(4, "flat"), labels, world.condition(labels))
    monkeypatch.setattr(renderer.codec, "decode", Flat())
    with pytest.raises(Diverged, match=r"generators\.generator: each of 4 images is of a single colour; lower its"):
        renderer.render(keys(4, "flat"), labels, world.condition(labels))


def test_latents_that_are_no_numbers_are_not_cached(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(world.codec.autoencoder)
    monkeypatch.setattr(codec, "encode", lambda images: (images, images * math.nan))
    writer: Any = None
    with pytest.raises(Diverged, match="autoencoder: its latents are not finite"):
        encode_rows(ImageTable(world.data), codec, writer, 0, 4, mirrored=False, batch_size=4, device=CPU)


def test_a_student_in_the_loop_that_diverges_ends_its_stage(tmp_path: Path) -> None:
    pixels, labels = digits()
    write_images(
        tmp_path / "set.parquet", image_set_of(pixels[:16], labels[:16], slot=np.arange(16)), {"stage": "test"}
    )
    recipe = Recipe(epochs=4, batch_size=4, learning_rate=1.0).model_copy(update={"learning_rate": 1e38})
    settings = train_student.Settings(seed=0, increment=1, network=NETWORK, start="fresh", recipe=recipe)
    out = tmp_path / "student.safetensors"
    with pytest.raises(Diverged, match=r"weights after 4 epochs at learning_rate 1e\+38 are not finite numbers; lower"):
        run = job("train_student", settings)
        train_student.run(
            settings, images=[tmp_path / "set.parquet"], model=out, history=out.with_suffix(".parquet"), job=run
        )
    assert not out.exists()


def broken(path: Path) -> Path:
    """The weights of a network of the tiny world with one that is not a number."""
    state = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("broken",)).network.state_dict()
    next(iter(state.values())).view(-1)[0] = math.nan
    save_file(state, path)
    return path


def test_weights_of_a_reference_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"w\.safetensors: the weights are not finite numbers; download"):
        open_pretrained(broken(tmp_path / "w.safetensors"), NETWORK, CLASSES, Domain(SIDE, 1), None)


def test_checkpoints_of_a_surrogate_that_are_no_numbers_are_refused(world: World, tmp_path: Path) -> None:
    classifier = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("broken",))
    tensors = {f"0/{name}": value * math.nan for name, value in classifier.state_dict().items()}
    path = tmp_path / "checkpoints.safetensors"
    write_tensors(path, tensors, MADE_BY, **classifier.description, checkpoints=1)
    with pytest.raises(Diverged, match="the weights are not finite numbers; train the surrogate at a lower"):
        chosen(world, path, tmp_path / "gradients.safetensors", keep=[0])


def test_experts_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trajectories.safetensors"
    write_tensors(path, {"theta": torch.full((1, 2, 3), math.inf)}, MADE_BY, network="x", epochs=1)
    with pytest.raises(Diverged, match="the weights of expert 0 after epoch 1 are not finite"):
        Trajectories([path], {"epochs": 1}).state(0, 1)


def test_answers_of_a_teacher_beyond_half_precision_are_not_stored(world: World) -> None:
    teacher = Teacher(world.reference, CLASSES, Domain(SIDE, 1), CPU)
    recipe = Recipe(epochs=1, batch_size=4, learning_rate=1e-3, labels="soft", teacher="real")
    assert next(store(teacher, digits()[0][:4], recipe, ("key",), "labels")).shape == (4, 4)
    large = type("Large", (Teacher,), {"__call__": lambda self, images: torch.full((len(images), 4), 7e4)})
    other = large(world.reference, CLASSES, Domain(SIDE, 1), CPU)
    with pytest.raises(BadInput, match=r"as float16 are not finite numbers; .* or set soft_labels: online"):
        next(store(other, digits()[0][:4], recipe, ("key",), "labels"))
