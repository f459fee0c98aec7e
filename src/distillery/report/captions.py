"""Title, category and caption of each final table and figure, from `workflow/report/{tables,figures,cost}/<name>.rst`.

The report of Snakemake and the report page take them from the same files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distillery.errors import BadInput

CATEGORIES = ("Accuracy", "Diversity", "Learning", "Guidance", "Images", "Training", "Cost")
"""The categories in the order of the report page; others follow by name."""

_FILE = re.compile(
    r"\.\. category: (?P<category>\S.*)\n(?:\.\. absent: (?P<absent>\S.*)\n)?"
    r"\n(?P<title>\S.*)\n=+\n\n(?P<text>\S(?s:.*))"
)
_WILDCARD = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Caption:
    """What a report says of a table or figure.

    Attributes:
        form: `table` or `figure`.
        text: the paragraphs in reStructuredText.
        absent: why an experiment has no such table or figure, and what would add it; one line.
        name: of its file; those of tables and figures begin with it.
    """

    form: str
    title: str
    category: str
    text: str
    absent: str
    name: str


class Captions:
    """The captions of a project, found by the paths of tables and figures.

    A caption serves every file whose name begins with its own, up to a hyphen: `figures/increments.rst` is that of
    `figures/increments-lgd.svg`, if there is no `figures/increments-lgd.rst`.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)
        self._files = {(path.parent.name, path.stem): path for path in self.files}

    @classmethod
    def below(cls, folder: Path) -> Captions:
        """The captions in the folders `tables`, `figures` and `cost` of a folder."""
        return cls(sorted(folder.glob("*/*.rst")))

    @property
    def digest(self) -> str:
        """Of all files: in the place of their times, which a checkout changes."""
        content = [f"{path.parent.name}/{path.name}".encode() + b"\0" + path.read_bytes() for path in self.files]
        return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]

    def file(self, path: str) -> Path:
        """The file of the caption of a table or figure.

        Args:
            path: of the table or figure, or its pattern with wildcards.

        Raises:
            BadInput: it has none.
        """
        plain = PurePosixPath(_WILDCARD.sub("", path))
        kind, words = plain.parent.name, plain.stem.split("-")
        for end in range(len(words), 0, -1):
            if file := self._files.get((kind, "-".join(words[:end]))):
                return file
        raise BadInput(f"workflow/report/{kind}/{words[0]}.rst: no caption for {path}; write one")

    def of(self, path: str) -> Caption:
        """The caption of a table or figure, by its path or pattern.

        Raises:
            BadInput: it has none, or its file is of another form.
        """
        return read_caption(self.file(path))


def read_caption(file: Path) -> Caption:
    """The caption of a file.

    Raises:
        BadInput: it has another form.
    """
    parsed = _FILE.fullmatch(file.read_text("utf-8"))
    if parsed is None:
        raise BadInput(f"{file}: no caption; it begins with `.. category: NAME`, and a title underlined with `=`")
    form = "table" if file.parent.name == "tables" else "figure"
    absent = parsed["absent"] or "The experiment does not ask for it."
    return Caption(form, parsed["title"], parsed["category"], parsed["text"].strip(), absent, file.stem)
