"""Experiments that are malformed by chance: each is refused in plain lines with keys, or plans."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import PROJECT, Clone
from edits import Config
from wildcards import Job

from distillery.errors import ExperimentError
from distillery.plan import rules, targets
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Inputs
from distillery.plan.load import load

BASES = ["config.yaml", "experiments/smoke.yaml", "experiments/smoke-family.yaml", "experiments/smoke-matching.yaml"]
BASES += [f"experiments/digits-{name}.yaml" for name in ("igd", "lgd", "matching", "memory", "methods", "mgd3")]
CONFIGS: dict[str, Config] = {name: yaml.safe_load((PROJECT / name).read_text("utf-8")) for name in BASES}
CASES = 400
THROUGH_SNAKEMAKE = 6

NAMES = ["../x", "$(touch ran)", "a b", "", "{ipc}", "<results>", "x" * 500, "a\nb", "\0", "狗", "-rf", "full"]
NUMBERS = [0, -1, 1, 2, 10**9, 2**70, -(10**20), 0.5, 1e300, -1e-300, float("nan"), float("inf"), 1.0000001]
WRONG = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"kind": None},
    {"kind": "ldm"},
    {1: 2},
    {None: None},
    "1e3",
]
WRONG += ["auto", "none", [1, "a"], {"a": {"b": {"c": {}}}}, [{"kind": "random"}], 3, 1.5, "0"]
Path_ = tuple[str | int, ...]


def places(node: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Where something stands, from the top down."""
    children: Any = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def parent(config: Config, path: Path_) -> Any:
    """What holds the last part of a path."""
    node: Any = config
    for part in path[:-1]:
        node = node[part]
    return node


def misspelt(word: str, chance: random.Random) -> str:
    """A word with a letter lost, doubled or changed."""
    index = chance.randrange(len(word) or 1)
    return chance.choice(
        [word[:index] + word[index + 1 :], word[:index] + "x" + word[index:], word.upper(), word + "s"]
    )


def wrong_value(config: Config, path: Path_, chance: random.Random) -> None:
    parent(config, path)[path[-1]] = deepcopy(chance.choice([*WRONG, *NUMBERS, *NAMES]))


def extreme_number(config: Config, path: Path_, chance: random.Random) -> None:
    parent(config, path)[path[-1]] = chance.choice(NUMBERS)


def hostile_value(config: Config, path: Path_, chance: random.Random) -> None:
    parent(config, path)[path[-1]] = chance.choice(NAMES)


def lost(config: Config, path: Path_, chance: random.Random) -> None:
    del parent(config, path)[path[-1]]


def renamed(config: Config, path: Path_, chance: random.Random) -> None:
    block = parent(config, path)
    if isinstance(block, dict):
        key = str(path[-1])
        block[chance.choice([misspelt(key, chance), chance.choice(NAMES)])] = block.pop(path[-1])


def moved(config: Config, path: Path_, chance: random.Random) -> None:
    value = deepcopy(parent(config, path)[path[-1]])
    blocks = [place for place in places(config) if isinstance(parent(config, place)[place[-1]], dict)]
    target = chance.choice(blocks)
    parent(config, target)[target[-1]][chance.choice([str(path[-1]), "kind", "extra"])] = value


def repeated(config: Config, path: Path_, chance: random.Random) -> None:
    block = parent(config, path)
    if isinstance(block, list):
        block.append(deepcopy(block[int(path[-1])]))
    else:
        block[f"{path[-1]}2"] = deepcopy(block[path[-1]])


def nested(config: Config, path: Path_, chance: random.Random) -> None:
    value: Any = deepcopy(parent(config, path)[path[-1]])
    for _ in range(chance.choice([1, 2, 30])):
        value = chance.choice([[value], {"kind": value}, {chance.choice(NAMES): value}])
    parent(config, path)[path[-1]] = value


MUTATIONS: list[Callable[[Config, Path_, random.Random], None]] = [
    *(wrong_value, wrong_value, extreme_number, hostile_value, lost, renamed, renamed, moved, repeated, nested)
]


def mutated(number: int) -> Config:
    """A shipped experiment with one to three mutations, by its number."""
    chance = random.Random(number)
    config = deepcopy(CONFIGS[BASES[number % len(BASES)]])
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        if present := list(places(config)):
            chance.choice(MUTATIONS)(config, chance.choice(present), chance)
    return config


def planned(experiment: Experiment) -> int:
    """Everything that Snakemake asks of an experiment before the first job; how many files it asks for."""
    inputs = Inputs(experiment)
    wanted = [*targets.distilled_sets(experiment), *targets.tables(experiment), *targets.figures(experiment)]
    job = Job()
    wanted += [*inputs.all_evaluations(job), *inputs.all_increments(job), *inputs.latents(job), *inputs.references(job)]
    inputs.source(job), inputs.source_content(job)
    stages = {"ingest": [{}], "tabulate_accuracy": [{}], "tabulate_statistics": [{}]}
    methods = [{"method": name} for name in experiment.methods]
    for about in methods:
        method = experiment.methods[about["method"]]
        for ipc in method.sizes(experiment.ipc):
            one = Job(**about, ipc=ipc, shard=0, k=1)
            wanted += [inputs.evaluated_images(one)]
            wanted += inputs.parts(one) if ipc != "full" else []
            wanted += [*inputs.generator(one), *inputs.method_autoencoder(one), *inputs.features(one)]
    for name in experiment.generators:
        wanted += inputs.base(Job(generator=name))
    for protocol in experiment.evaluation.protocols:
        for about in methods:
            for network in experiment.evaluation.networks:
                ipc = experiment.methods[about["method"]].sizes(experiment.ipc)[0]
                stages.setdefault("evaluate", []).append(
                    {**about, "ipc": ipc, "network": network, "protocol": protocol.label}
                )
    for stage, several in stages.items():
        for wildcards in several:
            rules.settings(experiment, stage)(Job(**wildcards))
    assert all(re.fullmatch(r"[A-Za-z0-9_.+@=<>/-]+", path) for path in wanted)
    return len(wanted)


LINE = re.compile(r"[^\x00-\x1f\x7f]{3,1200}")
KEY = re.compile(r"\S[^:]*: \S")


@pytest.mark.parametrize("part", range(8))
def test_a_mutated_experiment_is_refused_in_lines_with_keys_or_plans(part: int) -> None:
    refused = accepted = 0
    for number in range(part, CASES, 8):
        config = mutated(number)
        start = time.monotonic()
        try:
            experiment = load(config)
        except ExperimentError as error:
            refused += 1
            lines = str(error).split("\n")
            assert len(set(lines)) == len(lines), (number, lines)
            keys = [line.partition(": ")[0] for line in lines]
            for line in lines:
                assert LINE.fullmatch(line) and KEY.match(line), (number, line)
                assert "pydantic" not in line and "Traceback" not in line, (number, line)
            assert len(keys) <= 40, (number, keys)
        except Exception as error:
            raise AssertionError(f"case {number}: {error!r}\n{yaml.safe_dump(config)}") from error
        else:
            accepted += 1
            try:
                assert planned(experiment) > 0
            except Exception as error:
                raise AssertionError(f"case {number} is accepted: {error!r}\n{yaml.safe_dump(config)}") from error
        assert time.monotonic() - start < 5, number
    assert refused > 20 and accepted > 0


def test_what_is_refused_names_the_key_that_is_wrong() -> None:
    """Of experiments with one misspelt key, the line names that key and offers the right one."""
    named = total = 0
    for number in range(120):
        chance = random.Random(number)
        config = deepcopy(CONFIGS[BASES[number % len(BASES)]])
        present = [path for path in places(config) if len(path) == 1 and isinstance(path[-1], str)]
        path = chance.choice(present)
        key = str(path[-1])
        wrong = key[:-1] + "xx"
        config[wrong] = config.pop(key)
        with pytest.raises(ExperimentError) as refused:
            load(config)
        lines = str(refused.value).split("\n")
        total += 1
        named += any(line.startswith(f"{wrong}: no such key") for line in lines)
    assert named == total


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing is run."""
    return Clone.of_project(tmp_path_factory.mktemp("mutated") / "clone")


@pytest.mark.parametrize("number", range(THROUGH_SNAKEMAKE))
def test_snakemake_answers_a_mutated_experiment_as_planning_does(number: int, clone: Clone, tmp_path: Path) -> None:
    config = mutated(number)
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    try:
        load(config)
        wanted = 0
    except ExperimentError:
        wanted = 1
    status, printed = clone.dry_run("--configfile", str(path))
    assert status == wanted, printed
    assert "Traceback" not in printed and 'File "' not in printed
    assert wanted == 0 or f"Error: {path}" in printed
