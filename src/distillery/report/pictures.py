"""An image set as picture files, in a folder per class.

python -m distillery.report.pictures results/own/distilled/lgd/ipc10.parquet FOLDER
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from distillery.errors import DamagedArtifact
from distillery.processes import accept_all_characters
from distillery.storage.atomic import write_bytes
from distillery.storage.images import ImageSet, read_images

_ENDS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


def write_pictures(images: ImageSet, folder: Path) -> list[Path]:
    """Write each image as the file that the table holds, as `<class>/<number within the class>.<ending>`.

    A class whose name cannot be a folder's, or is another one's, gets its label in front.
    """
    names = folder_names(images.classes)
    written, counts = [], [0] * len(names)
    for content, label in zip(images.images, images.labels.tolist(), strict=True):
        end = next((end for start, end in _ENDS.items() if content.startswith(start)), "")
        path = folder / names[label] / f"{counts[label]:05d}{end}"
        write_bytes(path, content)
        counts[label] += 1
        written.append(path)
    return written


def folder_names(classes: Sequence[str]) -> list[str]:
    """The name of the folder of each class: its own, or, where that cannot be, one with its label in front."""
    names = [_folder_name(name) for name in classes]
    return [
        name if names.count(name) == 1 and name == classes[label] else f"{label}-{name}"
        for label, name in enumerate(names)
    ]


def _folder_name(name: str) -> str:
    """A class name without what would lead out of its folder, or hide it."""
    return re.sub(r"[/\\\x00-\x1f]", "_", name).lstrip(".")[:200] or "_"


def main(arguments: list[str]) -> int:
    """Write the images of one table; the exit status."""
    accept_all_characters()
    if len(arguments) != 2:
        print("usage: python -m distillery.report.pictures IMAGES.parquet FOLDER", file=sys.stderr)
        return 2
    try:
        written = write_pictures(read_images(Path(arguments[0]), "collect"), Path(arguments[1]))
    except DamagedArtifact as error:
        print(f"distillery: {error}", file=sys.stderr)
        return 1
    print(f"{len(written)} pictures in {arguments[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
