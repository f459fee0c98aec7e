"""An order that a seed draws and the ids of the items decide, without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def seeded_order(ids: Sequence[str], *key: int | str) -> list[int]:
    """Positions of items in random order.

    The place of an item comes from the key and its own id alone: neither from the other items, nor from their order.

    Args:
        ids: stable and different.
        key: names the draw: its seed and what it is for.
    """
    digests = [hashlib.sha256(json.dumps([*key, name]).encode()).digest() for name in ids]
    return sorted(range(len(ids)), key=digests.__getitem__)
