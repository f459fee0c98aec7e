"""What a published file says, and what it must not say: who made it, on which machine, and where."""

from __future__ import annotations

import re
import socket
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

USER = "zaphod-beeblebrox"
"""The name of the user of a run that is looked at: no word that a file may hold for another reason."""


_TEXT = re.compile(rb"[\s -~]{12,}")
"""A short name of a machine is among random bytes by chance, and hardly in so long a text."""


def text_of(path: Path) -> bytes:
    """All that a file says: the texts among its bytes, and what is compressed in a table or a picture."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        content += repr((table.schema.metadata, table.to_pydict())).encode()
    elif path.suffix == ".png":
        with Image.open(path) as image:
            content += repr(image.info).encode()
    return b"\n".join(_TEXT.findall(content))


def private_words(*folders: Path) -> list[str]:
    """The user, the machine, and the folders of a run, of Python, of the user and of temporary files."""
    places = [*folders, Path(sys.prefix), Path.home(), Path(tempfile.gettempdir())]
    return [USER, socket.gethostname(), *(f"{place}/" for place in places)]


def private_facts(folder: Path, words: list[str]) -> list[str]:
    """The files below a folder that hold one of these words, logs and costs left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not {"logs", "cost"} & set(path.parts)]
    texts = {str(path.relative_to(folder)): text_of(path) for path in files}
    return [f"{name}: {word}" for name, text in texts.items() for word in words if _holds(text, word)]


def _holds(text: bytes, word: str) -> bool:
    if word.endswith("/"):
        return word.encode() in text
    alone = rb"(?<![\w+/=])" + re.escape(word.encode()) + rb"(?![\w+/=])"  # and no piece of Base64
    return re.search(alone, text) is not None
