"""What a loop that can be killed promises: the same command again, and the same result to the last bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CPU
from torch import Tensor, nn

import distillery.storage.resume
from distillery.job import Job
from distillery.storage.resume import SIGNALS, Resume, pack, stop_on_signals, unpack
from distillery.streams import stream

STATE = ({"weights": torch.arange(6.0).view(2, 3), "step": torch.tensor(3)}, {"step": 3, "history": [[1, 0.1]]})


def state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    return STATE


def saved(folder: Path, digest: str = "a") -> Resume:
    resume = Resume(folder / "model.safetensors", digest, every=0)
    resume.checkpoint(state)
    return resume


@pytest.fixture
def handlers(no_request: None) -> Iterator[None]:
    """The signal handlers of the test runner come back after the test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    stop_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    found = saved(tmp_path).restore()
    assert found is not None
    assert found[1] == STATE[1]
    assert found[0].keys() == STATE[0].keys()
    assert all(torch.equal(found[0][name], tensor) for name, tensor in STATE[0].items())


def test_facts_alone_make_a_checkpoint(tmp_path: Path) -> None:
    resume = Resume(tmp_path / "curve.parquet", "a", every=0)
    resume.checkpoint(lambda: ({}, {"measured": {"0.1 2.0": {"strength": 1 / 3}}}))
    assert resume.restore() == ({}, {"measured": {"0.1 2.0": {"strength": 1 / 3}}})


def test_there_is_nothing_to_resume_at_first(tmp_path: Path) -> None:
    assert Resume(tmp_path / "model.safetensors", "a").restore() is None


def test_the_file_stands_beside_its_output(tmp_path: Path) -> None:
    assert saved(tmp_path).path == tmp_path / "model.safetensors.resume.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors.resume.safetensors"]


def test_a_checkpoint_waits_for_its_time_unless_forced(tmp_path: Path) -> None:
    resume = Resume(tmp_path / "model.safetensors", "a", every=1e9)
    resume.checkpoint(state)
    assert not resume.path.exists()
    resume.checkpoint(state, force=True)
    assert resume.path.exists()


def test_other_settings_start_afresh_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, "a")
    assert Resume(tmp_path / "model.safetensors", "b").restore() is None
    assert "starting afresh" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_torn_file_is_a_fresh_start(share: float, tmp_path: Path) -> None:
    resume = saved(tmp_path)
    content = resume.path.read_bytes()
    resume.path.write_bytes(content[: int(len(content) * share)])
    assert resume.restore() is None


def test_a_foreign_file_is_a_fresh_start(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    resume = Resume(tmp_path / "model.safetensors", "a")
    save_file({"weights": torch.zeros(3)}, resume.path)
    assert resume.restore() is None


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resume = saved(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        resume.checkpoint(lambda: ({"weights": torch.zeros(1)}, {"step": 4}))
    assert list(tmp_path.iterdir()) == [resume.path]
    found = resume.restore()
    assert found is not None and found[1]["step"] == 3


def test_success_removes_the_file(tmp_path: Path) -> None:
    resume = saved(tmp_path)
    resume.finish()
    assert list(tmp_path.iterdir()) == []
    resume.finish()  # and so it does where nothing was saved


KILLED = """
import os, sys, time
from pathlib import Path
from distillery.storage import atomic
from distillery.storage.resume import Resume

def slow(_):
    print("half", flush=True)
    time.sleep(60)

os.fsync = slow
Resume(Path(sys.argv[1]), "a", every=0).checkpoint(lambda: ({}, {"step": 1}))
"""


def test_success_removes_what_a_kill_during_a_checkpoint_left(tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(output)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    assert len(list(tmp_path.iterdir())) == 1
    Resume(output, "a").finish()  # it was too short to save
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_process_only_after_the_state_is_saved(
    number: int, handlers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = Resume(tmp_path / "model.safetensors", "a", every=1e9)
    os.kill(os.getpid(), number)
    with pytest.raises(SystemExit) as stopped:
        resume.checkpoint(state)
    assert stopped.value.code == 128 + number
    assert resume.restore() is not None
    assert str(resume.path) in capsys.readouterr().err


@pytest.mark.parametrize("number", SIGNALS)
def test_the_same_end_told_twice_still_saves(number: int, handlers: None, tmp_path: Path) -> None:
    for _ in range(3):  # preempting a job, Slurm sends TERM twice, within milliseconds
        os.kill(os.getpid(), number)
    resume = Resume(tmp_path / "model.safetensors", "a", every=1e9)
    with pytest.raises(SystemExit) as stopped:
        resume.checkpoint(state)
    assert stopped.value.code == 128 + number
    assert resume.restore() is not None


def test_an_impatient_interrupt_does_not_wait(handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr(distillery.storage.resume, "IMPATIENT_SECONDS", -1.0)
    os.kill(os.getpid(), signal.SIGTERM)  # a scheduler kills by itself where it will not wait
    with pytest.raises(SystemExit) as stopped:
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.code == 130


# ---- modules and optimizers ------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, 0.01, fused=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, 0.01, fused=True),
    "sgd": lambda weights: torch.optim.SGD(weights, 0.01, momentum=0.9, fused=True),
    "sgd without momentum": lambda weights: torch.optim.SGD(weights, 0.01),
}


def learner(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream("learner")))
    return module, OPTIMIZERS[kind](module.parameters())


def learn(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(8, 1, 4, 4, generator=stream("learner", step))
        optimizer.zero_grad()
        module(images).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_packed_learner_goes_on_as_if_it_had_not_stopped(kind: str, tmp_path: Path) -> None:
    whole, halves = learner(kind), learner(kind)
    learn(*whole, range(6))
    learn(*halves, range(3))
    resume = Resume(tmp_path / "model.safetensors", "a", every=0)
    resume.checkpoint(lambda: (pack({"m": halves[0]}, {"o": halves[1]}), {}))

    found, again = resume.restore(), learner(kind)
    assert found is not None
    unpack(found[0], {"m": again[0]}, {"o": again[1]})
    learn(*again, range(3, 6))
    expected, got = whole[0].state_dict(), again[0].state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_what_was_packed_does_not_follow_the_learner() -> None:
    module, optimizer = learner("adamw")
    learn(module, optimizer, range(1))
    packed = pack({"m": module}, {"o": optimizer})
    kept = {name: tensor.clone() for name, tensor in packed.items()}
    learn(module, optimizer, range(1, 3))
    assert all(torch.equal(packed[name], kept[name]) for name in kept)


def test_modules_of_similar_names_keep_apart() -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    packed = pack({"model": one, "model2": two})
    fresh = nn.Linear(2, 2), nn.Linear(2, 2)
    unpack(packed, {"model": fresh[0], "model2": fresh[1]})
    assert torch.equal(fresh[0].weight, one.weight)
    assert torch.equal(fresh[1].weight, two.weight)


# ---- which work a resume file belongs to -----------------------------------------------------------------------------


def digest_of(job: Job, output: Path) -> str:
    return job.resume(output).digest


def test_a_resume_file_belongs_to_settings_inputs_and_threads(tmp_path: Path) -> None:
    data = tmp_path / "train.parquet"
    data.write_bytes(b"images")
    original = digest_of(Job("train_student", "{}", CPU, 1, (data,)), tmp_path / "out")
    assert digest_of(Job("train_student", '{"seed":1}', CPU, 1, (data,)), tmp_path / "out") != original
    assert digest_of(Job("train_student", "{}", CPU, 2, (data,)), tmp_path / "out") != original
    assert digest_of(Job("train_reference", "{}", CPU, 1, (data,)), tmp_path / "out") != original
    os.utime(data, (1, 1))
    assert digest_of(Job("train_student", "{}", CPU, 1, (data,)), tmp_path / "out") == original
    data.write_bytes(b"others")
    assert digest_of(Job("train_student", "{}", CPU, 1, (data,)), tmp_path / "out") != original


@pytest.mark.parametrize("saves", [False, True])
def test_a_signal_ends_a_process_at_once_that_has_nothing_to_save(saves: bool, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from distillery.storage.resume import Resume, stop_on_signals
stop_on_signals()
if {saves}:
    Resume(Path({str(tmp_path / "model")!r}), "digest")
os.kill(os.getpid(), signal.SIGTERM)
print("goes on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == ((0, "goes on\n") if saves else (143, "")), done.stderr
