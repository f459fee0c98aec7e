"""An order that a seed draws and the ids of the items decide, without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def seeded_order(ids: Sequence[str], *key: int | str) -> list[int]:
    """Positions of items with stable, different ids in random order; `key` names the draw: its seed and purpose.

    The place of an item comes from the key and its own id alone: neither from the other items, nor from their order.
    """
    digests = [hashlib.sha256(json.dumps([*key, name]).encode()).digest() for name in ids]
    return sorted(range(len(ids)), key=digests.__getitem__)
