"""What a job, and the files of a run, may take: stated, or else more than any machine has."""

from __future__ import annotations

from pydantic import Field

from distillery.settings import Block, Positive

MEMORY_GB = 300.0
"""More than one card has."""

DISK_GB = 2_000.0
"""More than the files of any published setting."""

TERAFLOPS = 5_000.0
"""Beyond the fastest card, whose bfloat16 has half of it."""

CORE_TERAFLOPS = 5.0
"""Beyond a core, whose matrix unit has 4 in bfloat16 and a tenth of it in float32."""


class Limits(Block):
    """What planning refuses, by estimates that are lower bounds: a job may take more than its estimate."""

    memory_gb: Positive | None = Field(
        None,
        description=f"Memory of one job. None: {MEMORY_GB:g}; and where jobs run here without a card, that of this "
        "machine.",
    )
    hours: Positive = Field(720.0, description="Time of one job.")
    teraflops: Positive | None = Field(
        None,
        description="1e12 floating-point operations a second, of one card or of the cores of a job; fewer give closer "
        f"estimates of time. None: {TERAFLOPS:,g}, beyond all cards; and where jobs run here without a card, "
        f"{CORE_TERAFLOPS:g} for each core.",
    )
    disk_gb: Positive | None = Field(
        None,
        description=f"Latents, trajectories, snapshots and stored labels of all seeds. None: {DISK_GB:,g}; and where "
        "jobs run here, what the disk has room for.",
    )
