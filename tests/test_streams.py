"""What random numbers promise: a draw depends on what it is for, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from tiny import LATENT, keys

from distillery.streams import image_noise, stream


def test_a_stream_depends_on_its_key_and_not_on_what_was_drawn_before() -> None:
    first = torch.randn(100, generator=stream(0, "lgd", "cat", 3, 1))
    torch.randn(100, generator=stream(0, "lgd", "dog", 3, 1))
    torch.randn(100)
    assert torch.equal(torch.randn(100, generator=stream(0, "lgd", "cat", 3, 1)), first)


def test_keys_that_differ_anywhere_name_different_streams() -> None:
    alike = [(1, 2), (12,), (2, 1), ("1", 2), (1, "2"), (1, 2, 0), ("1, 2",), ("12",), (1, 2, ""), (-1, 2)]
    assert len({stream(*key).initial_seed() for key in alike}) == len(alike)


def test_a_key_gives_these_numbers_in_every_version() -> None:
    """A change here changes every image and every network that was ever made."""
    assert torch.randint(1000, (5,), generator=stream(0, "lgd", "cat", 0, 0)).tolist() == [823, 263, 461, 671, 669]


def test_drawing_leaves_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    image_noise(keys(3), "start", LATENT)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_noise_of_an_image_is_bit_equal_alone_in_a_batch_and_in_another_order() -> None:
    whole = image_noise(keys(9), 17, LATENT)
    assert torch.equal(image_noise(keys(9)[4:5], 17, LATENT)[0], whole[4])
    assert torch.equal(image_noise(keys(9)[::-1], 17, LATENT).flip(0), whole)
    assert torch.equal(image_noise(keys(9)[1::2], 17, LATENT), whole[1::2])


def test_every_image_and_every_step_has_noise_of_its_own() -> None:
    drawn = torch.cat([image_noise(keys(4), purpose, LATENT) for purpose in ("start", 49, 48, 1)]).flatten(1)
    alike = torch.corrcoef(drawn) - torch.eye(16)
    assert alike.abs().max() < 0.25  # four standard deviations of the correlation of 256 numbers


@pytest.mark.parametrize("purpose", ["start", 20])
def test_noise_is_standard_normal(purpose: int | str) -> None:
    drawn = image_noise(keys(100), purpose, LATENT)
    assert drawn.dtype == torch.float32
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1) < 0.03
