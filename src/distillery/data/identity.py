"""Which class a name means: the fixed table of ImageNet-1K, the class lists of the literature, and a generator's names.

A class is found by what it is called, never by its place among folders. torch is not needed here.
"""

from __future__ import annotations

import csv
import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from distillery.errors import UnknownClass

TABLE = Path(__file__).with_name("imagenet1k.csv")
LISTS = Path(__file__).with_name("class_lists.yaml")


@cache
def imagenet_names() -> dict[str, tuple[str, ...]]:
    """wnid -> the names of the class in WordNet, for the 1,000 classes of ImageNet-1K in the order of their index."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["wnid"]: tuple(_parts(row["names"])) for row in csv.DictReader(file)}


@cache
def _imagenet_index() -> dict[str, int]:
    return {wnid: index for index, wnid in enumerate(imagenet_names())}


@cache
def _wnids_by_name() -> dict[str, str | None]:
    """Name in small letters -> wnid; None where two classes share it, as both cranes do."""
    wnids: dict[str, str | None] = {}
    for wnid, names in imagenet_names().items():
        for name in {name.lower() for name in names}:
            wnids[name] = None if name in wnids else wnid
    return wnids


def wnid_of(name: str) -> str | None:
    """The wnid that a class name means: a wnid itself, or one of the names of exactly one class of ImageNet-1K."""
    return name if name in imagenet_names() else _wnids_by_name().get(name.strip().replace("_", " ").lower())


def wnids_of(text: str) -> set[str]:
    """The wnids that a text may mean which holds one name of a class, or several with commas between them."""
    return {wnid for name in [text, *_parts(text)] if (wnid := wnid_of(name)) is not None}


def imagenet_index(name: str) -> int | None:
    """The place of a class in ImageNet-1K (0 to 999), by wnid or name; None where it has none."""
    wnid = wnid_of(name)
    return None if wnid is None else _imagenet_index()[wnid]


@cache
def class_lists() -> dict[str, tuple[str, ...]]:
    """Key in small letters -> the wnids of a published class list, in the order of its labels."""
    import yaml

    lists = yaml.safe_load(LISTS.read_text("utf-8"))
    named = {key.lower(): tuple(one["wnids"]) for one in lists.values() for key in one["keys"]}
    whole = tuple(imagenet_names())
    return {**named, **dict.fromkeys(("imagenet1k", "imagenet-1k", "in1k"), whole)}


def class_list_called(key: str) -> list[str]:
    """The wnids of a published class list.

    Raises:
        ValueError: there is none of this name; the message says which there are.
    """
    lists = class_lists()
    if key.lower() not in lists:
        close = difflib.get_close_matches(key.lower(), lists, n=1)
        instead = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no class list {key!r}{instead}; allowed: names of classes, or one of {', '.join(lists)}")
    return list(lists[key.lower()])


def same_class(wanted: str, known: Sequence[str]) -> str | None:
    """The name among `known` that means the same class: the name itself, or the only one of the same wnid."""
    if wanted in known:
        return wanted
    wnid = wnid_of(wanted)
    equal = [name for name in known if wnid is not None and wnid_of(name) == wnid]
    return equal[0] if len(equal) == 1 else None


_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: control characters, halves of a pair, and ends of lines."""


def spelled(name: str) -> str:
    """A name in quotes, with the code points of what a terminal may show like another character, or not at all."""
    return f"'{''.join(c if c.isascii() and c.isprintable() else f'<U+{ord(c):04X}>' for c in name)}'"


def unprintable(name: str) -> bool:
    """Whether a name has a control character, which no figure can hold, or nothing that can be seen."""
    return not _form(name) or any(unicodedata.category(c) in _UNPRINTABLE or c in "\ufffe\uffff" for c in name)


def written_alike(names: Iterable[str], known: Sequence[str]) -> str:
    """Of the first name that differs from a known one only in Unicode form, case or space: both, in words.

    Names that are known are left out. Empty where there is none.
    """
    forms = {_form(name): name for name in known}
    for name in names:
        if name not in known and (other := forms.get(_form(name))) is not None:
            return _alike(name, other)
    return ""


def hint_of(names: Iterable[str], known: Sequence[str]) -> str:
    """`written_alike` in parentheses, to follow a name in a message; empty where there is none."""
    return f" ({alike})" if (alike := written_alike(names, known)) else ""


def twice_alike(names: Sequence[str]) -> str:
    """Of the first two names that differ only in Unicode form, case or space: both, in words; empty: there are none."""
    forms: dict[str, str] = {}
    for name in names:
        if (other := forms.setdefault(_form(name), name)) != name:
            return _alike(other, name)
    return ""


def _alike(name: str, other: str) -> str:
    return f"{spelled(name)} and {spelled(other)} differ only in Unicode form, case or space"


def _form(name: str) -> str:
    """What names have in common that look alike."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def conditions(id2label: Mapping[str, str], classes: Sequence[str]) -> dict[int, int]:
    """Label -> class index of a generator, by the names that the generator gives its classes.

    Args:
        id2label: index -> name, or several names with commas between them, as in the index of a `DiTPipeline`.
        classes: names, in the order of the labels. A name is looked up as it stands, then as one of several names, then
            by its wnid.

    Raises:
        UnknownClass: classes that the generator does not know, or that several of its rows could be. It says which of
            them is written almost as a name that the generator knows.
    """
    whole: dict[str, list[int]] = {}
    parts: dict[str, list[int]] = {}
    wnids: dict[str, list[int]] = {}
    for number, text in id2label.items():
        index = int(number)
        whole.setdefault(text, []).append(index)
        names = _parts(text)
        for name in dict.fromkeys(names):
            parts.setdefault(name, []).append(index)
        # Names of one class may mean others too, where they stand alone; the wnid itself settles it.
        stated = [name for name in names if name in imagenet_names()]
        for wnid in dict.fromkeys(stated or filter(None, [wnid_of(text), *map(wnid_of, names)])):
            wnids.setdefault(wnid, []).append(index)
    indices: dict[int, int] = {}
    unknown: list[str] = []
    for label, name in enumerate(classes):
        places = (whole.get(name), parts.get(name), wnids.get(wnid_of(name) or ""))
        rows = next((rows for rows in places if rows), [])
        if len(rows) == 1:
            indices[label] = rows[0]
        else:
            unknown.append(name)
    if unknown:
        raise UnknownClass(unknown, written_alike(unknown, [*whole, *parts]))
    return indices


def imagenet_id2label(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The index of a generator of ImageNet-1K: each class by its wnid, its names, and the generator's own ones."""
    return {
        str(index): ", ".join(dict.fromkeys([wnid, *names, *_parts((own or {}).get(str(index), ""))]))
        for index, (wnid, names) in enumerate(imagenet_names().items())
    }


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
