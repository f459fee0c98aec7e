"""What the tests share: one thread, one tiny world, and no request to stop that outlives its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FIRST = ("slurm", *(f"workflow/{name}" for name in ("test_default", "test_own_data", "test_family")))
FIRST += tuple(f"workflow/{name}" for name in ("test_real_images", "test_matching"))
FIRST += ("diffusion/test_training_options", "test_slurm", "cards", "diffusion/test_hub", "test_provenance")
"""The longest groups begin first, so that no worker is left alone with one at the end."""

TOGETHER = {"test_devices": "cards", "workflow/test_local_machine": "cards"}
"""Files that use the same thing of the machine: one worker takes them, one after another."""


def group_of(place: str) -> str:
    """What one worker takes of the tests, by the path of a file relative to the project."""
    path = Path(place).relative_to("tests").with_suffix("")
    return "slurm" if path.parent.name == "slurm" else TOGETHER.get(str(path), str(path))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long groups first."""
    groups = [group_of(item.nodeid.split("::")[0]) for item in items]
    rank = {id(item): FIRST.index(one) if one in FIRST else len(FIRST) for item, one in zip(items, groups, strict=True)}
    items.sort(key=lambda item: rank[id(item)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes whole groups: tests of a file share what was run for them, and there is one cluster for all."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.split("::", maxsplit=1)[0])

    return ByGroup(config, log)


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
    import distillery.storage.resume

    distillery.storage.resume.clear_stop()
    yield
    distillery.storage.resume.clear_stop()
