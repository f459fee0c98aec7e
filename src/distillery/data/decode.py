"""One image of any format, size and mode, made into a square of a given side, or refused with a reason."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from distillery.data.settings import Filter
from distillery.data.signatures import RAW_IN_TIFF, described, without_metadata
from distillery.errors import Unusable
from distillery.storage.images import encode_png

Channels = Literal["grey", "rgb"]
Crop = Literal["center", "stretch", "pad"]

FILTERS: dict[Filter, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
"""Pillow's, which are antialiased."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""What is read. Pillow knows more, among them EPS, which it hands to an external program."""

KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
"""What every reader of image tables shows: such a file is kept byte for byte where its picture fits as it is."""


class Fitted(NamedTuple):
    """An image of the wanted size and mode.

    Attributes:
        content: encoded.
        digest: of its pixels by the bicubic filter, 64 bits: equal where all pixels are, whatever filter was asked
            for, so that one picture is found in two splits that are resized differently.
        look: its perceptual hash, 64 bits, of which few differ where two images look alike; 0 unless it is asked for.
    """

    content: bytes
    digest: int
    look: int


def pixels_digest(pixels: np.ndarray) -> int:
    """64 bits that are equal where all pixels of two images, (C, H, W) uint8, are."""
    return int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest())


def fit_image(
    content: bytes,
    *,
    resolution: int,
    channels: Channels,
    crop: Crop,
    max_pixels: int,
    resample: Filter = "bicubic",
) -> bytes:
    """The encoded image of `fitted`."""
    return fitted(
        content, resolution=resolution, channels=channels, crop=crop, max_pixels=max_pixels, resample=resample
    ).content


def fitted(
    content: bytes,
    *,
    resolution: int,
    channels: Channels,
    crop: Crop,
    max_pixels: int,
    look: bool = False,
    resample: Filter = "bicubic",
) -> Fitted:
    """An encoded image as an encoded image of `resolution` x `resolution` pixels, 8 bit, grey or RGB.

    A still PNG, JPEG or WebP that is so already returns unchanged; any other becomes a PNG. Colour profiles are not
    applied, as torchvision does not. A PNG whose metadata cannot be read returns without them.

    Raises:
        Unusable: it is empty, damaged, no image, animated, or has more than `max_pixels` pixels.
    """
    if not content:
        raise Unusable("zero bytes")
    options = (resolution, "L" if channels == "grey" else "RGB", crop, max_pixels, look, resample)
    try:
        return _fitted(content, *options)
    except Exception as error:  # whatever a decoder stumbles over, a run of a million images goes on
        failure = error
    if not isinstance(failure, Unusable) and (bare := without_metadata(content)) != content:
        try:
            return _fitted(bare, *options)
        except Exception as error:
            failure = error
    raise _unusable(failure, content, max_pixels) from failure


def _fitted(
    content: bytes, resolution: int, mode: str, crop: Crop, max_pixels: int, look: bool, resample: Filter
) -> Fitted:
    """`fitted`, or whatever Pillow raises."""
    with _pillow_limit(None), Image.open(io.BytesIO(content), formats=_known_formats()) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise Unusable(f"{width} x {height} pixels are more than dataset.max_pixels = {max_pixels}")
        with _pillow_limit(max_pixels):
            # A phone's MPO is a JPEG followed by a preview or a second eye's view: its first picture is the image.
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if _is_raw(image, content):
                raise Unusable(RAW_IN_TIFF)
            if frames > 1:
                raise Unusable(f"animated or of several pages: {frames} frames")
            if image.format == "PNG":
                with Image.open(io.BytesIO(content), formats=["PNG"]) as again:
                    again.verify()  # checksums, which decoding skips
            image.load()
            _scale_transparency(image, content)
            kept = _fits(image, content, mode, resolution)
            whole = image if kept else _in_mode(_upright(image), mode)
            square = image if kept else _square(whole, resolution, crop, resample)
            encoded = content if kept else encode_png(_planes(square))
            told = square if kept or resample == "bicubic" else _square(whole, resolution, crop, "bicubic")
            return Fitted(encoded, pixels_digest(_planes(told)), _look(told) if look else 0)


def _unusable(failure: Exception, content: bytes, max_pixels: int) -> Unusable:
    """Why an image cannot be used."""
    if isinstance(failure, Unusable):
        return failure
    if isinstance(failure, UnidentifiedImageError):
        return Unusable(described(content))
    if isinstance(failure, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return Unusable(f"unpacks to more pixels than dataset.max_pixels = {max_pixels}")
    text = in_words(failure)
    return Unusable(f"{'truncated' if 'truncated' in text.lower() else 'damaged'}: {text}")


def _is_raw(image: Image.Image, content: bytes) -> bool:
    """Whether a TIFF is the raw image of a camera, whose first picture is a preview (NEF, ARW, CR2) or a DNG."""
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and (content[8:10] == b"CR" or tags.get(254, 0) == 1 or 50706 in tags)


def _scale_transparency(image: Image.Image, content: bytes) -> None:
    """Bring the transparent value of a grey or RGB PNG of another depth than 8 bits to that of Pillow's pixels."""
    key = image.info.get("transparency")
    if image.format == "PNG" and image.mode in ("L", "RGB") and key is not None and (depth := content[24]) != 8:
        values = [value >> 8 if depth == 16 else value * 255 // (2**depth - 1) for value in np.atleast_1d(key).tolist()]
        image.info["transparency"] = values[0] if image.mode == "L" else tuple(values)


@contextmanager
def _pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Pillow's own guard against decompression bombs at the user's limit; its other warnings are of no use here."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def in_words(error: Exception) -> str:
    """An error's first line, without addresses in memory, which differ from run to run."""
    text = re.sub(r" ?<[^>]* at 0x[0-9a-f]+>", "", str(error)).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 also where the EXIF block is damaged, as the picture itself need not be."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # Pillow's parser raises whatever the damaged bytes lead it to
        return 1
    return found if found in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _fits(image: Image.Image, content: bytes, mode: str, resolution: int) -> bool:
    """Whether an encoded image may stay as it is."""
    return (
        image.format in KEPT_FORMATS
        and image.size == (resolution, resolution)
        and image.mode == mode
        and not image.has_transparency_data
        and _orientation(image) == 1
        # The 25th byte of a PNG is its bit depth. Pillow calls 16-bit colour RGB too, other readers keep the 16 bits.
        and (image.format != "PNG" or content[24] == 8)
    )


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """An image of any kind as 8-bit grey (L) or RGB.

    The field loads images with torchvision's `convert("RGB")`, and for images without transparency this is the same.
    With transparency, `convert` uncovers the colours under transparent pixels, which no viewer shows and which are
    whatever an editor left there. So the image is laid on black, the colour that `pad` adds too; an opaque alpha
    channel or palette changes nothing. It is done before resampling, so that hidden colours cannot bleed over edges.
    """
    if image.mode == "F":
        raise Unusable("floating-point pixels, whose range is not known")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16 bits at 255, which turns nearly all of an image white.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Unusable("32-bit integer pixels, whose range is not known")
        values = np.where(values == image.info.get("transparency"), 0, values)
        return Image.fromarray(((values.astype(np.int32) + 128) // 257).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", visible.size, (0, 0, 0, 255)), visible)
    return image.convert(mode)


def _square(image: Image.Image, resolution: int, crop: Crop, resample: Filter) -> Image.Image:
    """An image as a square of `resolution` pixels a side, resampled by an antialiased filter where it must be.

    `center` is torchvision's `Resize` and `CenterCrop` up to their rounding: only the square is computed, so a strip
    of 20 x 100,000 pixels needs no more memory than any other image.
    """
    width, height = image.size
    size, kernel = (resolution, resolution), FILTERS[resample]
    if crop == "center":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        return image.crop(box) if side == resolution else image.resize(size, kernel, box)
    if crop == "stretch":
        return image.resize(size, kernel)
    scale = resolution / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new(image.mode, size)
    square.paste(image.resize(inner, kernel), ((resolution - inner[0]) // 2, (resolution - inner[1]) // 2))
    return square


def _look(image: Image.Image) -> int:
    """The difference hash: whether each of 8 x 8 places is brighter than its right neighbour."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(small[:, :-1] > small[:, 1:]).tobytes())


def _planes(image: Image.Image) -> np.ndarray:
    """(C, H, W) uint8."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
