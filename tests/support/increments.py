"""Settings of an increment of the tiny world: guided, with a memory, three candidates per slot."""

from __future__ import annotations

from typing import Any

from distillery.diffusion.settings import Sampling
from distillery.guidance.deviation import Deviation
from distillery.guidance.learnability import Learnability
from distillery.guidance.registry import GUIDANCES, Guidances
from distillery.stages import generate_increment

SAMPLING = Sampling(steps=10, guidance_scale=3.0)
SIZE, KAPPA, GUIDED_STEPS = 2, 3, 7
STEERED = Learnability(strength=2.0, reference_weight=1.0, range=[2, 8])
AWAY = Deviation(strength=5.0, range=[2, 8])
OFF = {"learnability": Learnability(strength=0.0, range=[2, 8]), "deviation": Deviation(strength=0.0, range=[2, 8])}


def settings_of(k: int, **options: Any) -> generate_increment.Settings:
    """Settings of increment k; a guidance may be given by its name. Increment 1 has no other."""
    blocks = {name: options.pop(name) for name in GUIDANCES if name in options}
    if k > 1:
        blocks = {"learnability": STEERED, "deviation": AWAY, **blocks}
    defaults: dict[str, Any] = {
        "seed": 0,
        "stream": "study",
        "increment": k,
        "increment_size": SIZE,
        "resolution": 16,
        "sampling": SAMPLING,
        "candidates": KAPPA,
        "choose": "learnability",
        "min_reference_probability": 0.0,
        "guidance": Guidances().replaced(**blocks),
        "guidance_files": {},
        "shard": 0,
        "shards": 1,
    }
    return generate_increment.Settings(**{**defaults, **options})
