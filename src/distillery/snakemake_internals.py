"""Interim: replaced by the module of the storage branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillery import processes
from distillery.devices import visible_cards

HOLDER = Path(".snakemake/holder.json")


def remove_stale_lock() -> None:
    """Remove the lock that a killed Snakemake left behind."""
    if not HOLDER.exists():
        return
    noted = HOLDER.stat().st_mtime
    locks = [lock for lock in Path(".snakemake/locks").glob("*.lock") if lock.stat().st_mtime <= noted]
    if processes.owner_alive(HOLDER) is False:
        for lock in locks:
            lock.unlink(missing_ok=True)


def limit_to_cards(workflow: Any) -> None:
    """On this machine no more jobs at once ask for a card than there are."""
    local = workflow.resource_settings.nodes is None and workflow.is_main_process
    if local and visible_cards() and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(visible_cards()))
