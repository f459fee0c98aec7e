"""Metadata never costs an image; transparency is black in every mode; a file that is not read says what it is."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from broken_images import encoded, flipped, picture
from PIL import Image, TiffImagePlugin

from distillery.data.decode import fit_image
from distillery.data.external import read_external
from distillery.data.settings import Dataset, Folder
from distillery.errors import BadInput, Unusable
from distillery.storage.images import decode_image

SIDE = 32
PLAIN = picture(SIDE)


def fit(content: bytes, channels: str = "rgb", side: int = SIDE) -> np.ndarray:
    """The pixels of what is made of a file, (C, H, W); read without the care that the file itself may need."""
    return decode_image(fit_image(content, resolution=side, channels=channels, crop="stretch", max_pixels=10**6))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, image: Image.Image = PLAIN, last: bool = False) -> bytes:
    """An image with chunks before its pixels, or behind them."""
    content = encoded(image)
    place = content.index(b"IEND" if last else b"IDAT") - 4
    return content[:place] + b"".join(chunks) + content[place:]


LONG_TEXT = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 2_000_000))
MANY_TEXTS = [chunk(b"zTXt", b"C%d\0\0" % number + zlib.compress(b"y" * 1_000_000)) for number in range(70)]

METADATA = {
    "a compressed text of 2 MB": png(LONG_TEXT),
    "behind the pixels": png(LONG_TEXT, last=True),
    "70 texts of 1 MB": png(*MANY_TEXTS),
    "an international text of 2 MB": png(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000))),
    "a colour profile of 2 MB": png(chunk(b"iCCP", b"lut\0\0" + zlib.compress(bytes(2_000_000)))),
    "a colour profile of rubbish": png(chunk(b"iCCP", b"icc\0\0garbage")),
    "a text of rubbish": png(chunk(b"zTXt", b"Comment\0\0garbage")),
    "a text with a wrong checksum": png(chunk(b"tEXt", b"Comment\0hello")[:-1] + b"?"),
    "a time of no length": png(chunk(b"tIME", b"")),
    "a resolution cut off": png(chunk(b"pHYs", b"\0")),
}


@pytest.mark.parametrize("what", METADATA)
def test_metadata_do_not_cost_a_png(what: str) -> None:
    np.testing.assert_array_equal(fit(METADATA[what]), fit(encoded(PLAIN)))


def test_what_turns_a_png_is_kept_where_other_metadata_are_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = fit(encoded(PLAIN, exif=exif))
    block = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    np.testing.assert_array_equal(fit(png(block, LONG_TEXT)), turned)
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    np.testing.assert_array_equal(fit(png(chunk(b"iTXt", xmp), LONG_TEXT)), turned)
    assert not np.array_equal(turned, fit(encoded(PLAIN)))


def test_a_png_without_its_pixels_is_damaged_whatever_its_metadata() -> None:
    with pytest.raises(Unusable, match=r"damaged|truncated"):
        fit(flipped(png(LONG_TEXT), -20))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF"])
def test_large_metadata_do_not_cost_other_formats(kind: str) -> None:
    options = {"tiffinfo": {270: "z" * 3_000_000}} if kind == "TIFF" else {"icc_profile": bytes(2_000_000)}
    np.testing.assert_array_equal(fit(encoded(PLAIN, kind, **options)), fit(encoded(PLAIN, kind)))


# ---- transparency ----------------------------------------------------------------------------------------------------


def raw(depth: int, kind: int, row: bytes, *extra: bytes, width: int = 8) -> bytes:
    """A PNG of two equal rows."""
    header = struct.pack(">IIBBBBB", width, 2, depth, kind, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 2)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def key(*values: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


PALETTE = chunk(b"PLTE", b"\xff\xff\xff" + b"\x80\x80\x80")
HALVES = {
    "grey, 2 bits": (raw(2, 0, b"\xff\xaa", key(3)), 170),
    "grey, 4 bits": (raw(4, 0, b"\xff\xff\x88\x88", key(15)), 136),
    "grey, 8 bits": (raw(8, 0, b"\xff" * 4 + b"\x80" * 4, key(255)), 128),
    "grey, 16 bits": (raw(16, 0, b"\xff\xff" * 4 + b"\x80\x80" * 4, key(65535)), 128),
    "grey and alpha": (raw(8, 4, b"\xff\x00" * 4 + b"\x80\xff" * 4), 128),
    "grey and alpha, 16 bits": (raw(16, 4, b"\xff\xff\0\0" * 4 + b"\x80\x80\xff\xff" * 4), 128),
    "RGB": (raw(8, 2, b"\xff" * 12 + b"\x80" * 12, key(255, 255, 255)), 128),
    "RGB, 16 bits": (raw(16, 2, b"\x90\x90" * 12 + b"\x80\x80" * 12, key(0x9090, 0x9090, 0x9090)), 128),
    "RGB and alpha, 16 bits": (raw(16, 6, (b"\xff" * 6 + b"\0\0") * 4 + (b"\x80" * 6 + b"\xff\xff") * 4), 128),
    "palette": (raw(8, 3, bytes(4) + b"\1" * 4, PALETTE, chunk(b"tRNS", b"\0\xff")), 128),
}


@pytest.mark.parametrize("mode", HALVES)
@pytest.mark.parametrize("channels", ["grey", "rgb"])
def test_what_is_transparent_is_black_in_every_mode(mode: str, channels: str) -> None:
    content, other = HALVES[mode]
    for row in fit(content, channels, side=8):
        assert row[0].tolist() == [0] * 4 + [other] * 4


# ---- what is not read ------------------------------------------------------------------------------------------------


def tiff(tags: Sequence[tuple[int, int, object]]) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, kind, value in tags:
        info.tagtype[number] = kind
        info[number] = value
    return encoded(PLAIN, "TIFF", tiffinfo=info)


NAMED = {
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "a HEIC image, which is not read; save it as JPEG"),
    "SVG": (
        b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
        "an SVG drawing, .*; render it as PNG",
    ),
    "ICO": (encoded(PLAIN, "ICO"), r"an icon \(ICO\), .*; save the largest as PNG"),
    "PSD": (b"8BPS" + bytes(60), "a Photoshop document, .*; save it as JPEG or PNG"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0", r"a PostScript file \(EPS\), .*; render it as PNG"),
    "PDF": (b"%PDF-1.7", "a PDF document, .*; render its pages"),
    "CR3": (b"\0\0\0\x18ftypcrx " + bytes(100), r"a raw image of a camera \(CR3\), .*; develop it"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", r"a raw image of a camera \(RAF\), .*; develop it"),
    "NEF": (tiff([(254, 4, 1)]), "a raw image of a camera, of which only a preview would be read; develop it"),
    "DNG": (tiff([(50706, 1, b"\1\4\0\0")]), "a raw image of a camera, of which only a preview would be read"),
    "JPEG XL": (b"\xff\x0a" + bytes(50), "a JPEG XL image"),
    "a web page": (b"\n<!DOCTYPE html><title>404</title>", "not an image, but a web page, .*; fetch the image again"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS; .* `git lfs pull`"),
    "an archive": (b"PK\3\4" + bytes(50), "a ZIP archive; unpack it"),
    "a film": (b"\0\0\0\x18ftypisom" + bytes(50), "a film; save frames"),
    "rubbish": (b"\1\2\3", "not an image, or cut off within its header"),
}


@pytest.mark.parametrize("what", NAMED)
def test_a_file_that_is_not_read_says_what_it_is_and_what_to_do(what: str) -> None:
    content, words = NAMED[what]
    with pytest.raises(Unusable, match=words):
        fit(content)


def test_a_tiff_that_is_no_raw_image_is_read() -> None:
    np.testing.assert_array_equal(fit(tiff([(254, 4, 0)])), fit(encoded(PLAIN)))


def test_an_external_set_names_them_too(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(LONG_TEXT))
    dataset = Dataset(source=Folder(kind="folder", train="-"), resolution=SIDE)
    rows = read_external("methods.theirs", str(tmp_path), ["cat", "dog"], 1, dataset)
    with Image.open(io.BytesIO(rows[0][2])) as kept:  # by any reader of tables
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(PLAIN))
    (tmp_path / "dog" / "0.png").write_bytes(NAMED["HEIC"][0])
    with pytest.raises(BadInput, match=r"methods.theirs.images: .*dog/0.png: a HEIC image, .*; replace it"):
        read_external("methods.theirs", str(tmp_path), ["cat", "dog"], 1, dataset)
