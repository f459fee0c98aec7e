"""Each job of a local run has a card of its own, and gives it back however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from distillery import devices
from distillery.devices import (
    allowed_cores,
    cpu_has_bfloat16,
    described,
    fused_attention,
    lease_card,
    prepare,
    trains_in_bfloat16,
    visible_cards,
)

JOB = """
import os, sys, time
from distillery.devices import lease_card
leased = lease_card()
assert "torch" not in sys.modules
print(leased, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.readline()
"""


class Job:
    """A process that takes a lease and holds it until it is told to end."""

    def __init__(self, folder: Path, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "DISTILLERY"))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB],
            env={**kept, "TMPDIR": str(folder), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def leased(self) -> list[str]:
        """What it leased, and the cards that it sees; waits for it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def waits(self, seconds: float = 1.5) -> bool:
        """Whether it has no lease yet after some time."""
        import select

        assert self.process.stdout is not None
        return not select.select([self.process.stdout], [], [], seconds)[0]

    def end(self) -> None:
        self.process.communicate("\n", timeout=600)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def jobs(folder: Path, count: int, **environment: str) -> Iterator[list[Job]]:
    found = [Job(folder, **environment) for _ in range(count)]
    try:
        yield found
    finally:
        for job in found:
            job.process.kill()
            job.process.communicate()


def test_each_job_has_a_card_of_its_own_and_a_third_one_waits(tmp_path: Path) -> None:
    with jobs(tmp_path, 2, CUDA_VISIBLE_DEVICES="0,1") as two:
        leases = [job.leased() for job in two]
        assert sorted(leases) == [["0", "0"], ["1", "1"]]
        with jobs(tmp_path, 1, CUDA_VISIBLE_DEVICES="0,1") as [third]:
            assert third.waits()
            two[1].end()
            assert third.leased() == leases[1]


def test_the_wait_for_a_card_is_said_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("distillery.devices.LEASE_SECONDS", 2.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("DISTILLERY_SCHEDULED", raising=False)
    with jobs(tmp_path, 2, CUDA_VISIBLE_DEVICES="0,1") as two:
        assert sorted(job.leased()[0] for job in two) == ["0", "1"]
        with pytest.raises(TimeoutError, match="no card was free for"):
            lease_card()
    assert "waiting for a card: 0, 1 are leased" in capsys.readouterr().err


def test_a_lease_ends_with_kill_9(tmp_path: Path) -> None:
    with jobs(tmp_path, 2, CUDA_VISIBLE_DEVICES="0,1") as two:
        leases = [job.leased() for job in two]
        two[0].kill()
        with jobs(tmp_path, 1, CUDA_VISIBLE_DEVICES="0,1") as [third]:
            assert third.leased() == leases[0]


def test_the_names_of_the_cards_are_kept(tmp_path: Path) -> None:
    cards = {"GPU-8f1a", "GPU-77c0", "5"}
    with jobs(tmp_path, 3, CUDA_VISIBLE_DEVICES="GPU-8f1a, GPU-77c0,5") as three:
        leases = [job.leased() for job in three]
    assert {lease[0] for lease in leases} == cards
    assert all(lease[0] == lease[1] for lease in leases)


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1", "DISTILLERY_SCHEDULED": "1"}, "0,1"),
        ({"CUDA_VISIBLE_DEVICES": "3"}, "3"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "-1"),
    ],
    ids=["in a submitted job", "with one card", "with none"],
)
def test_nothing_is_leased(tmp_path: Path, environment: dict[str, str], seen: str) -> None:
    with jobs(tmp_path, 2, **environment) as two:
        assert [job.leased() for job in two] == [["None", seen]] * 2
    assert list(tmp_path.iterdir()) == []


def test_two_users_do_not_share_their_locks(tmp_path: Path) -> None:
    with jobs(tmp_path, 1, CUDA_VISIBLE_DEVICES="0,1") as [job]:
        job.leased()
        assert [path.name for path in tmp_path.iterdir()] == [f"distillery-cards-{os.getuid()}"]


@pytest.mark.parametrize(("given", "cores"), [("", 8), ("3", 3), ("64", 8), ("0", 8), ("4(x2)", 8)])
def test_a_job_of_slurm_keeps_no_more_cores_busy_than_it_was_given(
    given: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert allowed_cores() == cores


def test_the_cards_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for listed, cards in (
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("2, 0", ["2", "0"]),
        ("MIG-a,MIG-b", ["MIG-a", "MIG-b"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert visible_cards() == cards


def test_without_a_list_the_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    there = Path("/proc/driver/nvidia/gpus")
    assert len(visible_cards()) == (len(list(there.iterdir())) if there.is_dir() else 0)


def test_one_card_is_not_leased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert lease_card() is None
    assert not list(tmp_path.iterdir())  # no lock to wait for


def test_the_number_of_threads_is_that_which_was_asked_for() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        for threads in (1, 2):
            assert prepare(threads).type == ("cuda" if torch.cuda.is_available() else "cpu")
            assert torch.get_num_threads() == threads
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def test_on_a_gpu_attention_with_a_gradient_takes_the_kernel_that_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = ("flash", "mem_efficient", "cudnn", "math")

    def allowed() -> list[bool]:
        return [getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")() for kernel in kernels]

    before = allowed(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        device = prepare(1)
        only_math = [False, False, False, True]
        assert allowed() == only_math
        with fused_attention(device):
            assert allowed() == only_math
        with torch.no_grad(), fused_attention(device):
            assert allowed() == [True] * 4
        with torch.no_grad(), fused_attention(torch.device("cpu")):
            assert allowed() == only_math
        assert allowed() == only_math
    finally:
        for kernel, flag in zip(kernels, before[0], strict=True):
            getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(flag)
        torch.set_num_threads(before[1])
        torch.use_deterministic_algorithms(before[2])


X86 = "processor : 0\nflags\t\t: fpu avx512f {}\nbugs\t\t:\n"
ARM = "processor : 0\nFeatures\t: fp asimd {}\n"


@pytest.mark.parametrize(
    ("told", "has"),
    [
        (X86.format("avx512_bf16") * 2, True),
        (X86.format("amx_bf16 amx_tile"), True),
        (ARM.format("bf16"), True),
        (X86.format("avx512_vnni") * 2, False),
        (X86.format("avx512_bf16") + X86.format(""), False),
        ("processor : 0\n", False),
        (None, False),
    ],
)
def test_linux_says_whether_every_core_has_bfloat16(tmp_path: Path, told: str | None, has: bool) -> None:
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told, "utf-8")
    assert cpu_has_bfloat16(tmp_path / "cpuinfo") is has


@pytest.mark.parametrize("has", [False, True])
def test_a_cpu_trains_in_bfloat16_where_it_is_faster(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: has)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [trains_in_bfloat16(cpu, "auto", side) for side in (16, 31, 32, 224)] == [False, False, has, has]
    assert trains_in_bfloat16(cuda, "auto", 16)
    assert trains_in_bfloat16(cpu, "bfloat16", 16) and not trains_in_bfloat16(cuda, "float32", 224)
    assert [described(cpu), described(cuda)] == ["cpu with bfloat16" if has else "cpu", "cuda"]
