"""Image files of every kind that a data set may hold, whole and broken."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def picture(side: int = 40, height: int | None = None, seed: int = 0) -> Image.Image:
    """A smooth RGB picture that differs from seed to seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, height or side), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image as a file of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    """Two frames."""
    frames = [picture(seed=seed) for seed in (1, 2)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header promises `side` x `side` pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def flipped(content: bytes, position: int) -> bytes:
    """The file with one byte changed."""
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def _truncated(kind: str, mode: str = "RGB") -> bytes:
    content = encoded(picture(64).convert(mode), kind)
    return content[: len(content) // 2]


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated JPEG": (lambda: _truncated("JPEG"), "truncated"),
    "truncated PNG": (lambda: _truncated("PNG"), "damaged|truncated"),
    "truncated WebP": (lambda: _truncated("WEBP"), "damaged|truncated|cut off"),
    "cut off in the header": (lambda: encoded(picture())[:12], "not an image"),
    "PNG with a wrong checksum": (lambda: flipped(encoded(picture()), -20), "damaged"),
    "text": (lambda: b"<html>404 Not Found</html>", "not an image"),
    "zero bytes": (lambda: b"", "zero bytes"),
    "decompression bomb": (lambda: bomb(60_000), "60000 x 60000 pixels are more than dataset.max_pixels"),
    "more pixels than allowed": (lambda: encoded(picture(210)), "210 x 210 pixels are more than dataset.max_pixels"),
    "animated GIF": (lambda: animation("GIF"), "2 frames"),
    "animated PNG": (lambda: animation("PNG"), "2 frames"),
    "animated WebP": (lambda: animation("WEBP"), "2 frames"),
    "TIFF of two pages": (lambda: animation("TIFF"), "2 frames"),
    "floating-point TIFF": (lambda: encoded(picture().convert("F"), "TIFF"), "range is not known"),
    "truncated CMYK JPEG": (lambda: _truncated("JPEG", "CMYK"), "damaged|truncated"),
}
"""Name -> (maker of the file, what its reason says), for a limit of 200 x 200 pixels."""
