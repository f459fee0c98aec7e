"""What a file is that is not read as an image, and an image file without its metadata."""

from __future__ import annotations

import zlib

_READABLE = "save it as JPEG or PNG"
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyphei", f"a HEIC image, which is not read; {_READABLE}"),
    (4, b"ftyphev", f"a HEIC image, which is not read; {_READABLE}"),
    (4, b"ftypmif", f"a HEIC image, which is not read; {_READABLE}"),
    (4, b"ftypmsf", f"a HEIC image, which is not read; {_READABLE}"),
    (4, b"ftypavi", f"an AVIF image, which this Pillow cannot read; {_READABLE}"),
    (4, b"ftypcrx", f"a raw image of a camera (CR3), which is not read; develop it, and {_READABLE}"),
    (0, b"FUJIFILMCCD-RAW", f"a raw image of a camera (RAF), which is not read; develop it, and {_READABLE}"),
    (0, b"IIRO", f"a raw image of a camera (ORF), which is not read; develop it, and {_READABLE}"),
    (0, b"IIRS", f"a raw image of a camera (ORF), which is not read; develop it, and {_READABLE}"),
    (0, b"IIU\0", f"a raw image of a camera (RW2), which is not read; develop it, and {_READABLE}"),
    (0, b"FOVb", f"a raw image of a camera (X3F), which is not read; develop it, and {_READABLE}"),
    (0, b"\xff\x0a", f"a JPEG XL image, which is not read; {_READABLE}"),
    (0, b"\0\0\0\x0cJXL ", f"a JPEG XL image, which is not read; {_READABLE}"),
    (0, b"8BPS", f"a Photoshop document, which is not read; {_READABLE}"),
    (0, b"\0\0\1\0", "an icon (ICO), which holds pictures of several sizes; save the largest as PNG"),
    (0, b"%!PS", "a PostScript file (EPS), which is not read; render it as PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file (EPS), which is not read; render it as PNG"),
    (0, b"%PDF", "a PDF document, which is not read; render its pages as PNG"),
    (4, b"ftyp", "a film; save frames of it as images"),
    (0, b"PK\3\4", "not an image, but a ZIP archive; unpack it"),
    (0, b"\x1f\x8b", "not an image, but a gzip archive; unpack it"),
    (0, b"\0\5\x16\7", "not an image, but what macOS keeps beside one; remove it"),
    (0, b"version https://git-lfs", "not an image, but a pointer of Git LFS; fetch the image with `git lfs pull`"),
)

RAW_IN_TIFF = f"a raw image of a camera, of which only a preview would be read; develop it, and {_READABLE}"


def described(content: bytes) -> str:
    """What a file is that no decoder knows, and what to do with it."""
    for start, signature, words in _SIGNATURES:
        if content.startswith(signature, start):
            return words
    text = content[:1024].lower()
    if b"<svg" in text:
        return "an SVG drawing, which has no pixels; render it as PNG"
    if b"<html" in text or b"<!doctype html" in text:
        return "not an image, but a web page, which a failed download leaves; fetch the image again"
    return "not an image, or cut off within its header"


PNG = b"\x89PNG\r\n\x1a\n"
_OF_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
_LONGEST = 2**20


def without_metadata(content: bytes) -> bytes:
    """A PNG without its texts, colour profile and what else changes no pixel; any other file as it is.

    What may turn the picture (Exif, XMP as plain text) is kept where it is short and whole.
    """
    if not content.startswith(PNG):
        return content
    kept, start, kind = [PNG], len(PNG), b""
    while start + 12 <= len(content) and kind != b"IEND":
        length, kind = int.from_bytes(content[start : start + 4]), content[start + 4 : start + 8]
        chunk = content[start : start + 12 + length]
        turns = kind == b"eXIf" or (kind == b"iTXt" and chunk.startswith(b"XML:com.adobe.xmp\0\0", 8))
        whole = length <= _LONGEST and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        if kind[:1].isupper() or kind in _OF_PIXELS or (turns and whole):
            kept.append(chunk)
        start += len(chunk)
    return b"".join(kept)
