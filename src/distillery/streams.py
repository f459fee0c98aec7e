"""Random numbers: every draw comes from a stream that is named by what it is for.

Nothing is seeded globally. A stream depends on its key alone, never on what was drawn before: noise is the same in
any batch, shard or order, and a loop that resumes at step n draws what it would have drawn.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

Key = tuple[int | str, ...]


def stream(*key: int | str) -> torch.Generator:
    """The stream of this key, at its start, on the CPU."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def image_noise(keys: Sequence[Key], purpose: int | str, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of one purpose (a sampling index), drawn for each image from its own stream.

    Args:
        keys: one key per image.
        purpose: appended to each key.
        shape: of one image's noise.

    Returns:
        (N, *shape), fp32, on the CPU.
    """
    return torch.stack([torch.randn(*shape, generator=stream(*key, purpose)) for key in keys])
