"""What the tests share: one thread, one tiny world, and no request to stop that outlives its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

FIRST = ("slurm", "test_workflow", "test_own_data", "test_family", "test_real_workflow", "test_matching_workflow")
"""What takes minutes begins first, so that no worker is left alone with it at the end."""

TOGETHER = {"test_devices": "cards", "test_local_machine": "cards"}
"""Files that use the same thing of the machine: one worker takes them, one after another."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A worker takes whole files, because their tests share what was run for them; and the only cluster is one's."""

    def group(item: pytest.Item) -> str:
        name = item.path.stem
        return "slurm" if item.path.parent.name == "slurm" else TOGETHER.get(name, name)

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: FIRST.index(group(item)) if group(item) in FIRST else len(FIRST))


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
