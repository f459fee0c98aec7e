"""Augmentation as batched tensor operations: parameters are drawn as tables first, then applied to any batch.

Every operation takes the parameters of each image, and none of them draws. A step of training is so a pure function of
weights, images and rows of tables: it does not depend on which networks are trained beside it, nor on the device.
Images are (N, C, H, W); in [0, 1] before `normalize`, standardised after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.channels import channel_statistics
from distillery.data.pixels import room_for
from distillery.data.whitening import Whitening
from distillery.students.presets import DSA
from distillery.students.settings import Recipe

Tables = dict[str, Tensor]

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R 601)."""

LIGHTING_VALUES = (0.2175, 0.0188, 0.0045)
LIGHTING_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Eigenvalues and eigenvectors (rows: red, green, blue) of the colours of ImageNet (AlexNet, 2012)."""

# Constants of DSA (arXiv 2102.08259), as its public code has them.
DSA_SATURATION, DSA_CONTRAST, DSA_CROP, DSA_CUTOUT, DSA_SCALE, DSA_DEGREES = 2.0, 0.5, 0.125, 0.5, 1.2, 15.0


def draw_epoch(recipe: Recipe, count: int, height: int, width: int, draws: torch.Generator) -> Tables:
    """All random numbers of one epoch over `count` images, except those that belong to a batch.

    Args:
        height, width: of the stored images.

    Returns:
        Tables whose first dimension is the place of an image in the epoch: `order` (which image), and the parameters
        of each operation that the recipe has.
    """
    side = recipe.size or height
    tables = {"order": torch.randperm(count, generator=draws)}
    if recipe.strip_shuffle > 1:
        shape = (count, 2, recipe.strip_shuffle)
        tables["strips"] = torch.rand(shape, generator=draws).argsort(-1)
    if recipe.crop_scale:
        tall, wide = (side, side) if recipe.resize_first else (height, width)
        tables["crop"] = draw_crops(count, tall, wide, recipe.crop_scale, recipe.crop_ratio, draws)
    if recipe.shift:
        tables["shift"] = torch.randint(-recipe.shift, recipe.shift + 1, (count, 2), generator=draws)
    if recipe.flip:
        tables["flip"] = torch.rand(count, generator=draws) < 0.5
    if recipe.color_jitter:
        tables["jitter_order"] = torch.rand(count, 3, generator=draws).argsort(-1)
        tables["jitter"] = (2 * torch.rand(count, 3, generator=draws) - 1) * recipe.color_jitter
    if recipe.lighting:
        tables["lighting"] = torch.randn(count, 3, generator=draws) * recipe.lighting
    if recipe.dsa:
        tables["dsa"] = torch.rand(count, 4, generator=draws)
    return tables


def draw_batch(recipe: Recipe, count: int, side: int, draws: torch.Generator) -> Tables:
    """The random numbers that a batch of `count` images shares: CutMix and the operation of DSA.

    Returns:
        `mixed`: whether CutMix acts; `partner` (count,); `box` (top, bottom, left, right); `operation`, a place in
        `recipe.dsa`.
    """
    tables = {}
    if recipe.cutmix:
        tables["mixed"] = torch.rand((), generator=draws) < recipe.cutmix
        tables["partner"] = torch.randperm(count, generator=draws)
        tables["box"] = draw_box(side, side, draws)
    if recipe.dsa:
        tables["operation"] = torch.randint(len(recipe.dsa.split("_")), (), generator=draws)
    return tables


def draw_crops(
    count: int, height: int, width: int, scale: Sequence[float], ratio: Sequence[float], draws: torch.Generator
) -> Tensor:
    """Boxes of RandomResizedCrop, (count, 4): top, left, height, width in pixels.

    Ten attempts at an area share U(scale) and a log-uniform ratio; the first that fits counts, otherwise the largest
    centred box within the range of ratios, as torchvision does it.
    """
    share = scale[0] + (scale[1] - scale[0]) * torch.rand(count, 10, generator=draws, dtype=torch.float64)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + (high - low) * torch.rand(count, 10, generator=draws, dtype=torch.float64)).exp()
    place = torch.rand(count, 10, 2, generator=draws, dtype=torch.float64)
    wide = (share * height * width * aspect).sqrt().round().long()
    tall = (share * height * width / aspect).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.int().argmax(1, keepdim=True)
    wide, tall = wide.gather(1, first)[:, 0], tall.gather(1, first)[:, 0]
    place = place.gather(1, first[..., None].expand(-1, 1, 2))[:, 0]
    top, left = (place[:, 0] * (height - tall + 1)).long(), (place[:, 1] * (width - wide + 1)).long()
    boxes = torch.stack([top, left, tall, wide], 1)
    if width / height < ratio[0]:
        centred = (width, min(round(width / ratio[0]), height))
    elif width / height > ratio[1]:
        centred = (min(round(height * ratio[1]), width), height)
    else:
        centred = (width, height)
    fallback = torch.tensor([(height - centred[1]) // 2, (width - centred[0]) // 2, centred[1], centred[0]])
    return torch.where(fits.any(1, keepdim=True), boxes, fallback)


def draw_box(height: int, width: int, draws: torch.Generator) -> Tensor:
    """The box of CutMix (arXiv 1905.04899): top, bottom, left, right.

    lambda ~ Beta(1, 1), which is uniform; box sides int(side * sqrt(1 - lambda)); the centre is uniform on the pixels;
    the box is clipped to the image.
    """
    side = (1 - torch.rand((), generator=draws).item()) ** 0.5
    tall, wide = int(height * side), int(width * side)
    y = int(torch.randint(height, (), generator=draws))
    x = int(torch.randint(width, (), generator=draws))
    return torch.tensor(
        [max(y - tall // 2, 0), min(y + tall // 2, height), max(x - wide // 2, 0), min(x + wide // 2, width)]
    )


def strip_shuffle(images: Tensor, strips: Tensor) -> Tensor:
    """Permute vertical strips, then horizontal ones (RDED), by orders (N, 2, factor); a remainder stays last."""
    factor = strips.shape[-1]
    for axis, order in ((3, strips[:, 0]), (2, strips[:, 1])):
        length = images.shape[axis]
        width = length // factor
        index = (order[:, :, None] * width + torch.arange(width, device=images.device)).flatten(1)
        rest = torch.arange(factor * width, length, device=images.device).expand(len(images), -1)
        index = torch.cat([index, rest], 1)
        shape = [len(images), 1, 1, 1]
        shape[axis] = length
        images = images.gather(axis, index.view(shape).expand(images.shape))
    return images


def resized_crop(images: Tensor, boxes: Tensor, side: int, mirrored: Tensor | None = None) -> Tensor:
    """Crop each image to its box, resize it to (side, side) and mirror some: two batched matrix products.

    The filter is the antialiased triangle (bilinear) of Pillow and torchvision, restricted to the box. Boxes are
    (N, 4): top, left, height, width; `mirrored` is (N,) bool.
    """
    rows = _triangle(boxes[:, 0], boxes[:, 2], images.shape[-2], side).to(images.dtype)
    columns = _triangle(boxes[:, 1], boxes[:, 3], images.shape[-1], side).to(images.dtype)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    return rows[:, None] @ images @ columns.mT[:, None]


def _triangle(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """(N, side, size): each row the weights of the stored pixels in one pixel of the resized crop."""
    start, length = start.double(), length.double()
    scale = length / side
    reach = scale.clamp(min=1)[:, None, None]
    centre = (start[:, None] + (torch.arange(side, device=start.device, dtype=torch.float64) + 0.5) * scale[:, None])[
        ..., None
    ]
    pixel = torch.arange(size, device=start.device, dtype=torch.float64) + 0.5
    weights = (1 - ((pixel - centre) / reach).abs()).clamp(min=0)
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(-1, keepdim=True)


def shift(images: Tensor, offsets: Tensor, fill: float = 0.0) -> Tensor:
    """Move each image by whole pixels, down and to the right, by offsets (N, 2); `fill` comes in."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - offsets[:, :1]
    columns = torch.arange(width, device=images.device) - offsets[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    index = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    rows, columns = rows.clamp(0, height - 1)[:, None, :, None], columns.clamp(0, width - 1)[:, None, None, :]
    return torch.where(inside, images[index, channel, rows, columns], fill)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror some images left to right; mirrored: (N,) bool."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def color_jitter(images: Tensor, amounts: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast and saturation, in an order of each image's own, without clamping (IDC's public code).

    brightness x (1 - a); contrast x + a (m - x) with m the mean of grey; saturation x + a (grey - x). On grey images
    the last changes nothing. Amounts (N, 3) are in this order; `order` (N, 3) is that of their application.
    """
    weights = torch.tensor(GREY if images.shape[1] == 3 else (1.0,), device=images.device, dtype=images.dtype)
    for place in range(3):
        kind = order[:, place]
        amount = amounts.gather(1, kind[:, None])[:, :, None, None].to(images.dtype)
        grey = (images * weights[:, None, None]).sum(1, keepdim=True)
        target = torch.where((kind == 1)[:, None, None, None], grey.mean((2, 3), keepdim=True), grey)
        target = torch.where((kind == 0)[:, None, None, None], torch.zeros_like(target), target)
        images = images + amount * (target - images)
    return images


def lighting(images: Tensor, amounts: Tensor) -> Tensor:
    """Add V (a * lambda) to the colours of each image (AlexNet), amounts a (N, 3); grey images stay as they are."""
    if images.shape[1] != 3:
        return images
    vectors = torch.tensor(LIGHTING_VECTORS, device=images.device, dtype=images.dtype)
    values = torch.tensor(LIGHTING_VALUES, device=images.device, dtype=images.dtype)
    return images + (amounts.to(images.dtype) * values @ vectors.T)[:, :, None, None]


def cutmix(images: Tensor, partner: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """CutMix with one box per batch: the images, and (N,) the share of each that is its own.

    Each box, (N, 4) or (4,) top, bottom, left, right, is filled from the image `partner` (N,).
    """
    height, width = images.shape[-2:]
    top, bottom, left, right = box.expand(len(images), 4).unbind(1)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((rows >= top[:, None]) & (rows < bottom[:, None]))[:, None, :, None]
    inside = inside & ((columns >= left[:, None]) & (columns < right[:, None]))[:, None, None, :]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return torch.where(inside, images[partner], images), share


def dsa(images: Tensor, operation: str, uniform: Tensor, *, align_corners: bool = True) -> Tensor:
    """One operation of differentiable siamese augmentation on standardised images (zero is the mean colour).

    Args:
        operation: one of `DSA`.
        uniform: (N, 4), U(0, 1), what the parameters of each image are made of.
        align_corners: of scale and rotate: LD3M's code aligns them, the original of DSA does not.

    Raises:
        ValueError: no such operation.
    """
    if operation not in DSA:
        raise ValueError(f"dsa: no operation {operation!r}; allowed: {', '.join(DSA)}")
    first, second, third = (uniform[:, place, None, None, None].to(images.dtype) for place in range(3))
    height, width = images.shape[-2:]
    if operation == "color":
        images = images + (first - 0.5)
        mean = images.mean(1, keepdim=True)
        images = (images - mean) * (second * DSA_SATURATION) + mean
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * (third + DSA_CONTRAST) + mean
    if operation == "crop":
        reach = torch.tensor([int(height * DSA_CROP + 0.5), int(width * DSA_CROP + 0.5)], device=images.device)
        return shift(images, (uniform[:, :2] * (2 * reach + 1)).long() - reach)
    if operation == "cutout":
        tall, wide = int(height * DSA_CUTOUT + 0.5), int(width * DSA_CUTOUT + 0.5)
        # The centre is uniform over the places of the square's cut edge too, which an even side has one more of.
        y = (uniform[:, 0] * (height + 1 - tall % 2)).long()[:, None] - tall // 2
        x = (uniform[:, 1] * (width + 1 - wide % 2)).long()[:, None] - wide // 2
        rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        inside = ((rows >= y) & (rows < y + tall))[:, None, :, None]
        inside = inside & ((columns >= x) & (columns < x + wide))[:, None, None, :]
        return images * ~inside
    if operation == "flip":
        return flip(images, uniform[:, 0] < 0.5)
    zeros = torch.zeros_like(uniform[:, 0])
    if operation == "scale":
        low, high = 1 / DSA_SCALE, DSA_SCALE
        across, down = (low + uniform[:, place] * (high - low) for place in range(2))
        matrix = torch.stack([torch.stack([across, zeros, zeros], 1), torch.stack([zeros, down, zeros], 1)], 1)
    else:
        angle = (uniform[:, 0] * 2 - 1) * math.radians(DSA_DEGREES)
        cosine, sine = angle.cos(), angle.sin()
        matrix = torch.stack([torch.stack([cosine, -sine, zeros], 1), torch.stack([sine, cosine, zeros], 1)], 1)
    grid = F.affine_grid(matrix.to(images.dtype), list(images.shape), align_corners=align_corners)
    if images.is_cuda:
        return warp(images, grid, align_corners=align_corners)
    return F.grid_sample(images, grid, align_corners=align_corners)


def warp(images: Tensor, grid: Tensor, *, align_corners: bool) -> Tensor:
    """`F.grid_sample` (bilinear, zeros outside) at (N, H, W, 2), x and y from -1 to 1, by gathering four neighbours.

    The gradient of torch's own kernel adds up in any order on a GPU; that of indexing does not.
    """
    height, width = images.shape[-2:]
    sides = torch.tensor([width, height], device=images.device, dtype=grid.dtype)
    places = (grid + 1) / 2 * (sides - 1) if align_corners else ((grid + 1) * sides - 1) / 2
    corner = places.floor()
    share = places - corner
    index = torch.arange(len(images), device=images.device)[:, None, None]
    warped = torch.zeros((), device=images.device, dtype=images.dtype)
    for right in (0, 1):
        for down in (0, 1):
            x, y = corner[..., 0].long() + right, corner[..., 1].long() + down
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            weight = (share[..., 0] if right else 1 - share[..., 0]) * (share[..., 1] if down else 1 - share[..., 1])
            values = images.permute(0, 2, 3, 1)[index, y.clamp(0, height - 1), x.clamp(0, width - 1)]
            warped = warped + values * (weight * inside)[..., None]
    return warped.permute(0, 3, 1, 2)


def resize(images: Tensor, side: int) -> Tensor:
    """Whole uint8 images to (side, side) uint8, antialiased bilinear, rounded as Pillow rounds."""
    if images.shape[-2:] == (side, side):
        return images
    if images.device.type != "cpu":
        return _resized(images, side)
    resized = room_for((*images.shape[:2], side, side))
    for start in range(0, len(images), 1024):
        resized[start : start + 1024] = _resized(images[start : start + 1024], side)
    return resized


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] != images.shape[-2]:
        short = min(images.shape[-2:])
        tall, wide = (round(length * side / short) for length in images.shape[-2:])
        images = F.interpolate(images, (tall, wide), mode="bilinear", antialias=True)
        top, left = (tall - side) // 2, (wide - side) // 2
        return images[..., top : top + side, left : left + side]
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def test_images(images: Tensor, recipe: Recipe) -> Tensor:
    """Stored images (N, C, H, W) uint8 as networks are tested on them: resized, then cropped from the centre."""
    side = recipe.size or images.shape[-1]
    resized = resize(images, round(side * recipe.test_scale)) if recipe.size or recipe.test_scale != 1 else images
    off = (resized.shape[-1] - side) // 2
    return resized[..., off : off + side, off : off + side]


def augment(
    stored: Tensor,
    rows: Tables,
    batch: Tables,
    recipe: Recipe,
    mean: Tensor,
    std: Tensor,
    whitening: Whitening | None = None,
) -> Tensor:
    """A batch as a network sees it in training, without CutMix.

    Args:
        stored: (N, C, H, W) uint8, of the batch.
        rows: the rows of `draw_epoch` for the batch.
        batch: of `draw_batch`.
        mean, std: (C, 1, 1), of images in [0, 1]; with `svhn_mean` SVHN's mean stands in the place of the first.
        whitening: of standardised images; DSA acts on whitened ones.

    Returns:
        Standardised images, (N, C, size, size), fp32.
    """
    side = recipe.size or stored.shape[-1]
    images = stored.to(torch.float32) / 255
    if "strips" in rows:
        images = strip_shuffle(images, rows["strips"])
    if "crop" in rows:
        images = resized_crop(images, rows["crop"], side, rows.get("flip"))
    else:
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        if "flip" in rows:
            images = flip(images, rows["flip"])
    if "shift" in rows:
        images = shift(images, rows["shift"])
    if "jitter" in rows:
        images = color_jitter(images, rows["jitter"], rows["jitter_order"])
    if "lighting" in rows:
        images = lighting(images, rows["lighting"])
    images = (images - (mean_of_svhn(mean) if recipe.svhn_mean else mean)) / std
    if whitening is not None:
        images = whitening(images)
    if "dsa" in rows:
        operation = recipe.dsa.split("_")[int(batch["operation"])]
        images = dsa(images, operation, rows["dsa"], align_corners=recipe.dsa_align_corners)
    return images


def mean_of_svhn(mean: Tensor) -> Tensor:
    """The mean of SVHN in the place of a mean (C, 1, 1), as the public code of LD3M has it for generated images."""
    own = channel_statistics("svhn", len(mean))[0]
    return torch.as_tensor(own, device=mean.device, dtype=mean.dtype).expand(len(mean))[:, None, None]
