"""The stages of optimised images: killed, split, diverged, rendered, chosen; and experts with who may read them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from about import ABOUT
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from tiny import (
    CLASSES,
    CPU,
    GENERATOR_CLASSES,
    MADE_BY,
    NETWORK,
    SIDE,
    digits,
    image_set_of,
    job,
    stopped_at,
    transformer,
)
from tiny_weights import kl, unet
from torch import Tensor

import distillery.storage.resume
from distillery.diffusion.generators import PretrainedGenerator
from distillery.diffusion.schedule import training_scheduler
from distillery.errors import BadInput, WeightsError
from distillery.matching.build import (
    Places,
    initial_latents,
)
from distillery.matching.chain import DiffusionChain
from distillery.matching.checks import wrong_experts
from distillery.matching.conditioning import table_of_unet
from distillery.matching.experts import Trajectories
from distillery.matching.generator import open_generator
from distillery.matching.idc import IDCMatching
from distillery.matching.loop import snapshots_of
from distillery.matching.real_images import RealImages
from distillery.matching.settings import Chain as ChainSettings
from distillery.matching.settings import Experts
from distillery.matching.spaces import MicroBatches
from distillery.matching.steps import Optimiser
from distillery.methods.matching import IDC, LD3M, Latent, Pixels
from distillery.report import gradients
from distillery.report.tables import ABSENT, read_rows
from distillery.stages import choose_snapshot, match, measure_gradients, render, train_experts
from distillery.stages import open_generator as opening
from distillery.storage.atomic import write_json
from distillery.storage.images import read_images, write_images
from distillery.storage.tables import read_table, write_table
from distillery.storage.tensors import read_tensors
from distillery.students.settings import Recipe

CHAIN: dict[str, Any] = {"steps": 2}
RUN: dict[str, Any] = {"seed": 0, "device": CPU}
GRADIENT: dict[str, Any] = {"kind": "gradient", "batch_real": 8}
DISTRIBUTION: dict[str, Any] = {"kind": "distribution", "batch_real": 8}
TRAJECTORY: dict[str, Any] = {"kind": "trajectory", "experts": "e", "epochs": 1, "max_start_epoch": 2, "steps": 3}
METHODS: dict[str, Any] = {
    "ld3m": LD3M(kind="ld3m", generator="g", objective=GRADIENT, chain=CHAIN, iterations=4),
    "latent": Latent(kind="autoencoder", objective=DISTRIBUTION, iterations=4),
    "trajectory": Pixels(kind="pixel", objective=TRAJECTORY, iterations=4),
    "outer": Pixels(kind="pixel", objective={**GRADIENT, "outer": 2}, iterations=2),
    "idc": IDC(kind="idc", iterations=1, inner=1, epochs=1, images=16, batch_real=8, batch_train=8, learning_rate=0.02),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits, random models, and two experts."""
    folder = tmp_path_factory.mktemp("matching")
    pixels, labels = digits()
    rows = torch.cat([(labels == label).nonzero()[:24, 0] for label in range(4)])
    write_images(folder / "train.parquet", image_set_of(pixels[rows], labels[rows]), MADE_BY)
    held = torch.cat([(labels == label).nonzero()[24:32, 0] for label in range(4)])
    write_images(folder / "validation.parquet", image_set_of(pixels[held], labels[held]), MADE_BY)
    kl(image_channels=1, blocks=2).save_pretrained(folder / "autoencoder")
    transformer(layers=1).save_pretrained(folder / "generator" / "transformer")
    training_scheduler().save_pretrained(folder / "generator" / "scheduler")
    write_json(folder / "generator" / "model_index.json", {"id2label": dict(enumerate(GENERATOR_CLASSES))})
    experts(folder, folder / "experts.safetensors")
    return folder


def experts(
    place: Path, path: Path, network: str = NETWORK, data: str = "train.parquet", block: Experts | None = None
) -> Path:
    settings = train_experts.Settings(
        seed=0, name="e", network=network, experts=block or EXPERTS["e"], epochs=2, first=0, last=2
    )
    train_experts.run(
        settings,
        data=place / data,
        trajectories=path,
        history=path.with_suffix(".parquet"),
        job=job("train_experts", settings),
    )
    return path


EXPERTS = {"e": Experts(batch_size=16)}


def settings_of(method: Any, **changes: Any) -> match.Settings:
    options: dict[str, Any] = {"seed": 0, "name": "it", "stream": "it", "network": NETWORK, "ipc": 2}
    options["experts_recipe"] = method.expert_recipe(EXPERTS, "imagenet")
    return match.Settings(method=method, **options, every=2, **{"shard": 0, **changes})


def models(place: Path, method: Any) -> dict[str, list[Path]]:
    found = {}
    if isinstance(method, LD3M):
        found["generator"] = [place / "generator" / "model_index.json"]
    if isinstance(method, LD3M | Latent):
        found["autoencoder"] = [place / "autoencoder" / "config.json"]
    return found


def run(place: Path, out: Path, method: Any, **changes: Any) -> tuple[Path, Path]:
    """Snapshots and losses of a method."""
    settings = settings_of(method, **changes)
    out.mkdir(exist_ok=True)
    paths = out / "snapshots.safetensors", out / "history.parquet"
    needed = models(place, method)
    if getattr(getattr(method, "objective", None), "kind", "") == "trajectory":
        needed["experts"] = [place / "experts.safetensors"]
    data = place / "train.parquet"
    inputs = (data, *(path for paths_ in needed.values() for path in paths_))
    match.run(settings, data=data, **needed, snapshots=paths[0], history=paths[1], job=job("match", settings, inputs))
    return paths


def learned(snapshots: Path) -> dict[int, dict[str, Tensor]]:
    return snapshots_of(read_tensors(snapshots, "match")[0])


# ---- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_killed_and_resumed_it_gives_the_same_bytes(
    name: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_request: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = run(place, tmp_path / "whole", METHODS[name])
    for step in (1, 2, 3):
        out = tmp_path / f"killed-{step}"
        with stopped_at(step, monkeypatch), pytest.raises(SystemExit):
            run(place, out, METHODS[name])
        assert (out / "snapshots.safetensors.resume.safetensors").exists()
        capsys.readouterr()
        again = run(place, out, METHODS[name])
        # and not from its start, which would give the same
        assert f"resuming at step {step}," in capsys.readouterr().err
        assert [path.read_bytes() for path in again] == [path.read_bytes() for path in whole]
        assert list(out.glob("*.resume.safetensors")) == []


def test_snapshots_stand_at_the_start_every_so_often_and_at_the_end(place: Path, tmp_path: Path) -> None:
    method = METHODS["latent"].model_copy(update={"iterations": 5})
    found = learned(run(place, tmp_path, method)[0])
    assert list(found) == [0, 2, 4, 5]
    latents = [one["latent"] for one in found.values()]
    assert all(not torch.equal(one, other) for one, other in pairwise(latents))


@pytest.mark.parametrize("objective", [GRADIENT, DISTRIBUTION])
def test_shards_of_classes_are_the_whole_run(objective: dict[str, Any], place: Path, tmp_path: Path) -> None:
    method = METHODS["ld3m"].model_copy(update={"micro_batch": 1, "objective": _parsed(objective)})
    whole = learned(run(place, tmp_path / "whole", method)[0])
    split = method.model_copy(update={"shards": 2})
    for shard in (0, 1):
        found = learned(run(place, tmp_path / f"{shard}", split, shard=shard)[0])
        rows = [row for row, label in enumerate([0, 0, 1, 1, 2, 2, 3, 3]) if label % 2 == shard]
        for iteration, state in found.items():
            for name, value in state.items():
                assert torch.equal(value, whole[iteration][name][rows]), (iteration, name)


def _parsed(objective: dict[str, Any]) -> Any:
    return Pixels(kind="pixel", objective=objective).objective


def test_without_iterations_there_are_the_images_that_a_method_begins_with(place: Path, tmp_path: Path) -> None:
    """Plain generation: what the residual does to images that nothing has optimised."""
    states = {}
    for residual in ("x0", "none"):
        method = LD3M(
            kind="ld3m",
            generator="g",
            objective=GRADIENT,
            chain={**CHAIN, "residual": residual},
            init="gaussian",
            iterations=0,
        )
        snapshots, history = run(place, tmp_path / residual, method)
        assert list(learned(snapshots)) == [0] and not read_table(history, "match").num_rows
        settings, out = render.Settings(seed=0, method=method), tmp_path / f"{residual}.parquet"
        render.run(settings, snapshots=snapshots, **models(place, method), images=out, job=job("render", settings))
        states[residual] = (learned(snapshots)[0]["latent"], read_images(out, "render").pixels())
    assert torch.equal(states["x0"][0], states["none"][0])  # the same noise
    assert (states["x0"][1] != states["none"][1]).any()


def test_what_is_not_learned_stays(place: Path, tmp_path: Path) -> None:
    for learn, moves in (["latent"], {"latent"}), (["condition"], {"condition"}):
        found = learned(run(place, tmp_path / learn[0], METHODS["ld3m"].model_copy(update={"learn": learn}))[0])
        changed = {name for name in found[0] if not torch.equal(found[0][name], found[4][name])}
        assert changed == moves


def test_noise_is_fixed_or_that_of_the_iteration(place: Path, tmp_path: Path) -> None:
    for noise, same in ("fixed", True), ("per_iteration", False):
        chain = METHODS["ld3m"].chain.model_copy(update={"noise": noise})
        found = learned(run(place, tmp_path / noise, METHODS["ld3m"].model_copy(update={"chain": chain}))[0])
        assert torch.equal(found[0]["noise"], found[4]["noise"]) is same


def test_random_weights_and_no_class_are_other_images(place: Path, tmp_path: Path) -> None:
    first = {}
    for name, change in {"as is": {}, "random": {"denoiser": "random"}, "none": {"condition": "none"}}.items():
        method = METHODS["ld3m"].model_copy(update={"chain": METHODS["ld3m"].chain.model_copy(update=change)})
        first[name] = learned(run(place, tmp_path / name, method)[0])
    rows = {name: found[0]["condition"] for name, found in first.items()}
    assert torch.equal(rows["none"][0], rows["none"][-1])
    assert not torch.equal(rows["as is"][0], rows["as is"][-1])
    assert not torch.equal(rows["as is"], rows["random"])


def test_a_step_that_diverges_keeps_and_names_the_last_good_snapshot(place: Path, tmp_path: Path) -> None:
    step = METHODS["ld3m"].step.model_copy(update={"latent": 40.0, "condition": 0.01})
    with pytest.raises(BadInput) as refused:
        run(place, tmp_path, METHODS["ld3m"].model_copy(update={"step": step, "iterations": 20}))
    message = str(refused.value)
    assert message.startswith("methods.it.step: it diverges: latent has grown")
    kept = Path(re.search(r"kept in (\S+);", message)[1])  # type: ignore[index]
    iteration = int(re.search(r"that of iteration (\d+)", message)[1])  # type: ignore[index]
    assert list(learned(kept)) == [iteration]
    assert torch.isfinite(learned(kept)[iteration]["latent"]).all()
    assert not (tmp_path / "snapshots.safetensors").exists()
    run(place, tmp_path, METHODS["ld3m"])
    assert not kept.exists()


@pytest.mark.parametrize("objective", [GRADIENT, DISTRIBUTION, TRAJECTORY], ids=lambda given: str(given["kind"]))
@pytest.mark.parametrize("space", ["ld3m", "autoencoder", "pixel"])
def test_every_space_moves_under_every_objective(
    space: str, objective: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"objective": objective, "iterations": 2}
    method = {
        "ld3m": lambda: LD3M(kind="ld3m", generator="g", chain=CHAIN, **options),
        "autoencoder": lambda: Latent(kind="autoencoder", **options),
        "pixel": lambda: Pixels(kind="pixel", **options),
    }[space]()
    snapshots, history = run(place, tmp_path, method)
    assert bool(np.isfinite(read_table(history, "match")["loss"].to_numpy()).all())
    first, last = (learned(snapshots)[number] for number in (0, 2))
    for name in {"ld3m": ("latent", "condition"), "autoencoder": ("latent",), "pixel": ("pixels",)}[space]:
        value = first[name]
        moved = (last[name] - value).flatten(1).norm(dim=1)
        assert bool(moved.isfinite().all()) and bool((moved > 0).all()), name


@pytest.mark.parametrize("objective", [GRADIENT, DISTRIBUTION, TRAJECTORY])
def test_every_objective_lowers_its_loss_on_digits(objective: dict[str, Any], place: Path, tmp_path: Path) -> None:
    method = Pixels(
        kind="pixel", objective=objective, iterations=40, init="noise", step={"rule": "relative", "pixels": 0.2}
    )
    losses = read_table(run(place, tmp_path, method)[1], "match")["loss"].to_numpy()
    assert losses[-10:].mean() < 0.9 * losses[:5].mean()


def test_micro_batches_are_halved_where_memory_is_short() -> None:
    seen: list[tuple[int, int]] = []

    def work(rows: slice) -> None:
        if rows.stop - rows.start > 2:
            raise torch.cuda.OutOfMemoryError
        seen.append((rows.start, rows.stop))

    batches = MicroBatches(8)
    batches.each(5, work)
    assert seen == [(0, 2), (2, 4), (4, 5)] and batches.size == 2
    with pytest.raises(torch.cuda.OutOfMemoryError):
        MicroBatches(1).each(1, lambda _: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError))


def test_a_resumed_run_keeps_the_micro_batch_that_fitted(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_request: None
) -> None:
    """Memory is short in the backward pass alone, as it is on a GPU: images are then rendered fewer at once, too."""
    vjp, visit, rendered = DiffusionChain.vjp, DiffusionChain.visit, list[int]()

    def short(self: DiffusionChain, states: list[Tensor], *others: Any) -> Any:
        if len(states[0]) > 2:
            raise torch.cuda.OutOfMemoryError
        return vjp(self, states, *others)

    def seen(self: DiffusionChain, latents: Tensor, *others: Any) -> Any:
        rendered.append(len(latents))
        return visit(self, latents, *others)

    monkeypatch.setattr(DiffusionChain, "vjp", short)
    monkeypatch.setattr(DiffusionChain, "visit", seen)
    whole = run(place, tmp_path / "whole", METHODS["ld3m"])
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        run(place, tmp_path / "killed", METHODS["ld3m"])
    rendered.clear()
    again = run(place, tmp_path / "killed", METHODS["ld3m"])
    assert max(rendered) == 2
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in whole]


def test_a_signal_is_answered_while_a_network_of_idc_learns(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_request: None
) -> None:
    method = METHODS["idc"].model_copy(update={"epochs": 3, "iterations": 2})
    whole = run(place, tmp_path / "whole", method)
    learn, calls = IDCMatching.learn, list[int]()

    def told(self: IDCMatching, *others: Any) -> None:
        learn(self, *others)
        calls.append(1)
        if len(calls) == 5:  # three epochs of the first network, then two of the second
            distillery.storage.resume.request_stop(15)

    with monkeypatch.context() as patch:
        patch.setattr(IDCMatching, "learn", told)
        with pytest.raises(SystemExit):
            run(place, tmp_path / "killed", method)
    assert len(calls) == 5
    distillery.storage.resume.clear_stop()
    again = run(place, tmp_path / "killed", method)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in whole]


# ---- where it starts -------------------------------------------------------------------------------------------------


class _Seeing:
    """Stands for an autoencoder, and keeps what it was given."""

    channels = 4

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(images)
        return images.mean((2, 3), keepdim=True).expand(-1, 4, 8, 8), images

    def latent_size(self, side: int) -> int:
        return side // 2


def test_the_encoder_sees_images_of_the_class_in_its_range_and_none_twice(place: Path) -> None:
    real = RealImages.load(place / "train.parquet", CPU)
    places = Places.of((0, "x"), CLASSES, range(4), 6)
    codec: Any = _Seeing()
    initial_latents("real", real, places, codec, 32, (0, "x"), batch=10, device=CPU)
    seen = torch.cat(codec.seen)
    assert seen.shape == (24, 1, 32, 32)
    assert float(seen.min()) == -1 and float(seen.max()) <= 1
    assert len({one.numpy().tobytes() for one in seen}) == 24
    with pytest.raises(BadInput, match="fewer than 30"):
        initial_latents("real", real, Places.of((0, "x"), CLASSES, [0], 30), codec, 16, (0, "x"), batch=10, device=CPU)


# ---- pictures and choice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ld3m", "latent", "outer", "idc"])
def test_rendered_are_the_images_of_each_snapshot(name: str, place: Path, tmp_path: Path) -> None:
    method = METHODS[name]
    snapshots, _ = run(place, tmp_path, method)
    settings = render.Settings(seed=0, method=method)
    out = tmp_path / "rendered.parquet"
    render.run(settings, snapshots=snapshots, **models(place, method), images=out, job=job("render", settings))
    found = read_images(out, "render")
    iterations = list(learned(snapshots))
    assert found.columns["iteration"].tolist() == [at for at in iterations for _ in range(8)]
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] * len(iterations)
    assert found.columns["slot"].tolist() == [0, 1] * 4 * len(iterations)
    first, last = found.pixels()[:8], found.pixels()[-8:]
    assert found.pixels().shape[1:] == (1, SIDE, SIDE) and (first != last).any()
    if name in ("outer", "idc"):  # pixels begin as real images, to the byte
        real = RealImages.load(place / "train.parquet", CPU)
        known = {one.numpy().tobytes() for one in real.pixels}
        assert all(one.tobytes() in known for one in first)


def chosen(place: Path, tmp_path: Path, how: Any, shards: int = 1) -> tuple[int, list[dict[str, Any]]]:
    """Which of two snapshots is chosen: real digits (iteration 0), or noise (iteration 7).

    Args:
        shards: jobs that have rendered them, each some of the classes.
    """
    real = RealImages.load(place / "train.parquet", CPU)
    rows = torch.cat([real.of_class(label)[:4] for label in range(4)])
    noise = torch.randint(0, 256, (16, 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    columns = {"slot": np.tile(np.arange(4), 8), "iteration": np.repeat([0, 7], 16)}
    both = image_set_of(torch.cat([real.pixels[rows], noise]), real.labels[rows].repeat(2), **columns)
    files = [tmp_path / f"{shard}.parquet" for shard in range(shards)]
    for shard, file in enumerate(files):
        write_images(file, both.take(np.flatnonzero(both.labels % shards == shard)), MADE_BY)
    settings = choose_snapshot.Settings(
        seed=0,
        method="it",
        ipc=4,
        choose=how,
        network=NETWORK,
        recipe=Recipe(epochs=15, batch_size=8, learning_rate=5e-3, evaluations=1),
        students=2,
    )
    images, choice = tmp_path / "images.parquet", tmp_path / "choice.parquet"
    outputs = {"images": images, "choice": choice}
    validation = place / "validation.parquet" if how == "best" else None
    job_of_choice = job("choose_snapshot", settings)
    choose_snapshot.run(settings, rendered=files, validation=validation, **outputs, job=job_of_choice)
    kept = read_images(images, "choose_snapshot")
    assert len(kept) == 16
    (iteration,) = set(kept.columns["iteration"].tolist())
    return iteration, read_table(choice, "choose_snapshot").to_pylist()


def test_the_snapshot_that_networks_learn_most_from_is_kept(place: Path, tmp_path: Path) -> None:
    iteration, rows = chosen(place, tmp_path, "best")
    assert iteration == 0
    assert [(row["iteration"], row["student"], row["kept"]) for row in rows] == [
        (0, 0, True),
        (0, 1, True),
        (7, 0, False),
        (7, 1, False),
    ]
    assert min(row["accuracy"] for row in rows[:2]) > max(row["accuracy"] for row in rows[2:])


def test_a_killed_choice_goes_on(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_request: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    chosen(place, whole, "best")
    with stopped_at(4, monkeypatch), pytest.raises(SystemExit):
        chosen(place, killed, "best")
    assert len(list(killed.glob("*.resume.safetensors"))) == 1
    capsys.readouterr()
    chosen(place, killed, "best")
    assert "resuming at" in capsys.readouterr().err
    for name in ("images.parquet", "choice.parquet"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not list(killed.glob("*.resume.safetensors"))


def test_a_choice_does_not_depend_on_how_many_jobs_made_the_images(place: Path, tmp_path: Path) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    whole.mkdir(), split.mkdir()
    one, other = chosen(place, whole, "best"), chosen(place, split, "best", shards=2)
    assert one == other
    assert (whole / "images.parquet").read_bytes() == (split / "images.parquet").read_bytes()


def test_the_last_snapshot_is_kept_without_validation_images(place: Path, tmp_path: Path) -> None:
    assert chosen(place, tmp_path, "last")[0] == 7


# ---- experts ---------------------------------------------------------------------------------------------------------


def test_experts_keep_every_epoch_and_do_not_depend_on_their_shard(place: Path, tmp_path: Path) -> None:
    theta = read_tensors(place / "experts.safetensors", "x")[0]["theta"]
    assert theta.shape[:2] == (2, 3) and theta.dtype == torch.float32
    assert not torch.equal(theta[0, 0], theta[1, 0]) and not torch.equal(theta[0, 0], theta[0, 1])
    settings = train_experts.Settings(
        seed=0, name="e", network=NETWORK, experts=Experts(batch_size=16), epochs=2, first=1, last=2
    )
    path = tmp_path / "second.safetensors"
    train_experts.run(
        settings,
        data=place / "train.parquet",
        trajectories=path,
        history=path.with_suffix(".parquet"),
        job=job("train_experts", settings),
    )
    assert torch.equal(read_tensors(path, "x")[0]["theta"][0], theta[1])
    read = Trajectories([place / "experts.safetensors", path], {})
    assert len(read) == 3 and torch.equal(read.state(2, 1), theta[1, 1])


def test_a_training_of_experts_that_is_killed_after_every_epoch_goes_on(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_request: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, kills = tmp_path / "experts.safetensors", 0
    while not path.exists():
        try:
            with stopped_at(1, monkeypatch):
                experts(place, path)
        except SystemExit:
            kills += 1
            assert kills < 20
    assert kills == 6  # two epochs of either expert, and the end of either
    resumed = re.findall(r"(\S+).resume.safetensors: resuming at (.*)", capsys.readouterr().err)
    said = {(Path(file).name, at) for file, at in resumed}
    one, other, both = (f"experts{name}" for name in (".expert-0", ".expert-1", ".safetensors"))
    assert said == {
        (one, "epoch 1"),
        (one, "epoch 2"),
        (both, "experts 1"),
        (other, "epoch 1"),
        (other, "epoch 2"),
        (both, "experts 2"),
    }
    assert path.read_bytes() == (place / "experts.safetensors").read_bytes()
    assert list(tmp_path.glob("*.resume.safetensors")) == []


MATCHED = Pixels(kind="pixel", objective=TRAJECTORY, iterations=4)


def test_an_expert_that_diverges_is_refused_with_its_key(place: Path, tmp_path: Path) -> None:
    block = Experts(batch_size=16, learning_rate=100.0)
    settings = train_experts.Settings(seed=0, name="e", network=NETWORK, experts=block, epochs=2, first=0, last=1)
    path = tmp_path / "experts.safetensors"
    with pytest.raises(BadInput, match=r"expert 0 diverges: .*; lower experts.<name>.learning_rate"):
        train_experts.run(
            settings,
            data=place / "train.parquet",
            trajectories=path,
            history=path.with_suffix(".parquet"),
            job=job("train_experts", settings),
        )
    assert not path.exists()


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        (
            MATCHED.model_copy(update={"objective": MATCHED.objective.model_copy(update={"learning_rate": 1e30})}),
            ("methods.it.step: ", "or the rates of methods.it.objective"),
        ),
        (
            METHODS["idc"].model_copy(update={"network_rate": 1e30}),
            ("methods.it.learning_rate: ", "or methods.it.network_rate"),
        ),
    ],
    ids=["trajectory", "idc"],
)
def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_before(
    method: Any, keys: tuple[str, str], place: Path, tmp_path: Path
) -> None:
    words = r"it diverges: .* is not finite in iteration 0\. The last good snapshot, that of"
    with pytest.raises(BadInput, match=words) as refused:
        run(place, tmp_path, method)
    assert str(refused.value).startswith(keys[0]) and str(refused.value).endswith(keys[1])
    kept = tmp_path / "snapshots.last-good.safetensors"
    assert str(kept) in str(refused.value)
    assert list(learned(kept)) == [0] and all(one.isfinite().all() for one in learned(kept)[0].values())


@pytest.mark.parametrize(("kind", "rate"), [("gradient", 0.1), ("distribution", 1.0), ("trajectory", 1000.0)])
def test_rates_are_the_published_ones_where_steps_are_absolute(kind: str, rate: float) -> None:
    objective = TRAJECTORY if kind == "trajectory" else {"kind": kind}
    parameters = {"latent": torch.zeros(2, 3), "condition": torch.zeros(2, 3)}
    for step, moved in (({"rule": "absolute"}, rate), ({"rule": "absolute", "latent": 0.5}, 0.5)):
        method = LD3M(kind="ld3m", generator="g", objective=objective, step={**step, "momentum": 0})
        found = {name: value.clone() for name, value in parameters.items()}
        Optimiser(found, **method.optimiser_options(1, SIDE, 4)).step({name: torch.ones(2, 3) for name in found})
        torch.testing.assert_close(found["latent"], torch.full((2, 3), -moved))
        torch.testing.assert_close(found["condition"], torch.full((2, 3), -moved))


def test_the_constants_of_idc_are_those_of_its_code() -> None:
    method = IDC(kind="idc")
    assert method.rate(10, 224, 10) == 3e-3
    assert method.rate(1, 112, 10) == pytest.approx(3e-3 / 10 / 4)
    assert method.rate(10, 224, 99) == 3e-3 and method.rate(10, 224, 100) == 1e-3
    assert method.model_copy(update={"learning_rate": 0.5}).rate(10, 224, 100) == 0.5
    few, many = method.constants(99), method.constants(100)
    names = ("epochs", "batch_train", "network_rate", "network_decay")
    assert [few[name] for name in names] == [10, 64, 0.01, 5e-4]
    assert [many[name] for name in names] == [5, 128, 0.1, 1e-4]
    assert {name: few[name] for name in ("inner", "batch_real", "batch_ours", "images")} == {
        "inner": 100,
        "batch_real": 64,
        "batch_ours": 128,
        "images": 500,
    }
    assert method.model_copy(update={"epochs": 3}).constants(100)["epochs"] == 3


def test_experts_are_trained_by_plain_sgd_with_every_operation_of_dsa() -> None:
    recipe = Experts().recipe(7)
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum, recipe.weight_decay) == ("sgd", 0.01, 0, 0)
    assert (recipe.schedule, recipe.batch_size, recipe.epochs, recipe.cutmix) == ("constant", 256, 7, 0)
    assert set(recipe.dsa.split("_")) == {"color", "crop", "cutout", "flip", "scale", "rotate"}
    assert Experts(augment=False).recipe(7).dsa == ""


@pytest.mark.parametrize(("kind", "exact"), [("pixel", True), ("autoencoder", False), ("ld3m", False)])
def test_pixels_take_the_exact_gradient_of_a_way_and_latents_that_of_tesla(kind: str, exact: bool, place: Path) -> None:
    real = RealImages.load(place / "train.parquet", CPU)
    for said, wanted in ((None, exact), ("exact", True), ("tesla", False)):
        objective = {**TRAJECTORY, "gradient": said}
        method = {
            "pixel": lambda given: Pixels(kind="pixel", objective=given),
            "autoencoder": lambda given: Latent(kind="autoencoder", objective=given),
            "ld3m": lambda given: LD3M(kind="ld3m", generator="g", objective=given),
        }[kind](objective)
        known = ([place / "experts.safetensors"], method.expert_recipe(EXPERTS, "imagenet"))
        matching: Any = method.comparing_objective(real, NETWORK, ("x",), CPU, *known)
        assert matching.exact is wanted


def test_experts_of_another_network_other_images_or_another_recipe_are_refused(place: Path, tmp_path: Path) -> None:
    pixels, labels = digits()
    rows = torch.cat([(labels == label).nonzero()[30:50, 0] for label in range(4)])
    write_images(tmp_path / "other.parquet", image_set_of(pixels[rows], labels[rows]), MADE_BY)
    wrong = {
        "its experts are of convnet1_w4, and convnet2_w8 is wanted": {"network": "convnet1_w4"},
        "it was trained on other images": {"data": tmp_path / "other.parquet"},
        "its experts were trained with learning_rate 0.02, and experts of 0.01 are asked for": {
            "block": Experts(batch_size=16, learning_rate=0.02)
        },
        "its experts were trained with dsa '', and experts of 'color_crop_": {
            "block": Experts(batch_size=16, augment=False)
        },
    }
    for message, change in wrong.items():
        path = experts(place, tmp_path / "experts.safetensors", **change)
        folder = tmp_path / "place"
        folder.mkdir(exist_ok=True)
        settings = settings_of(METHODS["trajectory"])
        outputs = {"snapshots": folder / "s.safetensors", "history": folder / "h.parquet"}
        with pytest.raises(BadInput, match=message):
            data = place / "train.parquet"
            match.run(settings, data=data, experts=[path], **outputs, job=job("match", settings))


def test_what_a_file_of_experts_says_is_compared() -> None:
    about = {"network": "convnet3", "classes": ["a", "b"], "size": 32, "channels": 3, "data": "x", "epochs": 7}
    about["recipe"] = Experts().recipe(7).model_dump(mode="json")
    assert wrong_experts(about, {**about, "epochs": 5}) is None
    fewer = {**about, "epochs": 5, "recipe": Experts().recipe(5).model_dump(mode="json")}
    assert wrong_experts(about, fewer) is None  # the rate has no schedule: the first epochs are the same
    for change, word in (
        ({"momentum": 0.9}, "momentum 0.0, and experts of 0.9"),
        ({"weight_decay": 5e-4}, "weight_decay 0.0, and experts of 0.0005"),
        ({"batch_size": 64}, "batch_size 256, and experts of 64"),
    ):
        other = Experts(**change).recipe(7).model_dump(mode="json")
        assert f"its experts were trained with {word}" in str(wrong_experts(about, {**about, "recipe": other}))
    for change, words in (
        ({"network": "convnet5"}, "its experts are of convnet3"),
        ({"size": 128}, "of 32 px, and 128"),
        ({"classes": ["a", "c"]}, "it knows the classes a, b"),
        ({"data": "y"}, "other images"),
        ({"epochs": 8}, "7 epochs, and epoch 8 is read"),
    ):
        assert words in str(wrong_experts(about, {**about, **change}))
    assert wrong_experts({}, about) == "it is not a file of train_experts"
    assert wrong_experts({**about, "recipe": None}, about) == "it does not say how its experts were trained"


def test_an_objective_without_experts_is_refused(place: Path, tmp_path: Path) -> None:
    settings = settings_of(METHODS["trajectory"])
    with pytest.raises(BadInput, match="there are no experts"):
        outputs = {"snapshots": tmp_path / "s", "history": tmp_path / "h"}
        match.run(settings, data=place / "train.parquet", **outputs, job=job("match", settings))


# ---- gradients, UNets ------------------------------------------------------------------------------------------------


def test_gradients_are_measured_for_each_residual_and_number_of_steps(place: Path, tmp_path: Path) -> None:
    settings = measure_gradients.Settings(
        seed=0,
        stream="it",
        method=METHODS["ld3m"],
        network=NETWORK,
        ipc=1,
        steps=[2, 10],
        repeats=2,
    )
    out = tmp_path / "norms.parquet"
    files = models(place, METHODS["ld3m"])
    measure_gradients.run(
        settings, data=place / "train.parquet", **files, norms=out, job=job("measure_gradients", settings)
    )
    rows = read_table(out, "measure_gradients").to_pandas()
    assert len(rows) == 2 * 3 * 2
    means = rows.groupby(["steps", "residual"])["latent"].mean()
    assert means[(10, "x0")] > means[(10, "eq7")] > 0
    assert (rows["condition"] > 0).all()


def test_the_table_of_gradients_has_means_ratios_and_the_published_decay() -> None:
    rows = pd.DataFrame(
        [
            {"steps": steps, "residual": residual, "repeat": repeat, "latent": value + repeat, "condition": 1.0}
            for steps, values in {10: (100.0, 2.0, 1.0), 12: (50.0, 1.0, 1.0)}.items()
            for residual, value in zip(("x0", "eq7", "none"), values, strict=True)
            for repeat in (0, 2)
        ]
    )
    table = gradients.gradient_table(rows).set_index(["steps", "residual"])
    assert table.at[(10, "x0"), "latent_mean"] == 101 and table.at[(10, "x0"), "n"] == 2
    assert table.at[(10, "x0"), "latent_std"] == pytest.approx(2**0.5)
    assert table.at[(10, "x0"), "to_none"] == pytest.approx(101 / 2)
    lines = gradients.gradient_markdown(table.reset_index()).splitlines()
    assert sum(line.endswith("58.1e-4 |") for line in lines) == 1
    assert sum(line.startswith("| 12 ") and line.endswith(f" {ABSENT} |") for line in lines) == 1
    assert lines[-1].startswith("| 12 ") and "1 ± 0" in lines[-1]  # of the class vectors
    assert len(gradients.gradient_figure(table.reset_index(), ABOUT).axes[0].get_lines()) >= 4


def test_a_generator_without_classes_has_a_table_of_gradients_without_them(tmp_path: Path) -> None:
    columns = [*gradients.COLUMNS]
    rows = [
        {"seed": 0, "steps": 10, "residual": residual, "repeat": at, "loss": 1.0, "latent": 2.0, "condition": None}
        for residual in ("x0", "eq7", "none")
        for at in range(2)
    ]
    write_table(tmp_path / "norms.parquet", pa.Table.from_pylist(rows), MADE_BY)
    table = gradients.gradient_table(read_rows([tmp_path / "norms.parquet"], columns, "measure_gradients"))
    assert table["latent_mean"].tolist() == [2.0] * 3
    assert "dL/dc" not in gradients.gradient_markdown(table)
    assert gradients.gradient_figure(table, ABOUT).axes


def test_a_unet_is_opened_and_optimised_through(place: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    unet(num_class_embeds=5).save_pretrained(weights / "unet")
    # As latent diffusion was published: the first timestep is 1, and the last step ends at the level of timestep 0.
    DDIMScheduler(beta_end=0.0195, steps_offset=1, set_alpha_to_one=False).save_pretrained(weights / "scheduler")
    write_json(weights / "model_index.json", {"id2label": dict(enumerate(GENERATOR_CLASSES))})
    block = PretrainedGenerator(kind="pretrained", network="unet", weights=str(weights), classes="own")
    settings = opening.Settings(name="u", generator=block)
    folder = tmp_path / "generator"
    files = {
        "index": folder / "model_index.json",
        "config": folder / "unet" / "config.json",
        "weights": folder / "unet" / "diffusion_pytorch_model.safetensors",
        "scheduler": folder / "scheduler" / "scheduler_config.json",
        "classes": folder / "unet" / "classes.safetensors",
    }
    opening.run(settings, **files, job=job("open_generator", settings))
    opened = open_generator(folder, place / "autoencoder", ChainSettings(steps=10), CLASSES, resolution=SIDE, **RUN)
    chain = opened.chain(ChainSettings(steps=10))
    assert chain.timesteps == list(range(1, 1000, 100)) and chain.alphas_cumprod_next[0] == opened.alphas_cumprod[0]
    told = settings_of(METHODS["ld3m"])
    outputs = {"snapshots": tmp_path / "s.safetensors", "history": tmp_path / "h.parquet"}
    autoencoder = [place / "autoencoder" / "config.json"]
    data = place / "train.parquet"
    match.run(told, data=data, generator=[files["index"]], autoencoder=autoencoder, **outputs, job=job("match", told))
    found = learned(outputs["snapshots"])
    assert found[0]["condition"].shape == (8, 32)
    assert not torch.equal(found[0]["condition"], found[4]["condition"])


def test_a_unet_says_which_vectors_it_lacks(tmp_path: Path) -> None:
    assert table_of_unet(unet(), tmp_path) is None
    assert table_of_unet(unet(num_class_embeds=5), tmp_path).shape == (5, 32)  # type: ignore[union-attr]
    told = unet(class_embed_type="identity")
    with pytest.raises(WeightsError, match=r"class_embedding.safetensors: no such file; .* put them there"):
        table_of_unet(told, tmp_path)
    save_file({"weight": torch.ones(5, 32)}, tmp_path / "class_embedding.safetensors")
    assert torch.equal(table_of_unet(told, tmp_path), torch.ones(5, 32))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="class_embed_type 'timestep'; allowed: identity"):
        table_of_unet(unet(class_embed_type="timestep"), tmp_path)
