"""What augmentation promises: the operations of the reference transforms, with parameters drawn as they draw them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from distillery.data.pixels import scaled, scaled_by_products
from distillery.streams import stream
from distillery.students import augment
from distillery.students.presets import DSA
from distillery.students.settings import Recipe

SIDE = 24


def images(count: int = 6, channels: int = 3, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.rand(count, channels, height, width, generator=stream("images", height, width))


def recipe(**options: Any) -> Recipe:
    return Recipe(**{"epochs": 1, "batch_size": 8, "learning_rate": 0.1, **options})


# ---- operations against their references, with the same parameters ---------------------------------------------------


@pytest.mark.parametrize("side", [16, 24, 40])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_resized_crop_is_that_of_torchvision(side: int, mirrored: bool) -> None:
    stored = images(20, height=32, width=28)
    boxes = augment.draw_crops(20, 32, 28, [0.2, 1.0], [3 / 4, 4 / 3], stream("crops"))
    flips = torch.arange(20) % 2 == (0 if mirrored else 2)
    found = augment.resized_crop(stored, boxes, side, flips if mirrored else None)
    for image, box, flipped, ours in zip(stored, boxes.tolist(), flips.tolist(), found, strict=True):
        top, left, height, width = box
        theirs = reference.resized_crop(image, top, left, height, width, [side, side], antialias=True)
        torch.testing.assert_close(ours, theirs.flip(2) if flipped else theirs, atol=2e-5, rtol=0)


def test_color_jitter_follows_its_formulas_in_the_order_of_each_image() -> None:
    stored, draws = images(30).double(), stream("jitter")
    amounts = (2 * torch.rand(30, 3, generator=draws) - 1) * 0.4
    order = torch.rand(30, 3, generator=draws).argsort(-1)
    found = augment.color_jitter(stored, amounts, order)
    for image, amount, turns, ours in zip(stored, amounts.double(), order.tolist(), found, strict=True):
        expected = image
        for kind in turns:
            grey = 0.299 * expected[0] + 0.587 * expected[1] + 0.114 * expected[2]
            if kind == 0:
                expected = expected * (1 - amount[0])
            elif kind == 1:
                expected = expected + amount[1] * (grey.mean() - expected)
            else:
                expected = expected + amount[2] * (grey - expected)
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    assert len({tuple(turns) for turns in order.tolist()}) == 6


@pytest.mark.parametrize(
    ("kind", "theirs"), [(0, "adjust_brightness"), (1, "adjust_contrast"), (2, "adjust_saturation")]
)
def test_each_part_of_color_jitter_is_that_of_torchvision_where_nothing_is_clamped(kind: int, theirs: str) -> None:
    """torchvision's factor is 1 - a; its images are kept in the middle, where it does not clamp."""
    stored = 0.4 + 0.2 * images(4)
    amounts = torch.zeros(4, 3)
    amounts[:, kind] = torch.tensor([-0.3, -0.1, 0.2, 0.35])
    found = augment.color_jitter(stored, amounts, torch.tensor([[0, 1, 2]]).expand(4, 3))
    for image, amount, ours in zip(stored, amounts[:, kind].tolist(), found, strict=True):
        # torchvision's grey is rounded to 0.2989, 0.587, 0.114
        torch.testing.assert_close(ours, getattr(reference, theirs)(image, 1 - amount), atol=1e-4, rtol=0)


def test_color_jitter_does_not_clamp() -> None:
    white = torch.ones(1, 3, 2, 2)
    found = augment.color_jitter(white, torch.tensor([[-0.4, 0.0, 0.0]]), torch.tensor([[0, 1, 2]]))
    assert found.unique().tolist() == pytest.approx([1.4])


def test_lighting_adds_the_principal_colours() -> None:
    stored, amounts = images(5).double(), torch.randn(5, 3, generator=stream("lighting")).double() * 0.1
    found = augment.lighting(stored, amounts)
    for image, amount, ours in zip(stored, amounts, found, strict=True):
        shift = [
            sum(augment.LIGHTING_VECTORS[channel][k] * float(amount[k]) * augment.LIGHTING_VALUES[k] for k in range(3))
            for channel in range(3)
        ]
        torch.testing.assert_close(ours, image + torch.tensor(shift).double()[:, None, None], atol=1e-6, rtol=0)


def test_grey_images_have_no_principal_colours() -> None:
    stored = images(3, channels=1)
    assert torch.equal(augment.lighting(stored, torch.ones(3, 3)), stored)


def test_a_shift_moves_each_image_by_its_offset_and_black_comes_in() -> None:
    stored = images(9)
    offsets = torch.tensor([[down, right] for down in (-3, 0, 5) for right in (-7, 0, 2)])
    found = augment.shift(stored, offsets)
    for image, (down, right), ours in zip(stored, offsets.tolist(), found, strict=True):
        theirs = reference.affine(image, 0.0, [right, down], 1.0, [0.0, 0.0])
        assert torch.equal(ours, theirs)


def test_a_flip_mirrors_the_images_that_it_is_told_to() -> None:
    stored, mirrored = images(4), torch.tensor([True, False, False, True])
    found = augment.flip(stored, mirrored)
    for image, flipped, ours in zip(stored, mirrored.tolist(), found, strict=True):
        assert torch.equal(ours, reference.hflip(image) if flipped else image)


def test_strips_keep_every_pixel_and_with_two_strips_swap_the_halves() -> None:
    stored = images(4)
    swapped, kept = torch.tensor([1, 0]), torch.tensor([0, 1])
    strips = torch.stack([torch.stack([first, second]) for first in (swapped, kept) for second in (swapped, kept)])
    found = augment.strip_shuffle(stored, strips)
    half = SIDE // 2
    for image, (vertical, horizontal), ours in zip(stored, strips.tolist(), found, strict=True):
        expected = torch.cat([image[..., half:], image[..., :half]], 2) if vertical == [1, 0] else image
        expected = torch.cat([expected[:, half:], expected[:, :half]], 1) if horizontal == [1, 0] else expected
        assert torch.equal(ours, expected)


def test_what_a_number_of_strips_does_not_divide_stays_at_the_end() -> None:
    stored = images(2, height=10, width=10)
    found = augment.strip_shuffle(stored, torch.tensor([[[2, 0, 1], [0, 1, 2]]]).expand(2, 2, 3))
    assert torch.equal(found[..., 9:], stored[..., 9:])
    assert torch.equal(found[..., :9], torch.cat([stored[..., 6:9], stored[..., 0:6]], 3))


@pytest.mark.parametrize("height", [SIDE, 9])
def test_the_share_of_cutmix_is_the_share_of_its_pixels(height: int) -> None:
    stored = torch.arange(8.0)[:, None, None, None].expand(8, 2, height, SIDE)
    shares = []
    for number in range(60):
        draws = stream("cutmix", number)
        partner, box = torch.randperm(8, generator=draws), augment.draw_box(height, SIDE, draws)
        mixed, share = augment.cutmix(stored, partner, box)
        for row, other in enumerate(partner.tolist()):
            assert set(mixed[row].unique().tolist()) <= {row, other}
            if other != row:
                assert (mixed[row] == row).double().mean().item() == pytest.approx(float(share[row]))
        shares.append(float(share[0]))
    assert 0 <= min(shares) < 0.5
    assert 0.9 < max(shares) <= 1


def test_a_box_of_cutmix_is_a_rectangle_that_the_whole_batch_shares() -> None:
    stored = torch.arange(8.0)[:, None, None, None].expand(8, 1, SIDE, SIDE)
    draws = stream("cutmix", 3)
    partner, box = torch.randperm(8, generator=draws), augment.draw_box(SIDE, SIDE, draws)
    mixed, _ = augment.cutmix(stored, partner, box)
    top, bottom, left, right = box.tolist()
    for row in range(8):
        if partner[row] != row:
            inside = mixed[row, 0] == partner[row]
            assert inside[top:bottom, left:right].all()
            assert int(inside.sum()) == (bottom - top) * (right - left)


# ---- DSA -------------------------------------------------------------------------------------------------------------


def test_dsa_on_colours_follows_its_formulas() -> None:
    stored, uniform = images(5).double() - 0.5, torch.rand(5, 4, generator=stream("dsa"))
    found = augment.dsa(stored, "color", uniform)
    for image, (bright, saturated, contrast, _), ours in zip(stored, uniform.double(), found, strict=True):
        expected = image + (bright - 0.5)
        mean = expected.mean(0, keepdim=True)
        expected = (expected - mean) * (2 * saturated) + mean
        expected = (expected - expected.mean()) * (contrast + 0.5) + expected.mean()
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_dsa_shifts_by_at_most_an_eighth_and_reaches_both_ends() -> None:
    reach = int(SIDE * 0.125 + 0.5)
    ends = torch.tensor([[0.0, 0.0, 0, 0], [0.999999, 0.999999, 0, 0], [0.5, 0.5, 0, 0]])
    stored = images(3)
    found = augment.dsa(stored, "crop", ends)
    for image, (down, right), ours in zip(stored, [(-reach, -reach), (reach, reach), (0, 0)], found, strict=True):
        assert torch.equal(ours, reference.affine(image, 0.0, [right, down], 1.0, [0.0, 0.0]))


def test_dsa_cuts_out_a_square_of_half_the_side_that_may_leave_the_image() -> None:
    stored = torch.ones(400, 1, SIDE, SIDE)
    found = augment.dsa(stored, "cutout", torch.rand(400, 4, generator=stream("cutout")))
    gone = (found == 0).sum((1, 2, 3))
    assert int(gone.max()) == (SIDE // 2) ** 2
    assert int(gone.min()) < (SIDE // 2) ** 2
    assert set(found.unique().tolist()) == {0.0, 1.0}


def test_dsa_rotates_and_scales_as_torchvision_does_within_its_limits() -> None:
    """torchvision turns about the same centre; align_corners moves its grid by less than a pixel's tenth here."""
    smooth = torch.stack([torch.sin(torch.linspace(0, 3, SIDE))[:, None] * torch.cos(torch.linspace(0, 3, SIDE))[None]])
    stored = smooth.expand(3, 1, SIDE, SIDE)
    uniform = torch.tensor([[0.0], [0.5], [1.0]]).expand(3, 4)
    found = augment.dsa(stored, "rotate", uniform)
    torch.testing.assert_close(found[1], stored[1], atol=1e-5, rtol=0)
    inner = slice(6, -6)
    for angle, ours in ((-15.0, found[0]), (15.0, found[2])):
        theirs = reference.rotate(smooth, angle, interpolation=reference.InterpolationMode.BILINEAR)
        torch.testing.assert_close(ours[..., inner, inner], theirs[..., inner, inner], atol=0.02, rtol=0)
    scaled = augment.dsa(stored, "scale", uniform)
    far = SIDE - 1
    row = scaled[2, 0, far // 2]
    assert (row[:2] == 0).all()  # 1.2 times the grid: what lies outside comes in
    assert (scaled[0] != 0).any()


def test_dsa_refuses_an_operation_that_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="no operation 'blur'; allowed: color, crop"):
        augment.dsa(images(1), "blur", torch.zeros(1, 4))


@pytest.mark.parametrize("operation", DSA)
def test_dsa_is_differentiable_in_the_images(operation: str) -> None:
    stored = images(2).requires_grad_()
    augment.dsa(stored, operation, torch.full((2, 4), 0.3)).square().sum().backward()
    assert stored.grad is not None
    assert float(stored.grad.abs().sum()) > 0


# ---- distributions against torchvision's sampler ---------------------------------------------------------------------


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    count, scale, ratio = 20_000, [0.5, 1.0], [3 / 4, 4 / 3]
    ours = augment.draw_crops(count, 64, 64, scale, ratio, stream("crops")).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        canvas = torch.zeros(1, 64, 64)
        theirs = torch.tensor([RandomResizedCrop.get_params(canvas, scale, ratio) for _ in range(count)]).double()
    for measure in (
        lambda boxes: boxes[:, 2] * boxes[:, 3],
        lambda boxes: (boxes[:, 3] / boxes[:, 2]).log(),
        lambda boxes: boxes[:, 0],
        lambda boxes: boxes[:, 1],
        lambda boxes: (boxes[:, 2] * boxes[:, 3]).square(),
    ):
        one, other = measure(ours), measure(theirs)
        error = (one.var() / count + other.var() / count).sqrt()
        assert abs(float(one.mean() - other.mean())) < 4 * float(error)


def test_a_crop_that_never_fits_falls_back_to_the_centre() -> None:
    boxes = augment.draw_crops(50, 10, 100, [1.0, 1.0], [3 / 4, 4 / 3], stream("crops"))
    canvas = torch.zeros(1, 10, 100)
    assert boxes.unique(dim=0).tolist() == [list(RandomResizedCrop.get_params(canvas, [1.0, 1.0], [3 / 4, 4 / 3]))]


def test_tables_have_the_ranges_and_spreads_of_the_recipe() -> None:
    count = 20_000
    tables = augment.draw_epoch(
        recipe(color_jitter=0.4, lighting=0.1, flip=True, shift=2, size=SIDE), count, SIDE, SIDE, stream("tables")
    )
    assert sorted(tables["order"].tolist()) == [*range(count)]
    amounts = tables["jitter"].double()
    assert float(amounts.abs().max()) <= 0.4
    assert float(amounts.std()) == pytest.approx(0.8 / math.sqrt(12), rel=0.02)
    assert float(tables["lighting"].std()) == pytest.approx(0.1, rel=0.02)
    assert float(tables["flip"].double().mean()) == pytest.approx(0.5, abs=0.015)
    assert tables["shift"].unique().tolist() == [-2, -1, 0, 1, 2]
    turns, times = tables["jitter_order"].unique(dim=0, return_counts=True)
    assert len(turns) == 6
    assert float(times.double().std()) < 4 * math.sqrt(count / 6)


def test_cutmix_acts_on_its_share_of_the_batches() -> None:
    draws = stream("batches")
    acted = [bool(augment.draw_batch(recipe(cutmix=0.3), 4, SIDE, draws)["mixed"]) for _ in range(2000)]
    assert sum(acted) / 2000 == pytest.approx(0.3, abs=0.04)


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_without_augmentation_an_image_is_only_standardised() -> None:
    stored = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8, generator=stream("stored"))
    mean, std = torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.2)
    found = augment.augment(stored, {}, {}, recipe(), mean, std)
    torch.testing.assert_close(found, (stored / 255 - 0.4) / 0.2)


def test_test_images_are_resized_whole_and_cropped_from_the_centre() -> None:
    stored = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=stream("stored"))
    found = augment.test_images(stored, recipe(size=56, test_scale=64 / 56))
    assert torch.equal(found, stored[..., 4:60, 4:60])
    halved = augment.test_images(stored, recipe(size=32))
    theirs = reference.resize(stored, [32, 32], antialias=True)
    assert halved.shape[-1] == 32
    assert int((halved.int() - theirs.int()).abs().max()) <= 1


@pytest.mark.parametrize(("height", "width", "side"), [(24, 24, 16), (24, 24, 41), (24, 30, 13)])
def test_resampling_by_products_is_that_of_torch(height: int, width: int, side: int) -> None:
    given = torch.randn(2, 3, height, width, dtype=torch.float64, generator=stream("given")).requires_grad_()
    mine, theirs = scaled_by_products(given, side), scaled(given, side)
    assert theirs.shape == (2, 3, side, side)
    assert torch.allclose(mine, theirs, atol=1e-12)
    towards = torch.randn(mine.shape, dtype=torch.float64, generator=stream("towards"))
    one, other = (torch.autograd.grad(made, given, towards)[0] for made in (mine, theirs))
    assert torch.allclose(one, other, atol=1e-12)
