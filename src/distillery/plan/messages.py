"""What is wrong with an experiment file, in words: the path of each key, and what is allowed there."""

from __future__ import annotations

import difflib
import typing
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillery.settings import CONTROLS, Block

LONGEST_FAULT = 1200
"""Letters of a fault, which is a line on a terminal."""


def described(faults: Sequence[Any], config: Mapping[str, Any], root: type[Block]) -> list[str]:
    """Validation faults as `key.path: what is wrong; what is allowed`, one line per key.

    Args:
        faults: as `ValidationError.errors` gives them.
        config: the file.
        root: the block that the file was read as.
    """
    lines: dict[str, list[Any]] = {}
    for fault in faults:  # a value that fits no member of a union has one fault per member
        lines.setdefault(_key(fault, config, root), []).append(fault)
    return [f"{key}: {_wrong(found, root, config)}" for key, found in lines.items() if not _of_another_kind(key, lines)]


def _of_another_kind(key: str, lines: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a key may be a number or a table of numbers, is a table, and the fault lies in the table."""
    deeper = any(other.startswith((f"{key}.", f"{key}[")) for other in lines)
    return deeper and all(isinstance(fault["input"], Mapping | list) for fault in lines[key])


def _key(fault: Any, config: Mapping[str, Any], root: type[Block]) -> str:
    """The path of a fault in the file, or where the file would have it."""
    path: list[str] = []
    node: Any = config
    kind: Any = root
    for index, part in enumerate(fault["loc"]):
        last = index == len(fault["loc"]) - 1
        inside = part in node if isinstance(node, Mapping) else isinstance(node, list) and isinstance(part, int)
        # Members of a union, and the mark of a mapping's keys, stand in the location, but in no file.
        if inside or part in _fields_of(kind) or (last and fault["type"] == "extra_forbidden"):
            path.append(f"[{part}]" if isinstance(node, list) else f".{part if part != '' else repr(part)}")
            node = node[part] if inside else None
        kind = _below(kind, part)
    tag = ".kind" if fault["type"].startswith("union_tag") else ""
    return ("".join(path) + tag).lstrip(".")


NAMED_IN = {
    "generator": "generators",
    "features": "references",
    "reference": "references",
    "surrogate": "surrogates",
    "experts": "experts",
}
"""Keys that hold the name of an entry of another block."""

OLD_KEYS = {
    "deviation": "guidance.deviation",
    "given": "external",
    "influence": "guidance.influence",
    "learnability": "guidance.learnability",
    "looks": "evaluations",
    "looks_from": "evaluations_from",
    "mode": "guidance.mode",
    "student.network": "networks",
    "together": "networks_at_once",
}
"""Former keys and kinds, and their present names; a key that other blocks still have stands here with its block."""


GONE_KEYS = {
    "matching.holdout": "snapshots are chosen on the images of dataset.validation, for instance {fraction: 0.1}",
}
"""Former keys that have no present name, and what takes their place."""


def _wrong(faults: Sequence[Any], root: type[Block], config: Mapping[str, Any]) -> str:
    """What is wrong with the value of one key, and what is allowed."""
    fault, kind = faults[0], faults[0]["type"]
    words = None
    if kind in ("extra_forbidden", "missing") or kind.startswith("union_tag"):
        words = _wrong_key(fault, root, config)
    elif len(faults) == 1:
        words = _wrong_type(fault, root)
    if words is not None:
        return words
    start = "Input should be "
    messages = [str(fault["msg"]).removeprefix("Value error, ") for fault in faults]
    message = " or ".join([messages[0], *(other.removeprefix(start) for other in messages[1:])])
    plain = kind not in ("missing", "value_error") and not isinstance(fault["input"], Mapping)
    given = f" (given: {fault['input']!r})" if plain else ""
    return f"{message[0].lower()}{message[1:]}{given if len(given) < 120 else ''}"


def _wrong_key(fault: Any, root: type[Block], config: Mapping[str, Any]) -> str | None:
    """Of a key that does not belong where it stands, or that is not there."""
    kind, key = fault["type"], fault["loc"][-1]
    if kind == "extra_forbidden":
        return _unknown_key(fault["loc"], root)
    if kind == "missing":
        block = NAMED_IN.get(str(key))
        known = config.get(block or "")
        there = ", ".join(map(str, known)) if isinstance(known, Mapping) and known else "none yet"
        return f"missing; allowed: one of {block} ({there})" if block else None
    return _wrong_kind(fault, _kinds_at(fault["loc"], root))


def _wrong_kind(fault: Any, allowed: Sequence[str]) -> str:
    """Of a block whose kind is missing or does not exist."""
    if fault["type"] == "union_tag_not_found":
        return f"missing; allowed: {', '.join(allowed)}"
    given = str(fault["ctx"]["tag"])
    if (new := OLD_KEYS.get(given, "")) in allowed:
        return f"{given!r} is called {new} now"
    return f"no kind {given!r}{instead(given, allowed)}"


def _unknown_key(location: tuple[str | int, ...], root: type[Block]) -> str:
    """Of a key that does not belong where it stands."""
    key, allowed = str(location[-1]), _keys_beside(location, root)
    here = ".".join(map(str, location[-2:]))
    if (new := OLD_KEYS.get(here) or OLD_KEYS.get(key, "")).partition(".")[0] in allowed:
        return f"is called {new} now"
    if why := GONE_KEYS.get(".".join(map(str, location))):
        return f"is gone: {why}"
    if others := _kinds_with(location, root):
        return f"no key of kind {location[-2]}; it belongs to kind {' and '.join(others)}"
    return f"no such key{instead(key, allowed)}"


def _wrong_type(fault: Any, root: type[Block]) -> str | None:
    """Of a value of another type than the one that a key has; None: what pydantic says of it will do."""
    kind, given = fault["type"], fault["input"]
    if kind == "string_pattern_mismatch":
        return f"{given!r} is no name; allowed: letters, digits and _ . + -, a letter or a digit first"
    if kind == "list_type" and not isinstance(given, Mapping):
        return f"a list is wanted; write [{given}]"
    if kind in ("model_type", "model_attributes_type"):
        keys, kinds = _keys_beside((*fault["loc"], ""), root), _kinds_at(fault["loc"], root)
        inside = f"its keys: {', '.join(keys)}" if keys else f"kinds: {', '.join(kinds)}"
        return f"a block is wanted (given: {given!r}); {inside}"
    if kind == "string_type" and isinstance(given, bool):
        return f"text is wanted (given: {given!r}); YAML reads on, off, yes and no as true and false, unless quoted"
    return None


def instead(given: object, allowed: Sequence[str]) -> str:
    """What comes close to a word that is not allowed, and all that is."""
    close = difflib.get_close_matches(str(given), allowed, n=1)
    return f"{f'; did you mean {close[0]!r}?' if close else ''}; allowed: {', '.join(allowed)}"


def _keys_beside(location: tuple[str | int, ...], root: type[Block]) -> list[str]:
    """The keys that the block allows in which a fault was found."""
    kind: Any = root
    for part in location[:-1]:
        kind = _below(kind, part)
    return sorted(_fields_of(kind))


def _fields_of(kind: Any) -> list[str]:
    """The keys of a block, also of one that may be absent; none of anything else."""
    blocks = [kind] if isinstance(kind, type) else _blocks_of(kind)
    if len(blocks) != 1 or not issubclass(blocks[0], Block):
        return []
    return [field.alias or name for name, field in blocks[0].model_fields.items()]


def _kinds_with(location: tuple[str | int, ...], root: type[Block]) -> list[str]:
    """Which other kinds of the same block have a key that this kind has not."""
    if len(location) < 2:
        return []
    kind: Any = root
    for part in location[:-2]:
        kind = _below(kind, part)
    return [
        tag
        for block in _blocks_of(kind)
        for tag in typing.get_args(typing.get_type_hints(block).get("kind"))
        if location[-1] in block.model_fields and location[-2] in _kinds_of(kind)
    ]


def _kinds_at(location: tuple[str | int, ...], root: type[Block]) -> list[str]:
    """The kinds of block that may stand where a fault was found."""
    kind: Any = root
    for part in location:
        kind = _below(kind, part)
    return _kinds_of(kind)


def _blocks_of(kind: Any) -> list[type[Block]]:
    """The members of a union that are blocks."""
    return [member for member in typing.get_args(kind) if isinstance(member, type) and issubclass(member, Block)]


def _kinds_of(kind: Any) -> list[str]:
    """The kinds of the members of a union."""
    return [tag for block in _blocks_of(kind) for tag in typing.get_args(typing.get_type_hints(block).get("kind"))]


def _below(kind: Any, part: str | int) -> Any:
    """The type that stands at one part of a fault's location."""
    if isinstance(kind, type) and issubclass(kind, Block):
        return typing.get_type_hints(kind)[str(part)] if part in kind.model_fields else None
    members = [kind, *typing.get_args(kind)]
    for member in members:
        if typing.get_origin(member) is dict:
            return typing.get_args(member)[1]
        if typing.get_origin(member) is list:
            return typing.get_args(member)[0]
    blocks = [member for member in members if isinstance(member, type) and issubclass(member, Block)]
    for block in blocks:
        if part in typing.get_args(typing.get_type_hints(block).get("kind")):
            return block
    return _below(blocks[0], part) if blocks else None


def alike(key: str, names: Sequence[str]) -> Iterator[str]:
    """Names of a block that differ by case alone, as a fault of its key: some disks make one file of the two."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(name.lower(), name)) != name:
            yield f"{key}.{name}: differs from {other!r} by case alone, and some disks make one file of both; rename it"


def one_line(text: str) -> str:
    """Text with its line breaks and other control characters written out, and cut where nobody reads on."""
    plain = "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in CONTROLS else letter
        for letter in text
    )
    return plain if len(plain) <= LONGEST_FAULT else f"{plain[: LONGEST_FAULT - 40]} … {plain[-36:]}"


def repeated(key: str, values: Sequence[object]) -> Iterator[str]:
    """What a list of different things holds more than once, as a fault of its key."""
    if several := [repr(value) for value, times in Counter(values).items() if times > 1]:
        yield f"{key}: {', '.join(several)} stands there more than once"
