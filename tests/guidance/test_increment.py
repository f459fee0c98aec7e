"""What an increment promises: the best candidate of every slot, a memory that knows the slots before it, and equal
bytes whatever happens on the way.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from increments import GUIDED_STEPS, KAPPA, OFF, SAMPLING, SIZE, settings_of
from steering import modes_file
from tiny import CLASSES, CPU, LATENT, MADE_BY, NETWORK, World, digits, image_set_of, job, stopped_at
from torch import Tensor

from distillery.data.pixels import to_unit
from distillery.diffusion.renderer import Renderer
from distillery.errors import BadInput
from distillery.guidance.class_memory import ClassMemory
from distillery.guidance.deviation import Deviation, DeviationGuidance
from distillery.guidance.increment import choose_candidates, generate_candidates
from distillery.guidance.learnability import Learnability
from distillery.guidance.lgd import encode_seed
from distillery.guidance.mode import Mode
from distillery.guidance.mode_discovery import read_modes
from distillery.guidance.registry import Guidances
from distillery.guidance.score import Scorer
from distillery.selection.random import ordered_by_slot, random_order
from distillery.stages import collect, generate_increment, sample, select_increment
from distillery.storage.atomic import write_json
from distillery.storage.images import ImageSet, concatenate, read_images, write_images
from distillery.students.networks import Classifier, save_networks


@dataclass
class Loop:
    """The loop of one method up to increment 1, and the stages that go on from it."""

    world: World
    folder: Path
    first: Path

    def generate(self, name: str, k: int = 2, checkpoint_seconds: float = 1e9, **options: Any) -> Path:
        """Candidates of increment k, in a file of this name."""
        files: dict[str, Any] = dict(self.world.models)
        if k > 1:
            files |= {"previous": [self.first], **self.world.networks}
        files |= {
            key: options.pop(key)
            for key in ("student", "other_students", "reference", "calibrated", "seed_images", "seed_parts", "modes")
            if key in options
        }
        if "modes" in files:
            files["guidance_files"], options["guidance_files"] = [files.pop("modes")], {"mode": 1}
        settings, out = settings_of(k, **options), self.folder / f"{name}.parquet"
        inputs = [path for given in files.values() for path in (given if isinstance(given, list) else [given])]
        run = job("generate_increment", settings, inputs, checkpoint_seconds)
        generate_increment.run(settings, data=self.world.data, **files, candidates=out, job=run)
        return out

    def select(self, candidates: list[Path]) -> ImageSet:
        """The increment that the candidates of these shards make."""
        settings, out = select_increment.Settings(), candidates[0].with_suffix(".images.parquet")
        run = job("select_increment", settings)
        select_increment.run(settings, candidates=candidates, images=out, job=run)
        return read_images(out, "select_increment")


@pytest.fixture(scope="module")
def loop(world: World, tmp_path_factory: pytest.TempPathFactory) -> Loop:
    made = Loop(world, tmp_path_factory.mktemp("loop"), Path())
    candidates = made.generate("increment-1", k=1, candidates=1)
    made.select([candidates])
    made.first = candidates.with_suffix(".images.parquet")
    return made


@pytest.fixture(scope="module")
def second(loop: Loop) -> Path:
    """Candidates of increment 2: guided, with memory, three per slot."""
    return loop.generate("increment-2")


def opened(path: Path) -> ImageSet:
    return read_images(path, "generate_increment")


def same_images(one: ImageSet, other: ImageSet) -> None:
    """Equal up to rounding: latents to 1e-4, images but for a stray pixel."""
    assert one.paths == other.paths
    assert one.labels.tolist() == other.labels.tolist()
    np.testing.assert_allclose(one.columns["latent"], other.columns["latent"], rtol=0, atol=1e-4)
    difference = np.abs(one.pixels().astype(int) - other.pixels().astype(int))
    assert difference.max() <= 1
    assert difference.sum() <= 2


# ---- the choice among candidates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learnability", "probability", "least", "kept"),
    [
        ([0.1, 0.9, 0.5], [1, 1, 1], 0.0, 1),
        ([0.9, 0.9, 0.5], [1, 1, 1], 0.0, 0),
        ([0.1, 0.7, 0.7], [1, 1, 1], 0.0, 1),
        ([-3.0, -2.0, -2.5], [1, 1, 1], 0.0, 1),
        ([0.9, 0.5, 0.1], [0.0, 0.0, 0.0], 0.0, 0),
        ([0.9, 0.5, 0.1], [0.2, 0.6, 0.9], 0.5, 1),
        ([0.9, 0.5, 0.1], [0.2, 0.5, 0.9], 0.5, 1),
        ([0.1, 0.5, 0.9], [0.2, 0.3, 0.4], 0.5, 2),
        ([0.4], [0.0], 0.5, 0),
    ],
    ids=[
        "the largest S",
        "a tie goes to the lowest",
        "a tie of the later ones goes to the lower",
        "all negative",
        "nothing is left out at zero",
        "too improbable",
        "just probable enough",
        "all too improbable, so none is left out",
        "one candidate",
    ],
)
def test_the_candidate_of_largest_s_is_kept(
    learnability: list[float], probability: list[float], least: float, kept: int
) -> None:
    assert choose_candidates(torch.tensor([learnability]), torch.tensor([probability]), least).tolist() == [kept]


def test_every_slot_chooses_for_itself() -> None:
    learnability = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.1, 0.3, 0.2]])
    assert choose_candidates(learnability, torch.ones(3, 3)).tolist() == [2, 0, 1]


def test_every_slot_keeps_its_candidate_of_largest_recorded_s(second: Path) -> None:
    images = opened(second)
    assert len(images) == len(CLASSES) * SIZE * KAPPA
    slot, label, chosen, value = (
        values.reshape(-1, KAPPA)
        for values in (images.columns["slot"], images.labels, images.columns["chosen"], images.columns["learnability"])
    )
    assert (slot == slot[:, :1]).all() and (label == label[:, :1]).all()
    assert list(zip(slot[:, 0].tolist(), label[:, 0].tolist(), strict=True)) == [
        (at, of) for at in range(SIZE, 2 * SIZE) for of in range(len(CLASSES))
    ]
    assert images.columns["candidate"].tolist() == [*range(KAPPA)] * (len(images) // KAPPA)
    assert (chosen.argmax(1) == value.argmax(1)).all() and (chosen.sum(1) == 1).all()
    assert len(set(chosen.argmax(1).tolist())) > 1
    assert set(images.columns["increment"].tolist()) == {2}


def test_every_candidate_is_recorded_with_what_its_stored_image_scores(second: Path, world: World) -> None:
    images = opened(second)
    score = world.scorer().score_stored(torch.from_numpy(images.pixels()), torch.from_numpy(images.labels))
    for name, values in vars(score).items():
        np.testing.assert_allclose(images.columns[name], values.numpy(), rtol=1e-5, atol=1e-5)


def test_the_latent_of_every_candidate_decodes_to_its_image(second: Path, world: World) -> None:
    images = opened(second)
    latents = torch.from_numpy(images.columns["latent"].copy()).view(-1, *LATENT)
    with torch.no_grad():
        decoded = world.codec.decode(latents).clamp(-1, 1)
    torch.testing.assert_close(decoded, to_unit(torch.from_numpy(images.pixels())), rtol=0, atol=1.1 / 127.5)


def test_a_random_choice_is_that_of_the_stream_and_not_of_the_score(loop: Loop) -> None:
    options: dict[str, Any] = {"choose": "random", "increment_size": 6, **OFF}
    images = opened(loop.generate("random", **options))
    chosen = images.columns["chosen"].reshape(-1, KAPPA)
    assert (chosen.sum(1) == 1).all()
    assert set(chosen.argmax(1).tolist()) == {0, 1, 2}
    assert (chosen.argmax(1) != images.columns["learnability"].reshape(-1, KAPPA).argmax(1)).any()
    halves = [opened(loop.generate(f"random-{shard}", **options, shard=shard, shards=2)) for shard in (0, 1)]
    assert kept(concatenate(halves)) == kept(images)


def kept(images: ImageSet) -> set[str]:
    return {path for path, chosen in zip(images.paths, images.columns["chosen"], strict=True) if chosen}


# ---- one candidate and no guidance -----------------------------------------------------------------------------------


def test_one_unguided_candidate_per_slot_is_plain_sampling(loop: Loop, world: World) -> None:
    settings = sample.Settings(
        seed=0,
        stream="study",
        first=0,
        ipc=2 * SIZE,
        resolution=16,
        sampling=SAMPLING,
        guidance=Guidances(),
        guidance_files={},
        shard=0,
        shards=1,
    )
    out = loop.folder / "sample.parquet"
    sample.run(settings, data=world.data, **world.models, images=out, job=job("sample", settings))
    plain = read_images(out, "sample")

    candidates = loop.generate("one", candidates=1, **OFF)
    second = loop.select([candidates])
    assert opened(candidates).columns["chosen"].all()
    same_images(concatenate([read_images(loop.first, "select_increment"), second]), plain)


def test_methods_of_one_stream_share_their_noise_and_others_do_not(loop: Loop) -> None:
    one, again, other = (
        opened(loop.generate(name, candidates=KAPPA, stream=stream, **OFF))
        for name, stream in (("a", "study"), ("b", "study"), ("c", "other"))
    )
    assert one.images == again.images
    assert not set(one.images) & set(other.images)
    by_name = dict(zip(one.paths, one.images, strict=True))
    fewer = opened(loop.generate("d", candidates=1, **OFF))
    assert [by_name[path] for path in fewer.paths] == fewer.images


# ---- the memory ------------------------------------------------------------------------------------------------------


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many latents each class had, at every step that asked."""
    seen: list[list[int]] = []
    nearest = ClassMemory.nearest

    def watched(self: ClassMemory, latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        seen.append([self.count(label) for label in range(len(CLASSES))])
        return nearest(self, latents, labels)

    monkeypatch.setattr(ClassMemory, "nearest", watched)
    return seen


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [2, 3, 4]),
        ({"memory": "increment"}, [0, 1, 2]),
        ({"capacity": 3}, [2, 3, 3]),
    ],
    ids=["all increments", "this increment", "capacity 3"],
)
def test_a_slot_sees_the_increments_and_the_slots_before_it(
    options: dict[str, Any], expected: list[int], loop: Loop, counts: list[list[int]]
) -> None:
    deviation = Deviation(strength=5.0, range=[2, 8], **options)
    # Increment 2 of three slots, after an increment 1 of two: slot j sees 2 + j - 1.
    loop.generate("memory", increment_size=3, deviation=deviation)
    assert counts == [[count] * len(CLASSES) for count in expected for _ in range(GUIDED_STEPS)]


def test_what_was_chosen_is_remembered_and_what_was_not_is_not(world: World) -> None:
    memory = ClassMemory()
    drawn = generate_candidates(
        world.renderer(steps=5),
        labels=range(4),
        conditions=world.conditions,
        slots=range(2),
        candidates=3,
        key=lambda label, slot, candidate: ("memory", label, slot, candidate),
        scorer=world.scorer(),
        guidances=[DeviationGuidance(memory, strength=0.0, first=0, last=4)],
    )
    nearest, _ = memory.nearest(drawn.latents, drawn.labels)
    remembered = (nearest == drawn.latents).flatten(1).all(1)
    assert remembered.tolist() == drawn.chosen.tolist()
    assert [memory.count(label) for label in range(4)] == [2] * 4


def test_without_deviation_nothing_is_remembered(loop: Loop, counts: list[list[int]]) -> None:
    loop.generate("no-memory", deviation=OFF["deviation"])
    assert counts == []


def test_guidance_and_deviation_change_the_images(loop: Loop, second: Path) -> None:
    plain = opened(loop.generate("plain", **OFF))
    no_deviation = opened(loop.generate("steered", deviation=OFF["deviation"]))
    found = [np.array(images.columns["learnability"]) for images in (plain, opened(second), no_deviation)]
    assert found[1].mean() > found[0].mean() + 0.5
    assert found[2].mean() > found[0].mean() + 0.5
    assert not set(opened(second).images) & set(plain.images)
    assert opened(second).images != no_deviation.images


def test_a_calibrated_strength_replaces_the_one_of_the_settings(loop: Loop) -> None:
    guidance = loop.folder / "guidance.json"
    write_json(guidance, {"strength": 0.0, "reference_weight": 1.0})
    auto = Learnability(strength="auto", reference_weight="auto", range=[2, 8])
    made = opened(loop.generate("auto", learnability=auto, calibrated=guidance, deviation=OFF["deviation"]))
    assert made.images == opened(loop.generate("zero", **OFF)).images


@pytest.fixture(scope="module")
def modes(loop: Loop) -> Path:
    """Two modes per class and increment, for two increments."""
    return modes_file(loop.world, loop.folder, 2 * SIZE)


def to_modes(images: ImageSet, path: Path) -> float:
    """The mean distance of the images to the modes of their class and slot."""
    latents = torch.from_numpy(images.columns["latent"].copy()).view(-1, *LATENT)
    own = read_modes(path, CLASSES)[images.labels, images.columns["slot"]]
    return float((latents - own).flatten(1).norm(dim=1).mean())


GENTLE = Mode(strength=0.05, stop=4)


def test_a_guided_first_increment_lies_nearer_to_the_first_modes_of_its_classes(loop: Loop, modes: Path) -> None:
    options: dict[str, Any] = {"k": 1, "candidates": 1}
    plain = read_images(loop.first, "select_increment")
    guided = opened(loop.generate("guided", mode=GENTLE, modes=modes, **options))
    assert sorted(set(guided.columns["slot"].tolist())) == [*range(SIZE)]
    assert to_modes(guided, modes) < 0.98 * to_modes(plain, modes)
    assert guided.columns["chosen"].all() and "learnability" not in guided.columns
    swapped = guided.columns["slot"].copy()
    guided.columns["slot"] = (swapped + SIZE).astype(swapped.dtype)
    later = to_modes(guided, modes)
    guided.columns["slot"] = swapped
    assert to_modes(guided, modes) < later  # the modes of increment 2 are not those of increment 1


def test_chosen_modes_replace_those_of_the_settings(loop: Loop, modes: Path) -> None:
    guidance = loop.folder / "guidance-modes.json"
    auto = Learnability(strength="auto", reference_weight="auto", range=[2, 8])
    options: dict[str, Any] = {"modes": modes, "deviation": OFF["deviation"], "increment_size": 1}

    def chosen(**choice: float) -> list[bytes]:
        write_json(guidance, {"strength": 1.0, "reference_weight": 1.0, **choice})
        made = loop.generate("chosen", learnability=auto, calibrated=guidance, mode=GENTLE, **options)
        return opened(made).images

    by_hand = {"learnability": Learnability(strength=1.0, reference_weight=1.0, range=[2, 8])}
    images = [
        opened(loop.generate("by-hand", mode=Mode(strength=strength, stop=stop), **by_hand, **options)).images
        for strength, stop in ((0.05, 4), (0.05, 7), (0.1, 7))
    ]
    assert chosen() == images[0]
    assert chosen(mode_stop=7) == images[1] != images[0]
    assert chosen(mode_stop=7, mode_strength=0.1) == images[2] != images[1]


def test_unusable_gradients_are_reported(loop: Loop, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    loop.generate("skipped", student=world.networks["reference"])  # S = 0 whatever the image
    images = len(CLASSES) * SIZE * KAPPA
    assert f"{images * GUIDED_STEPS} gradients were too small or not finite" in capsys.readouterr().out


# ---- shards and interruptions ----------------------------------------------------------------------------------------


def test_class_shards_give_the_images_of_the_whole(loop: Loop, second: Path) -> None:
    shards = [loop.generate(f"shard-{shard}", shard=shard, shards=2) for shard in (0, 1)]
    assert [sorted(set(opened(path).labels.tolist())) for path in shards] == [[0, 2], [1, 3]]
    whole, joined = opened(second), concatenate([opened(path) for path in shards])
    assert kept(joined) == kept(whole)
    same_images(joined.take(np.argsort(joined.paths)), whole.take(np.argsort(whole.paths)))
    same_images(loop.select(shards), loop.select([second]))


INTERRUPTED: dict[str, tuple[dict[str, Any], int]] = {
    "slot by slot": ({"increment_size": 3}, 3),
    "without a memory": (
        {
            "increment_size": 3,
            "deviation": OFF["deviation"],
            "sampling": SAMPLING.model_copy(update={"batch_size": 12}),
        },
        3,
    ),
}
"""Options of an increment of three groups of images."""


@pytest.mark.parametrize("kind", INTERRUPTED)
@pytest.mark.parametrize("stop", [1, 2])
def test_an_increment_stopped_by_a_signal_and_resumed_gives_the_same_bytes(
    kind: str, stop: int, loop: Loop, rendered: list[int], no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, groups = INTERRUPTED[kind]
    whole = loop.generate("whole", **options).read_bytes()
    assert len(rendered) == groups
    with stopped_at(stop, monkeypatch), pytest.raises(SystemExit) as stopped:
        loop.generate("halves", **options)
    assert stopped.value.code == 143
    assert not (loop.folder / "halves.parquet").exists()
    rendered.clear()
    assert loop.generate("halves", **options).read_bytes() == whole
    assert len(rendered) == groups - stop  # what was done is not done again
    assert not list(loop.folder.glob("*.resume.safetensors"))
    (loop.folder / "halves.parquet").unlink()


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the groups of images that were rendered."""
    sizes: list[int] = []
    render = Renderer.render

    def watched(self: Renderer, names: Any, *others: Any) -> tuple[Tensor, Tensor]:
        sizes.append(len(names))
        return render(self, names, *others)

    monkeypatch.setattr(Renderer, "render", watched)
    return sizes


def test_an_increment_killed_on_the_way_and_resumed_gives_the_same_bytes(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, _ = INTERRUPTED["slot by slot"]
    whole = loop.generate("whole", **options).read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Renderer, "render", dying_after(2, Renderer.render))
        loop.generate("killed", checkpoint_seconds=0, **options)
    assert loop.generate("killed", **options).read_bytes() == whole


def dying_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    left = [calls]

    def mortal(*arguments: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return function(*arguments)

    return mortal


def test_an_increment_begun_with_another_student_starts_afresh(
    loop: Loop, world: World, rendered: list[int], no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_at(1, monkeypatch), pytest.raises(SystemExit):
        loop.generate("exchanged", student=world.networks["reference"])
    rendered.clear()
    loop.generate("exchanged")
    assert len(rendered) == SIZE


# ---- the increment ---------------------------------------------------------------------------------------------------


def test_an_increment_holds_the_chosen_candidates_in_the_order_slot_class(loop: Loop, second: Path) -> None:
    selected = loop.select([second])
    assert set(selected.paths) == kept(opened(second))
    slots, labels = selected.columns["slot"].tolist(), selected.labels.tolist()
    assert list(zip(slots, labels, strict=True)) == [(slot, label) for slot in (2, 3) for label in range(4)]


@pytest.mark.parametrize("least", [0.0, 0.9])
def test_scores_of_the_stored_images_repeat_the_choice(least: float, loop: Loop, world: World) -> None:
    """Student and reference, asked again, choose what the loop chose, up to the rounding of batches of another size."""
    images = opened(loop.generate("probable", min_reference_probability=least, increment_size=4))
    score = world.scorer().score_stored(torch.from_numpy(images.pixels()), torch.from_numpy(images.labels))
    learnability, probability = (values.view(-1, KAPPA) for values in (score.learnability, score.reference_probability))
    chosen = torch.from_numpy(images.columns["chosen"]).view(-1, KAPPA)
    best = learnability.gather(1, choose_candidates(learnability, probability, least)[:, None])[:, 0]
    torch.testing.assert_close(learnability[chosen], best, rtol=1e-3, atol=1e-3)
    other = Scorer([world.reference], world.student, 1.0).score_stored(
        torch.from_numpy(images.pixels()), torch.from_numpy(images.labels)
    )
    assert (choose_candidates(other.learnability.view(-1, KAPPA), probability, least) != chosen.long().argmax(1)).any()


def test_all_students_of_an_increment_score_and_steer_the_next_one(loop: Loop, second: Path, world: World) -> None:
    others = loop.folder / "other-students.safetensors"
    more = [world.reference, Classifier(NETWORK, CLASSES, world.student.domain, ("other",))]
    save_networks(others, more, MADE_BY)
    images, alone = opened(loop.generate("several", other_students=others)), opened(second)
    score = Scorer([world.student, *more], world.reference, 1.0).score_stored(
        torch.from_numpy(images.pixels()), torch.from_numpy(images.labels)
    )
    for name in ("learnability", "student_loss"):
        found = torch.from_numpy(images.columns[name])
        torch.testing.assert_close(found, getattr(score, name), rtol=1e-3, atol=1e-3)
    assert not np.allclose(images.columns["latent"], alone.columns["latent"], atol=1e-2)


def test_a_choice_among_probable_candidates_is_a_probable_one(loop: Loop) -> None:
    candidates = loop.generate("probable", min_reference_probability=0.9, increment_size=4)
    found = opened(candidates)
    probability = found.columns["reference_probability"].reshape(-1, KAPPA)
    chosen = found.columns["chosen"].reshape(-1, KAPPA)
    some = (probability >= 0.9).any(1)
    assert (probability[chosen][some] >= 0.9).all()
    assert len(loop.select([candidates])) == 4 * len(CLASSES)


def test_a_diverged_student_chooses_nothing(world: World) -> None:
    diverged = copy.deepcopy(world.student)
    next(diverged.parameters()).data.fill_(float("nan"))
    with pytest.raises(BadInput, match="no numbers: the student or the reference has diverged"):
        generate_candidates(
            world.renderer(steps=2),
            labels=range(4),
            conditions=world.conditions,
            slots=range(1),
            candidates=2,
            key=lambda label, slot, candidate: ("diverged", label, slot, candidate),
            scorer=Scorer([diverged], world.reference, 1.0),
        )


# ---- a seed of another method ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real images per class, as `collect` writes them."""
    folder, real = tmp_path_factory.mktemp("seed"), image_set_of(*digits())
    chosen = ordered_by_slot(real, [random_order(real, label, 3, 0) for label in range(4)])
    write_images(folder / "select.parquet", chosen, MADE_BY)
    settings, out = collect.Settings(ipc=3), folder / "seed.parquet"
    collect.run(settings, parts=[folder / "select.parquet"], images=out, job=job("collect", settings))
    return out


def test_a_seed_of_another_method_is_encoded(loop: Loop, world: World, real_seed: Path) -> None:
    seed, made = (read_images(real_seed, "collect"), opened(loop.generate("seed", k=1, seed_images=real_seed)))
    assert len(made) == SIZE * len(CLASSES)
    assert made.columns["slot"].tolist() == [slot for slot in range(SIZE) for _ in CLASSES]
    by_name = dict(zip(seed.paths, seed.images, strict=True))
    assert [by_name[path] for path in made.paths] == made.images
    with torch.no_grad():
        mean, _ = world.codec.encode(to_unit(torch.from_numpy(made.pixels())))
    np.testing.assert_allclose(made.columns["latent"], mean.flatten(1).numpy(), rtol=0, atol=1e-5)
    assert 0.5 < made.columns["latent"].std() < 1.5  # scaled: unit variance on the training images
    assert made.columns["chosen"].all() and set(made.columns["increment"].tolist()) == {1}


def test_a_seed_that_was_sampled_keeps_its_latents(loop: Loop, world: World) -> None:
    part = loop.folder / "sampled-seed.parquet"
    sampled = opened(loop.first)
    write_images(part, sampled, MADE_BY)
    settings, whole = collect.Settings(ipc=SIZE), loop.folder / "seed-of-sampled.parquet"
    collect.run(settings, parts=[part], images=whole, job=job("collect", settings))
    assert "latent" not in read_images(whole, "collect").columns
    made = opened(loop.generate("kept", k=1, seed_images=whole, seed_parts=[part]))
    latent_of = dict(zip(sampled.paths, sampled.columns["latent"], strict=True))
    np.testing.assert_array_equal(made.columns["latent"], np.stack([latent_of[path] for path in made.paths]))
    encoded = opened(loop.generate("encoded", k=1, seed_images=whole))
    assert np.abs(encoded.columns["latent"] - made.columns["latent"]).max() > 1e-3  # 8 bits are not what was sampled


def test_a_shard_of_a_seed_holds_its_classes(loop: Loop, world: World, real_seed: Path) -> None:
    seed = read_images(real_seed, "collect")
    whole = encode_seed(seed, range(4), SIZE, world.codec, CPU)
    part = encode_seed(seed, [1, 3], SIZE, world.codec, CPU)
    assert part.paths == [path for path, label in zip(whole.paths, whole.labels, strict=True) if label in (1, 3)]


def test_the_loop_goes_on_from_a_seed_without_latents(
    loop: Loop, world: World, real_seed: Path, counts: list[list[int]]
) -> None:
    candidates = loop.generate("seed", k=1, seed_images=real_seed)
    loop.select([candidates])
    seeded = Loop(world, loop.folder, candidates.with_suffix(".images.parquet"))
    assert len(opened(seeded.generate("after-seed", increment_size=1))) == KAPPA * len(CLASSES)
    assert counts == [[SIZE] * len(CLASSES)] * GUIDED_STEPS


# ---- the larger set extends the smaller ------------------------------------------------------------------------------


def test_a_larger_set_begins_with_the_smaller_one(loop: Loop, second: Path) -> None:
    loop.select([second])
    parts, sets = [loop.first, second.with_suffix(".images.parquet")], []
    for count in (1, 2):
        settings, out = collect.Settings(ipc=count * SIZE), loop.folder / f"ipc{count}.parquet"
        collect.run(settings, parts=parts[:count], images=out, job=job("collect", settings))
        sets.append(read_images(out, "collect"))
    for label in range(len(CLASSES)):
        smaller, larger = (
            [image for image, of in zip(one.images, one.labels, strict=True) if of == label] for one in sets
        )
        assert larger[:SIZE] == smaller
        assert len(set(larger)) == 2 * SIZE
    assert all(re.fullmatch(r"\w+/0000[0-3]-[0-2]\.png", path) for path in sets[1].paths)
