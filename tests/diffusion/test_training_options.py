"""What the options of training mean: velocity, weights by signal, learned variance, pieces of a batch, processes."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from clone import PROJECT, wait_until
from diffusers import DDPMScheduler
from diffusers.models.attention import BasicTransformerBlock
from pydantic import TypeAdapter, ValidationError
from tiny import CLASSES, CPU, LATENT, StoppedAt, job, no_resume
from tiny_weights import openings
from torch import Tensor, nn

import distillery.storage.resume
from distillery.diffusion.denoiser import Denoiser
from distillery.diffusion.generators import AnyGenerator, Generator
from distillery.diffusion.losses import DiffusionLoss, Noised, TrainingStep, VarianceSchedule, min_snr_weights
from distillery.diffusion.schedule import training_scheduler
from distillery.diffusion.training import InMemory, Shuffled, new_transformer, train_generator
from distillery.errors import BadInput
from distillery.settings import canonical
from distillery.stages import train_generator as stage
from distillery.storage.resume import Resume
from distillery.storage.tensors import read_tensors, write_tensors
from distillery.streams import stream

SHAPE = {"classes": 4, "channels": 4, "size": 8, "layers": 1, "heads": 2, "head_dim": 8, "patch_size": 2}


def noised(timesteps: list[int]) -> Noised:
    draws, count = stream("noised"), len(timesteps)
    clean, noise = (torch.randn(count, *LATENT, generator=draws) for _ in range(2))
    level = training_scheduler().alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    labels = torch.zeros(count, dtype=torch.long)
    noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
    return Noised(clean, clean, noise, noisy, torch.tensor(timesteps), level, labels, labels)


def target(batch: Noised, prediction: str) -> Tensor:
    """What a denoiser should answer."""
    return batch.answered(batch.noise, prediction, 0).target  # type: ignore[arg-type]


def train(folder: Path, prediction: str = "epsilon", **options: Any) -> Any:
    draws = stream("latents")
    mean = torch.randn(32, *LATENT, generator=draws)
    defaults: dict[str, Any] = {
        "steps": 4,
        "batch_size": 8,
        "learning_rate": 2e-3,
        "warmup_steps": 0,
        "ema_decay": 0.5,
        "label_dropout": 0.1,
        "resume": no_resume(folder),
    }
    return train_generator(
        new_transformer(0, **SHAPE),
        training_scheduler(prediction),
        InMemory(mean, torch.full_like(mean, 0.1)),
        torch.arange(4).repeat(8),
        torch.arange(4),
        **{**defaults, **options},
        seed=0,
        device=CPU,
    )


def distance(one: Any, other: Any) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_right_answer_gives_noise_and_clean_latents_back(prediction: str) -> None:
    batch = noised([1, 400, 990])
    step = batch.answered(target(batch, prediction), prediction, 0)  # type: ignore[arg-type]
    torch.testing.assert_close(step.predicted, batch.noise, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(step.predicted_clean, batch.clean, atol=2e-3, rtol=1e-3)
    assert DiffusionLoss(training_scheduler(), CPU).loss(step) == 0


def test_velocity_is_that_of_diffusers() -> None:
    batch = noised([1, 400, 990])
    expected = DDPMScheduler(1000, 1e-4, 0.02, "linear").get_velocity(batch.clean, batch.noise, batch.timesteps)
    torch.testing.assert_close(target(batch, "v_prediction"), expected)


def test_a_sampler_sees_the_noise_that_a_velocity_implies() -> None:
    batch = noised([400, 400])

    class Knowing(nn.Module):
        """A transformer that knows the velocity."""

        class config:  # noqa: N801
            in_channels, num_embeds_ada_norm = 4, 4

        def forward(self, noisy: Tensor, **_: Any) -> Any:
            from types import SimpleNamespace

            return SimpleNamespace(sample=target(batch, "v_prediction"))

    denoiser = Denoiser(Knowing(), 1.0, "all", training_scheduler("v_prediction"))
    noise, _ = denoiser(batch.noisy, 400, batch.labels)
    torch.testing.assert_close(noise, batch.noise, atol=1e-5, rtol=1e-5)


def test_weights_by_signal_to_noise_are_capped() -> None:
    level = torch.tensor([0.999, 0.5, 0.01])
    ratio = level / (1 - level)
    torch.testing.assert_close(min_snr_weights(level, 5.0, "epsilon"), torch.tensor([5 / ratio[0].item(), 1.0, 1.0]))
    expected = ratio.clamp(max=5.0) / (ratio + 1)
    torch.testing.assert_close(min_snr_weights(level, 5.0, "v_prediction"), expected)


def test_the_bound_is_the_divergence_of_two_normal_distributions() -> None:
    batch = noised([7, 400, 999])
    logits = 0.7 * torch.randn(batch.clean.shape, generator=stream("variance"))
    answer = batch.noise + 0.1
    step = batch.answered(torch.cat([answer, logits], 1), "epsilon", 0)
    found = VarianceSchedule(training_scheduler(), CPU).bound(step)
    abar = training_scheduler().alphas_cumprod.double()
    for row, t in enumerate(batch.timesteps.tolist()):
        beta = 1 - abar[t] / abar[t - 1]
        least = beta * (1 - abar[t - 1]) / (1 - abar[t])

        def mean(clean: Tensor, row: int = row, t: int = t, beta: Tensor = beta) -> Tensor:
            noisy = batch.noisy[row].double()
            return (abar[t - 1].sqrt() * beta * clean + (1 - beta).sqrt() * (1 - abar[t - 1]) * noisy) / (1 - abar[t])

        share = (logits[row].double() + 1) / 2
        deviation = torch.exp(0.5 * (share * beta.log() + (1 - share) * least.log()))
        clean = (batch.noisy[row].double() - (1 - abar[t]).sqrt() * answer[row]) / abar[t].sqrt()
        true = torch.distributions.Normal(mean(batch.clean[row].double()), least.sqrt())
        model = torch.distributions.Normal(mean(clean), deviation)
        expected = torch.distributions.kl_divergence(true, model).mean() / math.log(2)
        assert found[row].item() == pytest.approx(expected.item(), rel=2e-3)


def test_the_bound_trains_the_variance_alone_and_is_finite_at_the_first_step() -> None:
    batch = noised([0, 0, 500])
    answer, logits = (torch.zeros(batch.clean.shape, requires_grad=True) for _ in range(2))
    step = batch.answered(torch.cat([answer, logits], 1), "epsilon", 0)
    bound = VarianceSchedule(training_scheduler(), CPU).bound(step)
    bound.sum().backward()
    assert bound.isfinite().all()
    assert answer.grad is None or not answer.grad.any()
    assert logits.grad is not None and logits.grad.abs().sum() > 0


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of latents in each pass through a block, as they come."""
    found: list[int] = []
    forward = BasicTransformerBlock.forward

    def noted(self: Any, states: Tensor, *rest: Any, **options: Any) -> Any:
        found.append(len(states))
        return forward(self, states, *rest, **options)

    monkeypatch.setattr(BasicTransformerBlock, "forward", noted)
    return found


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_pieces_is_the_batch(accumulate: int, tmp_path: Path, passes: list[int]) -> None:
    whole, once = train(tmp_path), list(passes)
    passes.clear()
    assert distance(whole, train(tmp_path, accumulate=accumulate)) < 5e-4  # rounding, by the number of threads
    assert len(passes) == accumulate * len(once) and max(passes) * accumulate == max(once)


def test_activations_that_are_computed_twice_are_the_same(tmp_path: Path, passes: list[int]) -> None:
    whole, once = train(tmp_path), len(passes)
    assert distance(whole, train(tmp_path, gradient_checkpointing=True)) == 0
    assert len(passes) == 3 * once  # as many as before, and twice as many in the second training


def test_low_precision_is_close_and_weights_stay_float32(tmp_path: Path) -> None:
    low = train(tmp_path, precision="bfloat16")
    assert {value.dtype for value in low.parameters()} == {torch.float32}
    assert 0 < distance(train(tmp_path), low) < 0.05


def test_a_constant_rate_and_the_last_weights(tmp_path: Path) -> None:
    last, average = (train(tmp_path, weights=kept, schedule="constant") for kept in ("raw", "ema"))
    assert distance(last, average) > 0
    assert distance(last, train(tmp_path, weights="raw")) > 0


class Pull:
    """The diffusion loss, and a pull of clean latents to zero that grows with what it has seen."""

    def __init__(self) -> None:
        self.plain, self.seen = DiffusionLoss(training_scheduler(), CPU), torch.zeros(())
        self.terms: dict[str, Tensor] = {}

    def loss(self, step: TrainingStep) -> Tensor:
        assert step.labels.max() < 4  # the true class, not the null one
        self.seen += len(step.clean)
        return self.plain.loss(step) + 1e-3 * self.seen * step.predicted_clean.square().mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        self.seen = tensors["seen"]


def test_an_objective_is_the_loss_and_its_memory_survives_a_stop(tmp_path: Path, no_request: None) -> None:
    whole = train(tmp_path, objective=Pull())
    assert distance(train(tmp_path), whole) > 0
    with pytest.raises(SystemExit):
        train(tmp_path, objective=Pull(), resume=StoppedAt(tmp_path / "weights", "a", 2))
    distillery.storage.resume.clear_stop()
    pull = Pull()
    assert distance(train(tmp_path, objective=pull, resume=Resume(tmp_path / "weights", "a")), whole) == 0
    assert int(pull.seen) == 4 * 8


class InOneJob:
    """`train_generator` as a job starts it, in one process or two."""

    steps, seconds = 80, 3600

    def __init__(self, folder: Path, processes: int) -> None:
        self.folder, self.latents = folder, folder.parent / "latents.safetensors"
        mean = torch.randn(32, *LATENT, generator=stream("latents"))
        tensors = {"mean": mean, "std": torch.full_like(mean, 0.1), "labels": torch.arange(4).repeat(8)}
        write_tensors(self.latents, tensors, {}, classes=CLASSES)
        block = Generator(
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            steps=self.steps,
            batch_size=8,
            learning_rate=1e-4,
            warmup_steps=0,
            processes=processes,
        )
        self.settings = stage.Settings(seed=0, generator=block)
        self.files = {**openings(folder), "history": folder / "history.parquet"}
        self.resume = self.files["weights"].with_name(self.files["weights"].name + ".resume.safetensors")

    def start(self, checkpoint_seconds: float = 1e9) -> subprocess.Popen[str]:
        outputs = [word for name, path in self.files.items() for word in (f"--{name}", str(path))]
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "distillery", "train_generator", "--settings", canonical(self.settings)),
                *("--latents", str(self.latents), "--threads", "1", "--cost", str(self.folder / "cost.json")),
                *("--checkpoint-seconds", str(checkpoint_seconds), *outputs),
            ],
            env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> str:
        """Run to the end; what it printed."""
        process = self.start()
        _, printed = process.communicate(timeout=self.seconds)
        assert process.returncode == 0, printed
        return printed

    def weights(self) -> dict[str, Tensor]:
        return read_tensors(self.files["weights"], "train_generator")[0]


def test_two_processes_share_a_batch_in_one_job_and_resume_after_a_signal(tmp_path: Path, no_request: None) -> None:
    one, two, stopped = (InOneJob(tmp_path / name, n) for name, n in (("one", 1), ("two", 2), ("stopped", 2)))
    stage.run(one.settings, latents=[one.latents], **one.files, job=job("train_generator", one.settings))
    two.finish()
    assert json.loads((two.folder / "cost.json").read_text("utf-8"))["images"] == 8 * two.steps
    start = new_transformer(0, **SHAPE).state_dict()
    alone, shared = one.weights(), two.weights()
    moved = sum(float((alone[name] - start[name]).square().sum()) for name in alone)
    apart = sum(float((alone[name] - shared[name]).square().sum()) for name in alone)
    assert moved > 0
    assert apart < 1e-3 * moved

    process = stopped.start(checkpoint_seconds=0)
    wait_until(lambda: stopped.resume.exists() or process.poll() is not None, stopped.seconds, "there is no checkpoint")
    process.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=stopped.seconds)
    assert process.returncode != 0, printed
    assert not stopped.files["weights"].exists()
    printed = stopped.finish()
    steps = {int(step) for step in re.findall(r"resuming at step (\d+)", printed)}  # each process says it
    assert len(steps) == 1 and 0 < steps.pop() < stopped.steps
    assert stopped.files["weights"].read_bytes() == two.files["weights"].read_bytes()
    assert not stopped.resume.exists()


# ---- how long, and in which order ------------------------------------------------------------------------------------


def block(**keys: Any) -> Any:
    return TypeAdapter(AnyGenerator).validate_python({"kind": "finetune", "base": "dit", **keys})


@pytest.mark.parametrize(
    ("images", "steps"), [(12_454, 12_448), (12_894, 12_888)], ids=["as published for Woof", "as published for Nette"]
)
def test_epochs_are_so_many_whole_batches(images: int, steps: int) -> None:
    assert block(epochs=8, batch_size=8).steps_on(images) == steps
    assert block(batch_size=8).steps_on(images) == 12_000  # the default is in steps, whatever the images
    assert Generator(epochs=3, batch_size=64).steps_on(10) == 3


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"steps": 10, "epochs": 2}, "steps and epochs both"),
        ({"steps": None}, "no epochs say"),
        ({"epochs": 0}, "greater than or equal to 1"),
    ],
)
def test_exactly_one_of_steps_and_epochs_says_how_long(keys: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        block(**keys)


def test_settings_of_steps_are_those_of_before_epochs_existed_and_those_of_epochs_load_again() -> None:
    assert not {"epochs", "order"} & block(steps=5).model_dump(mode="json").keys()
    by_epochs = block(epochs=2, order="shuffled")
    assert TypeAdapter(AnyGenerator).validate_python(by_epochs.model_dump(mode="json")) == by_epochs


def test_shuffled_batches_hold_every_row_once_in_an_epoch_and_another_order_in_the_next() -> None:
    batches = Shuffled(11, 4, (0, "order"))
    epochs = [torch.cat([batches.rows(step) for step in (first, first + 1)]).tolist() for first in (0, 2, 4)]
    assert all(len(set(rows)) == 8 and set(rows) <= {*range(11)} for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert Shuffled(11, 4, (0, "order")).rows(3).tolist() == epochs[1][4:]  # wherever a training resumes
    assert Shuffled(11, 4, (1, "order")).rows(0).tolist() != epochs[0][:4]
    with pytest.raises(BadInput, match="allowed: 1 to 3"):
        Shuffled(3, 4, (0,))


def test_training_by_epochs_sees_every_latent_as_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    take = InMemory.take

    def noted(self: InMemory, rows: Tensor, mirror: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen.extend(rows.tolist())
        return take(self, rows, mirror)

    monkeypatch.setattr(InMemory, "take", noted)
    train(tmp_path, order="shuffled", steps=8)
    assert sorted(seen) == sorted([*range(32)] * 2)
    seen.clear()
    train(tmp_path, steps=8)
    assert sorted(seen) != sorted([*range(32)] * 2)
