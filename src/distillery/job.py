"""One run of a stage: what the command line tells it, beside its settings and its files."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.devices import described
from distillery.errors import BadInput
from distillery.provenance import code_digest, package_versions
from distillery.signature import Input, Log, Output

__all__ = ["Input", "Job", "Log", "Output", "need_room"]

if TYPE_CHECKING:
    import torch

    from distillery.storage.resume import Resume

WHOLE_DIGEST_BYTES = 64 * 2**20
"""Inputs up to this size are told apart by content, larger ones by size and time."""


def need_room(path: Path, size: int, way_out: str) -> None:
    """Raise before a file is made that would not fit.

    Raises:
        BadInput: fewer than `size` bytes are free where it is to lie.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if size > (free := shutil.disk_usage(path.parent).free):
        raise BadInput(f"{path}: takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there; {way_out}")


@dataclass(frozen=True)
class Job:
    """What a stage knows of its own run.

    Attributes:
        stage: its name.
        settings: its settings as canonical JSON.
        device: to compute on.
        threads: that torch uses.
        inputs: the files that it reads.
        checkpoint_seconds: between two checkpoints of a long loop.
        cores: that it may keep busy; its bytes do not depend on them.
    """

    stage: str
    settings: str
    device: torch.device
    threads: int
    inputs: tuple[Path, ...] = ()
    checkpoint_seconds: float = 120.0
    cores: int = 1

    @cached_property
    def code(self) -> str:
        """Digest of the stage's code."""
        return code_digest(self.stage)

    @property
    def provenance(self) -> dict[str, str]:
        """What an artifact says of its making. No time and no host name: equal work gives equal bytes."""
        return {
            "stage": self.stage,
            "settings": self.settings,
            "code": self.code,
            "packages": json.dumps(package_versions(), sort_keys=True),
            "device": described(self.device),
            "threads": str(self.threads),
        }

    def resume(self, output: Path) -> Resume:
        """The resume file of the loop that makes `output`."""
        from distillery.storage.resume import Resume

        digest = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode())
        for path in self.inputs:
            about = path.stat()
            small = about.st_size <= WHOLE_DIGEST_BYTES
            digest.update(path.read_bytes() if small else f"{about.st_size} {about.st_mtime_ns}".encode())
        return Resume(output, digest.hexdigest(), self.checkpoint_seconds)
