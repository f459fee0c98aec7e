"""What the tests share: one thread, one tiny world, and no signal that outlives its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A `tiny.World`, trained once per session; nobody changes it."""
    import torch
    from tiny import build_world

    torch.set_num_threads(1)
    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def no_request() -> Iterator[None]:
    """No request to stop before and after the test."""
    import distillery.resume

    distillery.resume._requested.clear()
    yield
    distillery.resume._requested.clear()
