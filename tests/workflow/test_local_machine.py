"""Runs on one machine: no more jobs at once than cores, and no more jobs that want a card than cards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from clone import Clone

SHARDS = 5
STAGE = '''
"""The door with no stage behind it: each output says which card the job had, and when."""
import json, os, sys, time
from pathlib import Path
from distillery.devices import lease_card

start, running, started = time.time(), Path(f"running-{os.getpid()}"), Path(f"started-{os.getpid()}")
if sys.argv[1] == "sample":
    running.touch()
    started.touch()
card = lease_card() or os.environ.get("CUDA_VISIBLE_DEVICES")
if sys.argv[1] == "sample":
    end = time.monotonic() + 600
    while time.monotonic() < end:  # for the others: a busy machine starts them one after another
        running_jobs, started_jobs = (len(list(Path().glob(name))) for name in ("running-*", "started-*"))
        if running_jobs >= int(os.environ["EXPECTED"]) or started_jobs == int(os.environ["SHARDS"]):
            break
        time.sleep(0.05)
    time.sleep(0.5)  # for a job too many
    running.unlink()
option = ""
for word in sys.argv[2:]:
    if word.startswith("--"):
        option = word
    elif option not in ("--settings", "--threads") and not Path(word).exists():
        Path(word).parent.mkdir(parents=True, exist_ok=True)
        Path(word).write_text(json.dumps([card, start, time.time()]), "utf-8")
'''
EXPERIMENT = {
    "name": "cards",
    "dataset": {"source": {"kind": "digits"}, "resolution": 16, "channels": "grey", "holdout": {}},
    "autoencoder": {"block_out_channels": [8, 16]},
    "generators": {"dit": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 16}},
    "methods": {"dit": {"kind": "plain", "generator": "dit", "shards": SHARDS}},
    "ipc": [1],
    "evaluation": {"networks": ["convnet1_w8"]},
}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A project of which only the schedule is real."""
    copied = Clone.of_project(tmp_path / "clone")
    (copied.folder / "src/distillery/__main__.py").write_text(STAGE, "utf-8")
    (copied.folder / "experiments/cards.yaml").write_text(yaml.safe_dump(EXPERIMENT), "utf-8")
    return copied


def sampled(clone: Clone, *arguments: str, cards: str, expected: int) -> tuple[int, list[str]]:
    """Most sampling jobs at the same time, and the cards that they had; a job waits until `expected` are there."""
    environment = [f"CUDA_VISIBLE_DEVICES={cards}", f"EXPECTED={expected}", f"SHARDS={SHARDS}"]
    targets = [f"results/cards/distilled/dit/sampled-1-{shard}.parquet" for shard in range(SHARDS)]
    done = clone.run(
        "env", *environment, f"TMPDIR={clone.folder}", "snakemake", "--configfile", "experiments/cards.yaml",
        *arguments, "--", *targets,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    jobs = [json.loads((clone.folder / target).read_text("utf-8")) for target in targets]
    for path in [*(clone.folder / target for target in targets), *clone.folder.glob("started-*")]:
        path.unlink()
    at_once = max(sum(job[1] <= other[1] < job[2] for job in jobs) for other in jobs)
    return at_once, [card for card, _, _ in jobs]


def test_jobs_take_turns_with_the_cards(clone: Clone) -> None:
    at_once, cards = sampled(clone, "--cores", "64", cards="3,5", expected=2)
    assert at_once == 2
    assert set(cards) == {"3", "5"}
    at_once, cards = sampled(clone, "--cores", "64", "--resources", "gpu=1", cards="3,5", expected=1)
    assert at_once == 1  # the user's own limit stands
    assert set(cards) <= {"3", "5"}
    at_once, cards = sampled(clone, "--cores", "1", cards="3,5", expected=1)
    assert at_once == 1


def test_one_visible_card_is_for_one_job_at_a_time(clone: Clone) -> None:
    assert sampled(clone, "--cores", "64", cards="7", expected=1) == (1, ["7"] * SHARDS)


def test_without_cards_the_cores_are_the_limit(clone: Clone) -> None:
    assert sampled(clone, "--cores", "3", cards="", expected=3)[0] == 3
    assert sampled(clone, "--cores", "64", cards="", expected=SHARDS)[0] == SHARDS
