"""What the mapping of guidances promises: it knows its files, and an absent guidance leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny import CLASSES, World

from distillery.diffusion.settings import Sampling
from distillery.guidance.base import GuidanceContext, Remembers, Scene
from distillery.guidance.deviation import Deviation
from distillery.guidance.influence import Influence
from distillery.guidance.learnability import Learnability
from distillery.guidance.mode import Mode
from distillery.guidance.registry import GUIDANCES, Guidances
from distillery.guidance.representation import Representation
from distillery.settings import canonical

EVERY = Guidances().replaced(
    learnability=Learnability(),
    influence=Influence(surrogate="conv"),
    mode=Mode(),
    deviation=Deviation(),
    representation=Representation(),
)


class Places:
    """Places of files, by what is asked for."""

    def gradients(self, surrogate: str) -> str:
        return f"gradients of {surrogate}"

    def modes(self, count: int | None) -> str:
        return f"{count or 'all'} modes"

    def latents(self) -> list[str]:
        return ["latents"]


def test_an_absent_guidance_leaves_no_trace_in_the_settings() -> None:
    assert canonical(Guidances()) == "{}"
    some = Guidances().replaced(mode=Mode(stop=3))
    assert list(json.loads(canonical(some))) == ["mode"]
    assert Guidances.model_validate_json(canonical(some)) == some
    assert Guidances.model_validate_json(canonical(EVERY)) == EVERY


def test_an_unknown_guidance_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Guidances.model_validate({"influense": {}})


def test_guidances_stand_in_the_order_of_the_registry() -> None:
    assert [*EVERY.present()] == [*GUIDANCES]
    assert EVERY.get(Mode) == Mode()
    assert Guidances().get(Mode) is None


def test_every_guidance_gets_its_own_files_whatever_the_order_of_their_counts() -> None:
    files = EVERY.files(Places())
    assert files == {"influence": ["gradients of conv"], "mode": ["all modes"], "representation": ["latents"]}
    paths = [Path(path) for some in files.values() for path in some]
    for names in ([*files], [*reversed(files)]):
        divided = EVERY.divided(paths, dict.fromkeys(names, 1))
        assert {name: [*map(str, divided[name])] for name in names} == files
        assert divided["learnability"] == divided["deviation"] == []
    assert Guidances().divided(None, {}) == {}


def test_deviation_and_representation_read_the_images_so_far() -> None:
    for name in ("deviation", "representation"):
        others = {other: None for other in GUIDANCES if other != name}
        assert EVERY.replaced(**others).needs_images
    assert not EVERY.replaced(deviation=None, representation=None).needs_images


def test_a_guidance_without_a_range_follows_the_first_one_beside_it() -> None:
    def followed(**blocks: Learnability | Influence | Mode) -> list[int] | None:
        deviation = Guidances().replaced(deviation=Deviation(), **blocks).resolved(50).get(Deviation)
        assert deviation is not None
        return deviation.range

    assert followed() == [10, 45]
    assert followed(mode=Mode()) == [26, 49]
    assert followed(mode=Mode(), influence=Influence(surrogate="conv")) == [30, 45]
    assert followed(mode=Mode(), learnability=Learnability(range=[1, 4])) == [1, 4]
    assert EVERY.resolved(50).resolved(50) == EVERY.resolved(50)


def test_a_guidance_names_its_faults_with_its_key() -> None:
    context = GuidanceContext("dit", Sampling(steps=8, solver="dpm"), ["conv"], latent_side=8, increments=False)
    guidance = Guidances().replaced(
        learnability=Learnability(strength=0, reference_weight="auto"),
        influence=Influence(surrogate="four", repeats=2, range=[2, 8]),
        mode=Mode(stop=7, pool=9),
        deviation=Deviation(range=[2, 9]),
        representation=Representation(range=[0, 8]),
    )
    assert [line.partition(":")[0] for line in guidance.check("guidance", context)] == [
        "guidance.learnability",
        "guidance.learnability.reference_weight",
        "guidance.influence.range",
        "guidance.influence.repeats",
        "guidance.influence.surrogate",
        "guidance.mode.stop",
        "guidance.mode.pool",
        "guidance.deviation.range",
        "guidance.representation.range",
    ]


def test_strength_zero_opens_no_memory(world: World) -> None:
    scene = Scene(world.renderer(), CLASSES)
    off, on = (
        Guidances().replaced(deviation=Deviation(strength=strength)).resolved(50).open({}, scene)
        for strength in (0.0, 1.0)
    )
    assert off == []
    assert [isinstance(guidance, Remembers) for guidance in on] == [True]
