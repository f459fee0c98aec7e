"""A short version of `benchmarks/reliability.py`: random kills, and the bytes of an undisturbed run."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

from clone import PROJECT, Clone
from on_slurm import Cluster

KILLS = 5


def test_random_kills_change_no_byte(cluster: Cluster, undisturbed: Clone, tmp_path: Path) -> None:
    about = importlib.util.spec_from_file_location("reliability", PROJECT / "benchmarks/reliability.py")
    assert about is not None and about.loader is not None
    reliability = importlib.util.module_from_spec(about)
    sys.modules["reliability"] = reliability
    about.loader.exec_module(reliability)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    outcome = reliability.Outcome()
    reliability.disturb(cluster, tmp_path, KILLS, seed, outcome, finished=undisturbed)
    print(outcome.table())
    assert outcome.kills.total() >= KILLS
    assert outcome.different == []
    assert outcome.unfinished == 0
    assert outcome.unlocks <= outcome.kills["Snakemake: kill -9"]
