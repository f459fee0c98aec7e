"""What every block of settings has in common: strict, closed, immutable, and one canonical text.

The modules named ``settings`` declare and nothing else: what a stage reads of them reaches it as JSON.
"""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _read_exponent(value: object) -> object:
    """YAML 1.1 reads ``1e-3`` as text, because the number lacks its point; a user means the number."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


Exponent = BeforeValidator(_read_exponent)
Number = Annotated[float, Exponent]
Positive = Annotated[float, Field(gt=0), Exponent]
NonNegative = Annotated[float, Field(ge=0), Exponent]
Fraction = Annotated[float, Field(ge=0, le=1), Exponent]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=80)]


class Block(BaseModel):
    """A block of an experiment file. Unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


def canonical(block: Block) -> str:
    """Settings as one line of JSON with sorted keys: equal settings give equal text."""
    return json.dumps(block.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
