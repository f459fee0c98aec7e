"""What the memories promise: the sets, losses and gradients of plain lists, without asking the device for a number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from list_memory import Lists, held
from tiny import CPU
from torch import Tensor
from torch.nn import functional as F

import distillery.diffusion.memory
from distillery.diffusion.memory import LatentMemory, Policy
from distillery.diffusion.objectives import reduce_extremes
from distillery.streams import stream

CLASSES, SIZE, BATCH, NUMBERS = 3, 4, 5, 6
POLICIES: list[Policy] = ["fifo", "max", "min"]


def memory_of(policy: Policy, size: int = SIZE, batch: int = BATCH, **options: Any) -> LatentMemory:
    return LatentMemory(CLASSES, size, batch, NUMBERS, policy=policy, device=CPU, dtype=torch.float64, **options)


def step_of(number: int, count: int = BATCH) -> tuple[Tensor, Tensor]:
    """Latents and labels of a step; classes come unevenly, and most latents lie on one side."""
    draws = stream("memory", number)
    latents = torch.randn(count, NUMBERS, generator=draws, dtype=torch.float64) + 0.4
    return latents, (torch.randint(2 * CLASSES, (count,), generator=draws) - CLASSES).clamp_min(0)


@pytest.mark.parametrize("policy", ["max", "min"])
def test_rounds_that_no_class_needs_change_nothing(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which is not asked how many are needed."""
    asked, blind = memory_of(policy), memory_of(policy)
    monkeypatch.setattr(blind, "eviction_rounds", lambda added: added)
    for number in range(300):
        latents, labels = step_of(number)
        asked.add(latents, labels)
        blind.add(latents, labels)
        assert torch.equal(asked.valid, blind.valid)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_step_asks_the_device_for_a_number(policy: Policy) -> None:
    """A tensor without numbers cannot be asked."""
    nowhere = torch.device("meta")
    memory = LatentMemory(CLASSES, SIZE, BATCH, NUMBERS, policy=policy, device=nowhere, max_age=9)
    latents, labels = torch.randn(BATCH, NUMBERS, device=nowhere), torch.zeros(BATCH, dtype=torch.long, device=nowhere)
    with pytest.raises(RuntimeError, match="meta"):
        latents.sum().item()
    for _ in range(3):
        memory.add(latents, labels, where=labels == 0)
        for extreme in ("min", "max"):
            found, has = memory.extremes(latents, labels, extreme)  # type: ignore[arg-type]
            loss = reduce_extremes(found, has, labels, CLASSES, extreme=extreme)  # type: ignore[arg-type]
            assert loss.shape == ()


@pytest.mark.parametrize("policy", POLICIES)
def test_over_150_steps_the_sets_losses_and_gradients_are_those_of_lists(policy: Policy) -> None:
    memory, lists = memory_of(policy), Lists(policy, SIZE, CLASSES)
    for number in range(150):
        latents, labels = step_of(number)
        for extreme in ("min", "max"):
            ours, theirs = latents.clone().requires_grad_(), latents.clone().requires_grad_()
            found, has = memory.extremes(ours, labels, extreme)  # type: ignore[arg-type]
            loss = reduce_extremes(found, has, labels, CLASSES, extreme=extreme)  # type: ignore[arg-type]
            expected = lists.loss(theirs, labels, extreme)
            torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)
            if number:
                (gradient,) = torch.autograd.grad(loss, ours)
                (wanted,) = (
                    torch.autograd.grad(expected, theirs) if expected.requires_grad else (torch.zeros_like(ours),)
                )
                torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-9)
        where = None if number % 3 else labels != number % CLASSES
        memory.add(latents, labels, where)
        lists.add(latents, labels, where)
        for label, members in lists.kept.items():
            wanted = F.normalize(torch.stack(members), dim=1) if members else torch.zeros(0, NUMBERS).double()
            torch.testing.assert_close(held(memory, label), wanted, rtol=0, atol=1e-12)


def test_first_in_first_out_keeps_exactly_the_newest() -> None:
    memory = memory_of("fifo")
    every, of = zip(*(step_of(number) for number in range(20)), strict=True)
    for latents, labels in zip(every, of, strict=True):
        memory.add(latents, labels)
    latents, labels = torch.cat(every), torch.cat(of)
    for label in range(CLASSES):
        newest = F.normalize(latents[labels == label][-SIZE:], dim=1)
        torch.testing.assert_close(held(memory, label), newest)


def test_of_two_near_duplicates_in_a_full_memory_max_removes_one_and_min_neither() -> None:
    orthogonal = torch.eye(NUMBERS, dtype=torch.float64)[:SIZE]
    twin = orthogonal[:1] + 0.01 * orthogonal[1:2]
    for policy, alike in (("max", 1), ("min", 2)):
        memory = memory_of(policy)  # type: ignore[arg-type]
        memory.add(torch.cat([orthogonal, twin]), torch.zeros(SIZE + 1, dtype=torch.long))
        near = held(memory, 0) @ orthogonal[0] > 0.99
        assert int(near.sum()) == alike
        assert int(memory.valid[0].sum()) == SIZE


def test_a_tie_goes_to_the_oldest() -> None:
    latents = torch.eye(NUMBERS, dtype=torch.float64)[:5]
    memory = memory_of("max", size=4)
    memory.add(latents, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(held(memory, 0), latents[1:])


def test_what_is_not_wanted_never_enters() -> None:
    memory = memory_of("max")
    latents, labels = step_of(0)
    memory.add(latents, labels, torch.zeros(BATCH, dtype=torch.bool))
    assert not memory.valid.any()


def test_latents_leave_after_so_many_steps() -> None:
    memory = memory_of("max", max_age=3)
    for number in range(5):
        memory.add(torch.eye(NUMBERS, dtype=torch.float64)[number : number + 1], torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(held(memory, 0), torch.eye(NUMBERS, dtype=torch.float64)[2:5])


def test_the_result_does_not_depend_on_the_order_of_classes_in_the_batch() -> None:
    one, other = memory_of("max"), memory_of("max")
    for number in range(30):
        latents, labels = step_of(number)
        by_class = labels.argsort(stable=True)
        one.add(latents, labels)
        other.add(latents[by_class], labels[by_class])
    for label in range(CLASSES):
        torch.testing.assert_close(held(one, label), held(other, label))


def test_a_latent_of_zeros_gives_no_nan() -> None:
    memory = memory_of("max")
    latents = torch.zeros(2, NUMBERS, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0])
    memory.add(torch.ones(2, NUMBERS, dtype=torch.float64), labels)
    found, has = memory.extremes(latents, labels, "min")
    loss = reduce_extremes(found, has, labels, CLASSES, extreme="min")
    assert torch.autograd.grad(loss, latents)[0].isfinite().all()
    assert float(loss.detach()) == 1


def test_a_memory_goes_on_where_it_was_stopped() -> None:
    whole = memory_of("max")
    for number in range(12):
        whole.add(*step_of(number))
    stopped = memory_of("max")
    for number in range(7):
        stopped.add(*step_of(number))
    resumed = memory_of("max")
    resumed.load_state_dict(stopped.state_dict())
    for number in range(7, 12):
        resumed.add(*step_of(number))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_log_tells_count_age_and_likeness() -> None:
    memory = memory_of("fifo")
    memory.add(torch.ones(2, NUMBERS, dtype=torch.float64), torch.zeros(2, dtype=torch.long))
    memory.add(torch.ones(1, NUMBERS, dtype=torch.float64), torch.ones(1, dtype=torch.long))
    found = {name: float(value) for name, value in memory.statistics().items()}
    assert found == pytest.approx({"count": 3, "age": 2 / 3, "cosine": 1})


def test_many_classes_and_few_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_of("fifo")
    for number in range(5):
        memory.add(*step_of(number))
    latents, labels = step_of(9)
    with_all = memory.cosines(F.normalize(latents, dim=1), labels)
    monkeypatch.setattr(distillery.diffusion.memory, "MANY_CLASSES", 0)
    torch.testing.assert_close(memory.cosines(F.normalize(latents, dim=1), labels), with_all)
    assert bool((with_all != 0).any())


@pytest.mark.parametrize("size", [0, -1])
def test_a_memory_smaller_than_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="memory_size"):
        memory_of("fifo", size=size)


def test_a_batch_larger_than_was_said_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 5"):
        memory_of("fifo").add(*step_of(0, count=6))
