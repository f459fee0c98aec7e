"""Title, category and caption of each final table and figure, from `workflow/report/{tables,figures}/<name>.rst`.

The report of Snakemake and the report page take them from the same files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distillery.errors import BadInput

CATEGORIES = ("Accuracy", "Diversity", "Guidance", "Images", "Training")
"""The categories in the order of the report page; others follow by name."""

_FILE = re.compile(r"\.\. category: (?P<category>\S.*)\n\n(?P<title>\S.*)\n=+\n\n(?P<text>\S(?s:.*))")
_WILDCARD = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Caption:
    """What a report says of a table or figure.

    Attributes:
        kind: `table` or `figure`.
        text: the paragraphs in reStructuredText.
    """

    kind: str
    title: str
    category: str
    text: str


class Captions:
    """The captions of a project, found by the paths of tables and figures.

    A caption serves every file whose name begins with its own, up to a hyphen: `figures/increments.rst` is that of
    `figures/increments-lgd.svg`, if there is no `figures/increments-lgd.rst`.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = {(path.parent.name, path.stem): path for path in files}

    @classmethod
    def below(cls, folder: Path) -> Captions:
        """The captions in the folders `tables` and `figures` of a folder."""
        return cls(sorted(folder.glob("*/*.rst")))

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
        file = self.file(path)
        parsed = _FILE.fullmatch(file.read_text("utf-8"))
        if parsed is None:
            raise BadInput(f"{file}: no caption; it begins with `.. category: NAME`, and a title underlined with `=`")
        return Caption(file.parent.name.removesuffix("s"), parsed["title"], parsed["category"], parsed["text"].strip())
