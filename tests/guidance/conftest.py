"""What the tests of guidances share."""

from __future__ import annotations

from pathlib import Path

import pytest
from steering import chosen, trained
from tiny import World


@pytest.fixture(scope="session")
def surrogate(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of a surrogate that the stages trained and chose checkpoints of."""
    folder = tmp_path_factory.mktemp("surrogate")
    trained(world, folder / "checkpoints.safetensors")
    chosen(world, folder / "checkpoints.safetensors", folder / "gradients.safetensors")
    return folder / "gradients.safetensors"
