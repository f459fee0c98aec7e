"""What the tests share: one thread, one tiny world, and no request to stop that outlives its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """What is bit-equal is so for one number of threads; and tiny models are faster on one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> object:
    """A `tiny.World`, trained once per session; nobody changes it."""
    from tiny import build_world

    return build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def no_request() -> Iterator[None]:
    """No signal has asked for a stop before the test, and none after it."""
    import distillery.resume

    distillery.resume._requested.clear()
    yield
    distillery.resume._requested.clear()
