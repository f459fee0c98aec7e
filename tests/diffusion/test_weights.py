"""Weights from elsewhere: opened as what they are, or refused with the file and the way out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from tiny import CPU, keys
from tiny_weights import (
    CHANNELS,
    SIDE,
    SIZE,
    autoencoder_files,
    dit,
    kl,
    open_dit,
    open_vae,
    openings,
    save_dit,
    tiny,
    vq,
)

from distillery.data.identity import imagenet_names
from distillery.data.pixels import to_bytes
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.denoiser import Denoiser
from distillery.diffusion.models import load_generator, set_timestep_shift
from distillery.diffusion.renderer import class_conditions, load_renderer
from distillery.diffusion.sampler import sample
from distillery.diffusion.schedule import Schedule, training_scheduler
from distillery.diffusion.weights import file_digest, local_folder, model_digest
from distillery.diffusion.weights_convert import convert
from distillery.errors import BadInput, WeightsError
from distillery.guidance.base import Scene
from distillery.guidance.influence import Influence
from distillery.guidance.learnability import Learnability
from distillery.guidance.score import Scorer
from distillery.storage.atomic import read_json
from distillery.storage.tensors import write_tensors
from distillery.streams import image_noise, stream
from distillery.students.networks import Classifier, Domain

KINDS: dict[str, Callable[[], Any]] = {"AutoencoderKL": kl, "AutoencoderTiny": tiny, "VQModel": vq}


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=stream("images")) * 2 - 1


# ---- autoencoders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_autoencoder_of_diffusers_encodes_and_decodes_with_its_scale_and_shift(kind: str, tmp_path: Path) -> None:
    model = KINDS[kind]()
    model.save_pretrained(tmp_path / "given")
    codec = open_vae(tmp_path / "given", tmp_path / "opened", scaling_factor=0.5, shift_factor=0.25)
    assert type(codec.autoencoder).__name__ == kind
    assert (codec.channels, codec.latent_size(SIDE)) == (CHANNELS, SIZE)
    with torch.no_grad():
        mean, std = codec.encode(images())
        raw = model.encode(images())
        expected = raw.latent_dist.mean if kind == "AutoencoderKL" else raw.latents
        torch.testing.assert_close(mean, (expected - 0.25) * 0.5)
        assert bool((std > 0).all()) == (kind == "AutoencoderKL")
        torch.testing.assert_close(codec.decode(mean), model.decode(expected).sample, atol=1e-4, rtol=1e-4)


def test_an_autoencoder_keeps_its_own_scale_and_lies_below_a_pipeline(tmp_path: Path) -> None:
    kl(scaling_factor=0.3, shift_factor=0.1).save_pretrained(tmp_path / "pipeline" / "vae")
    codec = open_vae(tmp_path / "pipeline", tmp_path / "opened", subfolder="vae")
    assert (codec.scale, codec.shift) == (0.3, 0.1)


def test_equal_weights_give_equal_files_and_another_model_another_digest(tmp_path: Path) -> None:
    kl().save_pretrained(tmp_path / "given")
    tiny().save_pretrained(tmp_path / "other")
    for name in ("one", "two"):
        open_vae(tmp_path / "given", tmp_path / name)
    for file in autoencoder_files(tmp_path / "one").values():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    assert model_digest(tmp_path / "one") == model_digest(tmp_path / "two")
    assert model_digest(tmp_path / "one") != model_digest(open_vae_folder(tmp_path))


def open_vae_folder(tmp_path: Path) -> Path:
    open_vae(tmp_path / "other", tmp_path / "three")
    return tmp_path / "three"


def test_an_autoencoder_for_other_images_is_refused(tmp_path: Path) -> None:
    kl(image_channels=1).save_pretrained(tmp_path / "given")
    with pytest.raises(
        BadInput, match=r"takes images of 1 channels.*dataset.channels has 3; set dataset.channels: grey"
    ):
        open_vae(tmp_path / "given", tmp_path / "opened")


# ---- generators ------------------------------------------------------------------------------------------------------


def test_a_pretrained_dit_is_opened_with_its_classes_schedule_and_frequencies(tmp_path: Path) -> None:
    folder = open_dit(save_dit(tmp_path / "given"), tmp_path / "opened")
    transformer, scheduler = load_generator(folder)
    assert isinstance(scheduler, DDPMScheduler)
    assert torch.equal(scheduler.alphas_cumprod, training_scheduler().alphas_cumprod)
    given = dit()
    set_timestep_shift(given, 0)
    noisy, steps = torch.randn(2, CHANNELS, SIZE, SIZE, generator=stream("x")), torch.tensor([500, 10])
    with torch.no_grad():
        one, other = (
            m(noisy, timestep=steps, class_labels=torch.tensor([3, 1000])).sample for m in (transformer, given)
        )
    assert torch.equal(one, other)
    assert class_conditions(folder, ["n02102040", "tench", "French horn"]) == {0: 217, 1: 0, 2: 566}


def test_the_frequencies_of_dit_are_those_of_its_paper(tmp_path: Path) -> None:
    transformer, _ = load_generator(open_dit(save_dit(tmp_path / "given"), tmp_path / "opened"))
    embedded = transformer.transformer_blocks[1].norm1.emb.time_proj(torch.tensor([500.0]))[0]
    frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    torch.testing.assert_close(embedded[:128], torch.cos(500 * frequencies), atol=1e-4, rtol=0)
    torch.testing.assert_close(embedded[128:], torch.sin(500 * frequencies), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("learned", "wanted", "stated", "shift"),
    [
        (True, "auto", None, 0),
        (False, "auto", None, 1),
        (True, "auto", 1, 1),
        (False, "dit", None, 0),
        (True, "diffusers", 0, 1),
    ],
)
def test_the_frequencies_are_as_wanted_or_stated_or_by_the_learned_variance(
    learned: bool, wanted: str, stated: int | None, shift: int, tmp_path: Path
) -> None:
    source = save_dit(tmp_path / "given", dit(learned_variance=learned, layers=1))
    if stated is not None:
        config = source / "transformer" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"timestep_shift": stated}), "utf-8")
    transformer, _ = load_generator(open_dit(source, tmp_path / "opened", timestep_shift=wanted))
    assert transformer.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift == shift


def test_learned_variance_and_guidance_on_three_of_four_channels_are_those_of_the_reference(tmp_path: Path) -> None:
    """One denoiser, two samplers: ours, and `DDPMScheduler.step` with the same noise."""
    transformer, _ = load_generator(open_dit(save_dit(tmp_path / "given"), tmp_path / "opened"))
    steps, scale, named = 5, 4.0, keys(2, "reference")
    conditions = torch.tensor([217, 0])
    denoiser = Denoiser(transformer, scale, 3, training_scheduler())
    schedule = Schedule(training_scheduler(), steps)
    ours = sample(denoiser, schedule, SIZE, named, torch.tensor([0, 1]), conditions, device=CPU)

    oracle: Any = DDPMScheduler(
        1000, 1e-4, 0.02, "linear", variance_type="learned_range", clip_sample=False, timestep_spacing="linspace"
    )
    oracle.set_timesteps(steps)
    shape = (CHANNELS, SIZE, SIZE)
    state = image_noise(named, "start", shape)
    for place, timestep in enumerate(oracle.timesteps):
        with torch.no_grad():
            output = transformer(
                torch.cat([state, state]),
                timestep=timestep.expand(4),
                class_labels=torch.cat([conditions, torch.full((2,), 1000)]),
            ).sample
        told, untold = output.chunk(2)
        noise = torch.cat([untold[:, :3] + scale * (told[:, :3] - untold[:, :3]), told[:, 3:4]], 1)
        index = steps - 1 - place
        fresh = image_noise(named, index, shape) if index else torch.zeros(2, *shape)
        state = _step(oracle, torch.cat([noise, told[:, 4:]], 1), int(timestep), state, fresh)
    torch.testing.assert_close(ours, state, atol=2e-4, rtol=2e-4)


def _step(oracle: Any, output: torch.Tensor, timestep: int, state: torch.Tensor, fresh: torch.Tensor) -> torch.Tensor:
    """`DDPMScheduler.step` with given noise."""
    import diffusers.schedulers.scheduling_ddpm as module

    drawn, module.randn_tensor = module.randn_tensor, lambda *_, **__: fresh
    try:
        return oracle.step(output, timestep, state).prev_sample
    finally:
        module.randn_tensor = drawn


def test_a_generator_with_names_of_its_own_is_conditioned_by_them(tmp_path: Path) -> None:
    names = {"0": "old boat", "1": "cat, moggy", "2": "dog"}
    source = save_dit(tmp_path / "given", dit(classes=3, layers=1), names)
    folder = open_dit(source, tmp_path / "opened", classes="own")
    assert class_conditions(folder, ["dog", "moggy", "old boat"]) == {0: 2, 1: 1, 2: 0}
    with pytest.raises(BadInput, match=r"knows no class 'cow'; it knows old boat.*unknown_classes: new_row"):
        class_conditions(folder, ["dog", "cow"])
    with pytest.raises(BadInput, match="3 classes, and ImageNet-1K has 1000; set classes: own"):
        open_dit(source, tmp_path / "other")


def test_a_generator_and_an_autoencoder_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = open_dit(save_dit(tmp_path / "given", dit(layers=1, size=4)), tmp_path / "dit")
    kl().save_pretrained(tmp_path / "vae")
    open_vae(tmp_path / "vae", tmp_path / "autoencoder")
    options = {"steps": 2, "guidance_scale": 1.0, "cfg_channels": "all", "batch_size": 2, "device": CPU}
    with pytest.raises(BadInput, match="makes latents of side 4, but images of 16 px have latents of side 8"):
        load_renderer(folder, tmp_path / "autoencoder", resolution=SIDE, **options)
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps(index | {"_autoencoder": "feed"}), "utf-8")
    with pytest.raises(BadInput, match=r"not the autoencoder that .* was trained with"):
        load_renderer(folder, tmp_path / "autoencoder", resolution=8, **options)


def test_a_small_autoencoder_decodes_for_the_guidance_alone(tmp_path: Path) -> None:
    folder = open_dit(save_dit(tmp_path / "given", dit(layers=1)), tmp_path / "dit")
    for name, model in (("autoencoder", kl()), ("small", tiny())):
        model.save_pretrained(tmp_path / f"{name}-given")
        open_vae(tmp_path / f"{name}-given", tmp_path / name)
    options = {"steps": 2, "guidance_scale": 1.0, "cfg_channels": "all", "batch_size": 2, "device": CPU}
    renderer = load_renderer(
        folder, tmp_path / "autoencoder", resolution=SIDE, **options, guidance_autoencoder=tmp_path / "small"
    )
    assert type(renderer.guidance_codec.autoencoder).__name__ == "AutoencoderTiny"
    latents, pixels = renderer.render(keys(1), torch.tensor([0]), torch.tensor([5]))
    assert torch.equal(pixels, to_bytes(renderer.codec.decode(latents)))

    network = Classifier("convnet1_w8", ["a", "b"], Domain(SIDE, 3), ("small",))
    state = {f"0/{name}": value for name, value in network.state_dict().items()}
    count = sum(parameter.numel() for parameter in network.parameters())
    state["gradients"] = torch.randn(1, 2, count, generator=stream("gradients"))
    write_tensors(tmp_path / "gradients.safetensors", state, {}, **network.description, kept=[0])
    everywhere: dict[str, Any] = {"range": [0, 1]}
    scene = Scene(renderer, ["a", "b"], Scorer([network], network, 0.5))
    learnability = Learnability(strength=1.0, **everywhere).open([], scene)
    influence = Influence(surrogate="conv", **everywhere).open([tmp_path / "gradients.safetensors"], scene)
    decoded: list[str] = []
    for name, codec in (("large", renderer.codec), ("small", renderer.guidance_codec)):
        codec.autoencoder.decoder.register_forward_hook(lambda *_, name=name: decoded.append(name))
    for guidance in (learnability, influence):
        decoded.clear()
        renderer.render(keys(1), torch.tensor([0]), torch.tensor([5]), [guidance])
        assert decoded == ["small", "small", "large"]


@pytest.mark.parametrize("small", [False, True])
def test_a_decoder_of_half_precision_decodes_for_the_guidance_alone(tmp_path: Path, small: bool) -> None:
    folder = open_dit(save_dit(tmp_path / "given", dit(layers=1)), tmp_path / "dit")
    for name, model in (("autoencoder", kl()), ("small", tiny())):
        model.save_pretrained(tmp_path / f"{name}-given")
        open_vae(tmp_path / f"{name}-given", tmp_path / name)
    renderer = load_renderer(
        folder,
        tmp_path / "autoencoder",
        resolution=SIDE,
        steps=2,
        guidance_scale=1.0,
        cfg_channels="all",
        batch_size=2,
        device=CPU,
        guidance_autoencoder=tmp_path / "small" if small else None,
        decoder_precision="bfloat16",
    )
    codec = renderer.guidance_codec
    assert codec is not None and codec.half and not renderer.codec.half
    assert (codec.digest == renderer.codec.digest) is not small
    latents, pixels = renderer.render(keys(1), torch.tensor([0]), torch.tensor([5]))
    assert torch.equal(pixels, to_bytes(renderer.codec.decode(latents)))

    leaf = latents.requires_grad_()
    exact = Codec.load(tmp_path / "small") if small else renderer.codec
    images = [one.decode(leaf) for one in (codec, exact)]
    assert images[0].dtype == torch.float32
    gradients = [torch.autograd.grad(one.square().sum(), leaf)[0] for one in images]
    for low, full in (images, gradients):
        assert 0 < float(((low - full).norm() / full.norm()).detach()) < 0.05


def test_a_decoder_of_half_precision_keeps_half_as_much_for_the_gradient() -> None:
    exact = Codec(kl())
    leaf = torch.randn(1, 4, 8, 8, generator=stream("half", "decoder")).requires_grad_()
    sizes = []
    for codec in (exact, exact.halved()):
        weights = {value.untyped_storage().data_ptr() for value in codec.autoencoder.parameters()}
        kept: dict[int, int] = {}

        def note(value: torch.Tensor, weights: set[int] = weights, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            images = codec.decode(leaf)
        assert images.requires_grad
        sizes.append(sum(kept.values()))
    assert sizes[1] < 0.52 * sizes[0]
    assert exact.halved().autoencoder.encoder is exact.autoencoder.encoder


# ---- what bad weights get --------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def as_pickle(path: Path) -> None:
    state = dit(layers=1).state_dict()
    path.unlink()
    torch.save(state, path.with_suffix(".bin"))


def as_pointer(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def without_a_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors.pop("proj_out_2.weight")
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, "the download broke off, fetch it again"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "broken off within its header"),
        (lambda path: path.write_bytes(b"\x80\x04" + bytes(100)), "not a safetensors file"),
        (Path.unlink, "no such file; the download is not complete"),
        (as_pickle, "pickled weights, which are not opened"),
        (as_pointer, "Git LFS pointer"),
        (without_a_tensor, "missing keys between config.json and the weights: proj_out_2.weight"),
        (lambda path: (path.parent / "config.json").unlink(), "config.json: no such file"),
        (lambda path: (path.parent / "config.json").write_text("{}", "utf-8"), "config.json: a None; allowed"),
    ],
    ids=["cut", "no header", "no safetensors", "absent", "pickle", "pointer", "tensor", "no config", "empty config"],
)
def test_weights_that_are_not_whole_are_refused_by_name(
    harm: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    source = save_dit(tmp_path / "given", dit(layers=1))
    harm(source / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(BadInput, match=words) as refused:
        open_dit(source, tmp_path / "opened")
    assert str(refused.value).startswith("generators.dit.weights: ")
    assert str(source) in str(refused.value)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", ["../other.safetensors", "/other.safetensors", "below/other.safetensors", "..", 3])
def test_an_index_that_leaves_its_folder_is_refused(name: object, tmp_path: Path) -> None:
    source = save_dit(tmp_path / "given", dit(layers=1))
    weights = source / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = list(dit(layers=1).state_dict())
    for place in (source / "other.safetensors", source / "transformer" / "part.safetensors"):
        place.write_bytes(weights.read_bytes())
    weights.unlink()
    index = weights.with_name(f"{weights.name}.index.json")

    def name_part(part: object) -> None:
        index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, part)}), "utf-8")

    name_part("part.safetensors")
    open_dit(source, tmp_path / "whole")
    name_part(name)
    with pytest.raises(BadInput, match=r"index.json: names .*, which lies outside the folder"):
        open_dit(source, tmp_path / "opened")
    assert not (tmp_path / "opened").exists()


def test_pickled_weights_are_rewritten_once(tmp_path: Path) -> None:
    source = save_dit(tmp_path / "given", dit(layers=1))
    safe = source / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(dit(layers=1).state_dict(), safe.with_suffix(".bin"))
    safe.unlink()
    assert list(convert(source)) == [(safe.with_suffix(".bin"), safe)]
    open_dit(source, tmp_path / "opened")


def test_a_pickle_that_does_something_is_not_opened(tmp_path: Path) -> None:
    import pickle

    class Harm:
        def __reduce__(self) -> Any:
            return (print, ("harm",))

    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(WeightsError, match="holds something else than tensors"):
        list(convert(tmp_path))


def test_pickles_in_several_files_are_rewritten_with_their_index(tmp_path: Path) -> None:
    source = save_dit(tmp_path / "given", dit(layers=1))
    folder = source / "transformer"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    state = dit(layers=1).state_dict()
    places = {}
    for number, names in enumerate((sorted(state)[::2], sorted(state)[1::2])):
        file = f"diffusion_pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({name: state[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(BadInput, match="pickled weights, which are not opened"):
        open_dit(source, tmp_path / "opened")
    assert len(list(convert(source))) == 3
    open_dit(source, tmp_path / "opened")
    kept = load_file(openings(tmp_path / "opened")["weights"])
    assert all(torch.equal(kept[name], state[name]) for name in state)


def test_a_generator_whose_names_contradict_the_table_is_refused(tmp_path: Path) -> None:
    names = [", ".join(names) for names in imagenet_names().values()]
    own = {str(index): name for index, name in enumerate(names)}
    right = save_dit(tmp_path / "correct", dit(classes=1002, layers=1), {**own, "1001": "my cat"})
    table = read_json(openings(open_dit(right, tmp_path / "opened"))["index"], "open_generator")["id2label"]
    assert table["0"].startswith("n01440764, tench") and table["1001"] == "my cat"
    turned = save_dit(tmp_path / "turned", dit(layers=1), dict(zip(own, reversed(names), strict=True)))
    with pytest.raises(
        BadInput, match=r"id2label calls class 0 '.*', which is n01440764 in ImageNet-1K; set classes: own"
    ):
        open_dit(turned, tmp_path / "wrong")
    index = read_json(openings(open_dit(turned, tmp_path / "own", classes="own"))["index"], "open_generator")
    assert class_conditions(tmp_path / "own", ["tench"]) == {0: 999}
    assert index["id2label"]["999"] == names[0]


def test_a_schedule_without_any_signal_at_its_end_is_refused(tmp_path: Path) -> None:
    source = save_dit(tmp_path / "given", dit(layers=1))
    DDPMScheduler(rescale_betas_zero_snr=True).save_pretrained(source / "scheduler")
    with pytest.raises(BadInput, match="rescale_betas_zero_snr"):
        open_dit(source, tmp_path / "opened")


@pytest.mark.parametrize(
    ("learned", "given", "guided"), [(True, "auto", 3), (False, "auto", "all"), (True, "all", "all")]
)
def test_guidance_acts_on_three_channels_where_the_variance_is_learned(learned: bool, given: Any, guided: Any) -> None:
    assert Denoiser(dit(layers=1, learned_variance=learned), cfg_channels=given).cfg_channels == guided


def test_a_digest_is_compared(tmp_path: Path) -> None:
    source, name = save_dit(tmp_path / "given", dit(layers=1)), "transformer/diffusion_pytorch_model.safetensors"
    open_dit(source, tmp_path / "opened", sha256={name: file_digest(source / name)})
    with pytest.raises(BadInput, match=f"sha256 [0-9a-f]{{64}}, and the experiment names {'0' * 64}"):
        open_dit(source, tmp_path / "other", sha256={name: "0" * 64})


def test_weights_that_are_nowhere_say_what_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"weights/of/mine: no such folder \(a relative one starts at"):
        local_folder("weights/of/mine", None, ("",), download=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set.*`hf download some/dit --local-dir weights/dit`"):
        local_folder("some/dit", None, ("transformer",), download=True)
