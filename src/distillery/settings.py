"""What every block of settings has in common: strict, closed, immutable, and one canonical text.

The modules named ``settings`` declare and nothing else: what a stage reads of them reaches it as JSON.
"""

from __future__ import annotations

import json
import re
import stat
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _read_exponent(value: object) -> object:
    """YAML 1.1 reads ``1e-3`` as text, because the number lacks its point; a user means the number."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


Exponent = BeforeValidator(_read_exponent)

# Each number has the range in which a run can end well: what lies beyond it is a slip of the pen, or a run that
# diverges, does not fit, or does not end. No published setting comes near a bound.

Number = Annotated[float, Field(ge=-1e6, le=1e6), Exponent]
Positive = Annotated[float, Field(gt=0, le=1e6), Exponent]
NonNegative = Annotated[float, Field(ge=0, le=1e6), Exponent]
Fraction = Annotated[float, Field(ge=0, le=1), Exponent]

BelowOne = Annotated[float, Field(ge=0, lt=1), Exponent]
"""Of an average, or a share that must leave something: at 1 nothing new counts any more."""

Rate = Annotated[float, Field(gt=0, le=100), Exponent]
"""A learning rate of networks: they diverge far below."""

ImageRate = Annotated[float, Field(gt=0, le=1e5), Exponent]
"""A learning rate of images; MTT was published with 1000."""

Decay = Annotated[float, Field(ge=0, le=1), Exponent]
"""A weight decay, or the rate of a rate: above 1 a step overshoots zero."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of whatever has no range of its own."""

Steps = Annotated[int, Field(ge=1, le=10_000_000)]
"""Of an optimiser; DiT was trained for seven million."""

Epochs = Annotated[int, Field(ge=1, le=100_000)]
"""Small sets are trained for some thousands."""

Images = Annotated[int, Field(ge=1, le=100_000)]
"""Of one class; ImageNet has 1,300."""

Batch = Annotated[int, Field(ge=1, le=65_536)]
"""Images in one step or pass, which are in memory at once."""

Repeats = Annotated[int, Field(ge=1, le=1_000)]
"""How often a thing is done that takes seconds or more: students, candidates, rounds."""

Shards = Annotated[int, Field(ge=1, le=1_000)]
"""Jobs; more than a thousand for one file take longer to plan and to submit than to run."""

Layers = Annotated[int, Field(ge=1, le=256)]
"""DiT-XL has 28."""

Width = Annotated[int, Field(ge=1, le=8_192)]
"""Channels of a layer; DiT-XL has 1,152."""

Side = Annotated[int, Field(ge=1, le=2_048)]
"""Of a square image in pixels; sets of 512 are the largest that were distilled."""

Pixels = Annotated[int, Field(ge=1, le=10_000_000_000)]
"""Of a whole image, which is decoded in memory."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Tables hold it as a whole number of 64 bits."""


NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"
"""Names become parts of paths, of wildcards and of commands that Slurm's shell reads: nothing in them needs quotes."""

_FILE_ENDING = re.compile(r"\.(csv|json|parquet|resume|safetensors|tmp)$")
_SNAKEMAKE_READS = re.compile(r"\{\s*[.\w]+\s*(,[^{}]*)?\}|<[a-z][a-z0-9_]*>")
"""What Snakemake takes for a wildcard or a path variable in the path of an input; it has no quotes for them."""


CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of Unicode that break lines, move a terminal's cursor, or cannot be written: none is of a text."""


def _no_file(name: str) -> str:
    """Refuse a name that a file of another entry may have: `a.safetensors.resume` beside `a`."""
    if ending := _FILE_ENDING.search(name):
        raise ValueError(f"{name!r} ends as a file does; leave out {ending[0]}")
    return name


def _user_path(path: str) -> str:
    """Refuse what no file system and no log takes, and what would be read for ever: pipes, sockets and devices."""
    if not path or any(unicodedata.category(letter) in CONTROLS for letter in path):
        raise ValueError(f"{path!r} is no path: it is empty, or has control characters")
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise ValueError(f"{path[:100]}: cannot be opened: {error.strerror}; give a file or a folder") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise ValueError(f"{path}: {what}; give a file or a folder")
    return path


def _pattern(path: str) -> str:
    """Refuse what Snakemake reads in the path of an input, once `{ipc}` and `{seed}` are numbers."""
    _input(path.replace("{ipc}", "0").replace("{seed}", "0"))
    return path


def _input(path: str) -> str:
    """Refuse what Snakemake reads in the path of an input."""
    if read := _SNAKEMAKE_READS.search(path):
        raise ValueError(
            f"{path!r}: Snakemake replaces {read[0]} in a path, and cannot be told not to; rename it, or make a link "
            "of another name to it with `ln -s`"
        )
    return path


Name = Annotated[str, Field(pattern=NAME, max_length=100), AfterValidator(_no_file)]
UserPath = Annotated[str, AfterValidator(_user_path)]
"""A path that only stages and checks open."""

InputPath = Annotated[UserPath, AfterValidator(_input)]
"""A path that becomes an input of a rule."""

InputPattern = Annotated[UserPath, AfterValidator(_pattern)]
"""Such a path for each size and seed: `{ipc}` and `{seed}` in it stand for numbers."""


class Block(BaseModel):
    """A block of an experiment file. Unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


def canonical(block: Block) -> str:
    """Settings as one line of JSON with sorted keys: equal settings give equal text."""
    return json.dumps(block.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
