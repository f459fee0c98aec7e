"""What is wrong with an experiment file, in words: the path of each key, and what is allowed there."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from distillery.settings import Block


def described(faults: Sequence[Any], config: Mapping[str, Any], root: type[Block]) -> list[str]:
    """Validation faults as `key.path: what is wrong; what is allowed`, one line per key.

    Args:
        faults: as `ValidationError.errors` gives them.
        config: the file.
        root: the block that the file was read as.
    """
    lines: dict[str, list[Any]] = {}
    for fault in faults:  # a value that fits no member of a union has one fault per member
        lines.setdefault(_key(fault, config), []).append(fault)
    return [f"{key}: {_wrong(found, root)}" for key, found in lines.items()]


def _key(fault: Any, config: Mapping[str, Any]) -> str:
    """The path of a fault in the file."""
    path: list[str] = []
    node: Any = config
    for index, part in enumerate(fault["loc"]):
        last = index == len(fault["loc"]) - 1
        inside = part in node if isinstance(node, Mapping) else isinstance(node, list) and isinstance(part, int)
        # Members of a union, and the mark of a mapping's keys, stand in the location, but in no file.
        if inside or (last and fault["type"] in ("missing", "extra_forbidden")):
            path.append(f"[{part}]" if isinstance(node, list) else f".{part}")
            node = node[part] if inside else None
    kind = ".kind" if fault["type"].startswith("union_tag") else ""
    return ("".join(path) + kind).lstrip(".")


def _wrong(faults: Sequence[Any], root: type[Block]) -> str:
    """What is wrong with the value of one key, and what is allowed."""
    fault, kind = faults[0], faults[0]["type"]
    if kind == "extra_forbidden":
        return f"no such key{_instead(fault['loc'][-1], _keys_beside(fault['loc'], root))}"
    if kind.startswith("union_tag"):
        allowed = _kinds_at(fault["loc"], root)
        if kind == "union_tag_not_found":
            return f"missing; allowed: {', '.join(allowed)}"
        return f"no kind {fault['ctx']['tag']!r}{_instead(fault['ctx']['tag'], allowed)}"
    if kind == "string_pattern_mismatch":
        return f"{fault['input']!r} is no name; allowed: letters, digits and _ . + -, a letter or a digit first"
    start = "Input should be "
    messages = [str(fault["msg"]).removeprefix("Value error, ") for fault in faults]
    message = " or ".join([messages[0], *(other.removeprefix(start) for other in messages[1:])])
    plain = kind not in ("missing", "value_error") and not isinstance(fault["input"], Mapping)
    given = f" (given: {fault['input']!r})" if plain else ""
    return f"{message[0].lower()}{message[1:]}{given if len(given) < 120 else ''}"


def _instead(given: object, allowed: Sequence[str]) -> str:
    """What comes close to a word that is not allowed, and all that is."""
    close = difflib.get_close_matches(str(given), allowed, n=1)
    return f"{f'; did you mean {close[0]!r}?' if close else ''}; allowed: {', '.join(allowed)}"


def _keys_beside(location: tuple[str | int, ...], root: type[Block]) -> list[str]:
    """The keys that the block allows in which a fault was found."""
    kind: Any = root
    for part in location[:-1]:
        kind = _below(kind, part)
    if not (isinstance(kind, type) and issubclass(kind, Block)):
        return []
    return sorted(field.alias or name for name, field in kind.model_fields.items())


def _kinds_at(location: tuple[str | int, ...], root: type[Block]) -> list[str]:
    """The kinds of block that may stand where a fault was found."""
    kind: Any = root
    for part in location:
        kind = _below(kind, part)
    blocks = [member for member in typing.get_args(kind) if isinstance(member, type) and issubclass(member, Block)]
    return [tag for block in blocks for tag in typing.get_args(typing.get_type_hints(block)["kind"])]


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
