"""The guidances that methods may hold, one line each, in the order in which stages take their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import create_model

from distillery.guidance.base import GuidanceBlock, GuidanceMapping
from distillery.guidance.deviation import Deviation
from distillery.guidance.influence import Influence
from distillery.guidance.learnability import Learnability
from distillery.guidance.mode import Mode
from distillery.guidance.representation import Representation

GUIDANCES: dict[str, type[GuidanceBlock]] = {
    "learnability": Learnability,
    "influence": Influence,
    "mode": Mode,
    "deviation": Deviation,
    "representation": Representation,
}

if TYPE_CHECKING:
    Guidances = GuidanceMapping
else:
    _fields: dict[str, Any] = {name: (block | None, None) for name, block in GUIDANCES.items()}
    Guidances = create_model(
        "Guidances",
        __base__=GuidanceMapping,
        __module__=__name__,
        __doc__="Guidances by name; null switches one off that the kind of method has by default.",
        **_fields,
    )
