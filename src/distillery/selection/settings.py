"""Settings of the choice of real images."""

from __future__ import annotations

from typing import Literal

from distillery.settings import Block


class Random(Block):
    """Real images drawn at random, class by class, nested over sizes."""

    kind: Literal["random"]
