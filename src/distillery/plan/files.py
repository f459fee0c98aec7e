"""The file of an experiment as text, before anything is made of it: whether it is a file, is YAML, and says one thing.

It is read as Snakemake reads it, JSON first and then YAML, but a refusal names the line and the column.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import yaml

from distillery.errors import ExperimentError

LARGEST_FILE = 2**20
"""Bytes; the largest experiment of the field is a hundredth of it."""

DEEPEST = 50
"""Blocks within blocks; an experiment has ten."""

MOST_VALUES = 100_000
"""Values, those counted again that an alias repeats: aliases of aliases grow without bound."""

MOST_LETTERS = 10_000
"""Of one value."""

YTE = "__use_yte__"
"""With this key Snakemake runs the Python that stands in the file."""

_OCTAL = re.compile(r"[-+]?0[0-9_]+")


def read_file(path: Path) -> dict[str, Any]:
    """The blocks of an experiment file.

    Raises:
        ExperimentError: it is no file that can be read, no YAML mapping, or says a thing twice; one line, or one for
            each key that stands there twice.
    """
    try:
        return _parsed(_text(path))
    except _Refused as refused:
        raise ExperimentError("\n".join(f"{path}{line}" for line in refused.args)) from None


def check_folder(folder: Path) -> None:
    """Whether Snakemake can work in the folder of a clone.

    Raises:
        ExperimentError: its path has braces, which Snakemake reads in the paths of environments.
    """
    if {"{", "}"} & set(str(folder)):
        raise ExperimentError(f"{folder}: Snakemake reads braces in the path of a clone; move it to another folder")


class _Refused(Exception):
    """What is wrong with a file: lines that follow its name."""


def _at(mark: Any, why: str) -> _Refused:
    return _Refused(f": {why}" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}: {why}")


def _text(path: Path) -> str:
    """The text of a file that can be read to its end."""
    try:
        about = path.stat()  # a pipe would be waited for
        if S_ISDIR(about.st_mode):
            raise _Refused(": a folder; give the experiment file in it")
        if not S_ISREG(about.st_mode):
            raise _Refused(": no plain file (a pipe, a socket or a device); give a file")
        if about.st_size > LARGEST_FILE:
            raise _Refused(f": {about.st_size} bytes, which no experiment file has; allowed: {LARGEST_FILE}")
        content = path.read_bytes()
    except FileNotFoundError:
        start = f"a relative path starts at {Path.cwd()}, so start Snakemake in the folder of the project"
        raise _Refused(f": no such file; {start}; targets after --configfile stand behind `--`") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _Refused(f": cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Refused(": UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _Refused(f", line {line}, column {column}: no UTF-8 text; save it as UTF-8") from None


def _parsed(text: str) -> dict[str, Any]:
    """The mapping that a text stands for."""
    try:
        content = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        content = _of_yaml(text)
    if not isinstance(content, dict):
        kind = {"NoneType": "empty", "list": "a list"}.get(type(content).__name__, "a single value")
        raise _Refused(f": {kind}; an experiment file is a mapping: `name: …`, `dataset: …` and so on")
    if YTE in content:
        raise _Refused(f": {YTE}: Snakemake would run the Python that stands in this file; leave the key out")
    return content


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a key that stands there twice sends the file to YAML, which knows the lines."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def _of_yaml(text: str) -> Any:
    try:
        _refuse_depth(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        if wrong := list(_wrong_values(node)):
            raise _Refused(*wrong)
        return yaml.safe_load(text)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _Refused(f", line {line}, column {column}: a character that no text has; is this a YAML file?") from None
    except yaml.MarkedYAMLError as error:
        raise _at(error.problem_mark or error.context_mark, _in_words(error)) from None
    except ValueError as error:  # 2026-99-99 has the form of a date
        raise _Refused(f": a value cannot be read ({error}); put quotes around it") from None


def _in_words(error: yaml.MarkedYAMLError) -> str:
    """What a parser says, and what to do."""
    problem = str(error.problem or error)
    ways = {
        "'\\t'": "indent with spaces, not with tabs",
        " alias": "define it with & before, or put quotes around a value that begins with *",
        "but found another document": "an experiment file is one document; remove the line ---",
        "constructor for the tag": "write the value without a tag",
        "mapping values are not allowed": "put quotes around a value that holds a colon, and mind the indentation",
    }
    said = f"{error.context} {problem}"
    return problem + next((f"; {way}" for words, way in ways.items() if words in said), "; no YAML")


def _refuse_depth(text: str) -> None:
    """Refuse blocks within blocks, beyond what an experiment has: what reads them is recursive."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _at(event.start_mark, f"more than {DEEPEST} blocks within one another; is a bracket left open?")


def _wrong_values(root: yaml.Node) -> Iterator[str]:
    """Keys that stand more than once in one mapping, where all but the last would be lost, and values that mislead.

    What `<<` brings in may be said again: that is what it is for.
    """
    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def walk(node: yaml.Node, path: str) -> Iterator[str]:
        if id(node) in inside:
            raise _at(node.start_mark, "this block holds itself, by an alias; write it out")
        if id(node) in sizes:  # an alias stands for what was looked at where it has its anchor
            return
        inside.add(id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.ScalarNode):
            _refuse_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            for index, member in enumerate(node.value):
                yield from walk(member, f"{path}[{index}]")
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, list[int]] = defaultdict(list)
            for key, value in node.value:
                yield from walk(key, path)
                name = f"{path}.{key.value}".lstrip(".")
                if key.tag != "tag:yaml.org,2002:merge":
                    lines[name].append(key.start_mark.line + 1)
                yield from walk(value, name)
                children += [key, value]
            for name, numbers in lines.items():
                if len(numbers) > 1:
                    yield (
                        f": {name}: stands there {len(numbers)} times, in lines {', '.join(map(str, numbers))}; give "
                        "each a name of its own"
                    )
        inside.discard(id(node))
        sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
        if sizes[id(node)] > MOST_VALUES:
            raise _at(
                node.start_mark,
                f"more than {MOST_VALUES} values (an alias counts as often as it is used); write a shorter file",
            )

    return walk(root, "")


def _refuse_scalar(node: yaml.ScalarNode) -> None:
    """Refuse a number that YAML 1.1 reads as another one than people do, and what nobody writes by hand."""
    number = node.tag.rpartition(":")[2] in ("int", "float")
    if len(node.value) > MOST_LETTERS:
        raise _at(node.start_mark, f"a value of {len(node.value)} letters; allowed: {MOST_LETTERS}")
    if number and len(node.value) > 40:
        raise _at(node.start_mark, f"a number of {len(node.value)} digits; allowed: 40")
    if number and _OCTAL.fullmatch(node.value):
        raise _at(node.start_mark, f"{node.value} is an octal number in YAML; write it without the leading 0")
    if number and ":" in node.value:
        raise _at(node.start_mark, f"{node.value} is a number of base 60 in YAML; put quotes around it")
