"""The report page: one HTML file with tables, figures, cost and provenance, which needs no server and no network."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from distillery.report.captions import CATEGORIES, Caption
from distillery.report.text import one_line

MOST_ROWS = 1000
"""Of a table on the page; its file has all."""

MOST_BYTES = 2**20
"""Of a figure on the page: a larger SVG is replaced by its PNG, and a larger PNG by a link."""

ORIGIN = ("experiment", "dataset", "commit")
"""Columns that say what a table is of; the page says it once."""

PARTS = ("page.html.jinja", "page.css", "page.js")


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        heading: what tells it from others with the same caption; may be empty.
        file: link to the whole table, relative to the page; may be empty.
        left_out: rows that only the file has.
        words: link to the table as a paper prints it; may be empty.
        commits: of the code that wrote it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    heading: str = ""
    file: str = ""
    left_out: int = 0
    words: str = ""
    commits: Sequence[str] = ()

    @property
    def numeric(self) -> list[bool]:
        """(columns,) whether all cells of a column that are not empty are numbers."""
        columns = [[row[index] for row in self.rows if row[index]] for index in range(len(self.header))]
        return [bool(cells) and all(map(_is_number, cells)) for cells in columns]


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        source: the picture as a data URI; empty where it is too large for the page.
        file: link to the picture, relative to the page.
    """

    source: str
    heading: str
    file: str


@dataclass
class Exhibit:
    """A caption with its tables or pictures: one for each method or seed.

    Attributes:
        text: the caption as HTML.
    """

    caption: Caption
    text: str
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def _short(text: str) -> str:
    """A cell for readers: four digits of a number that has many."""
    return f"{float(text):.4g}" if len(text) > 8 and "." in text and _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def look() -> str:
    """Digest of the template, the style sheet and the script: no Python module, so no digest of code covers them."""
    return hashlib.sha256(b"\0".join(_part(name).encode() for name in PARTS)).hexdigest()[:16]


def _part(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text("utf-8")


def read_csv(path: Path, heading: str, page: Path) -> Table:
    """A table from its CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    kept = [index for index, name in enumerate(header) if name not in ORIGIN]
    shown = [[_short(row[index]) for index in kept] for row in rows[:MOST_ROWS]]
    return Table(
        [header[index] for index in kept],
        shown,
        heading,
        _link(path, page),
        left_out=max(0, len(rows) - MOST_ROWS),
        words=_link(words, page) if (words := path.with_suffix(".md")).exists() else "",
        commits=sorted({row[header.index("commit")] for row in rows}) if "commit" in header else (),
    )


def read_picture(path: Path, heading: str, page: Path) -> Picture:
    """A figure from its SVG, or, where that is too large, from the PNG beside it."""
    for kind, file in (("image/svg+xml", path), ("image/png", path.with_suffix(".png"))):
        if file.exists() and file.stat().st_size <= MOST_BYTES:
            source = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
            return Picture(source, heading, _link(path, page))
    return Picture("", heading, _link(path, page))


def _link(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def html(text: str) -> str:
    """Text of a caption, in reStructuredText, as HTML."""
    from docutils.core import publish_parts

    safe = {"raw_enabled": False, "file_insertion_enabled": False, "report_level": 5}
    return str(publish_parts(text, writer="html5", settings_overrides=safe)["body"])


def heading(path: Path, caption: Caption) -> str:
    """What tells a table or figure from others with its caption: what its name has beyond the caption's, and its seed.

    `results/x/seed-3/figures/increments-lgd.svg` has `lgd, seed 3`.
    """
    seed = seed_of(path.parent.parent)
    parts = [path.stem.removeprefix(caption.name).lstrip("-"), f"seed {seed}" if seed else ""]
    return ", ".join(filter(None, parts))


def seed_of(folder: Path) -> str:
    """The seed of a folder `seed-<n>` of results; empty for the folder of the first seed."""
    word, _, number = folder.name.partition("-")
    return number if word == "seed" and number.isdecimal() else ""


def by_category(exhibits: Iterable[Exhibit]) -> dict[str, list[Exhibit]]:
    """Exhibits by category, in the order of `CATEGORIES`, others after them by name; figures before tables."""
    known = {name: number for number, name in enumerate(CATEGORIES)}
    found: dict[str, list[Exhibit]] = {}
    for exhibit in sorted(exhibits, key=lambda exhibit: (exhibit.caption.form, exhibit.caption.title)):
        found.setdefault(exhibit.caption.category, []).append(exhibit)
    return {name: found[name] for name in sorted(found, key=lambda name: (known.get(name, len(known)), name))}


def absences(captions: Iterable[Caption], present: Iterable[Caption]) -> dict[str, list[str]]:
    """Why tables and figures are not on the page, in reStructuredText -> their titles."""
    made = {(caption.form, caption.name) for caption in present}
    reasons: dict[str, list[str]] = {}
    for caption in captions:
        if (caption.form, caption.name) not in made and caption.title not in reasons.get(caption.absent, []):
            reasons.setdefault(caption.absent, []).append(caption.title)
    return reasons


def _hash(text: str) -> str:
    """What a content security policy names an inline script or style sheet by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(**values: Any) -> bytes:
    """The page. Every value is escaped, and control characters become spaces.

    The page forbids every script and style sheet but its own by a content security policy: text from data stays text,
    also where a browser has a fault.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def breaking(text: str) -> Markup:
        """The heading of a column, which may break after an underscore."""
        return escape(one_line(text)).replace("_", Markup("_<wbr>"))

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else one_line(str(value)),
    )
    template, style, script = map(_part, PARTS)
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    page = environment.from_string(template).render(
        style=Markup(style), script=Markup(script), policy=Markup(policy), html=Markup, breaking=breaking, **values
    )
    return page.encode("utf-8", "replace")
