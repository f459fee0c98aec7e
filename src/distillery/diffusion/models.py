"""Models of diffusers, opened with every tensor accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillery.diffusion.weights import STATISTICS, WEIGHTS, read_config, weight_files
from distillery.errors import WeightsError, damaged
from distillery.lean_imports import from_diffusers
from distillery.storage.tensors import stage_that_wrote, verify

AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
TRANSFORMERS = ("DiTTransformer2DModel", "Transformer2DModel")
"""`Transformer2DModel` is what the class of a DiT was called when DiT's weights came to the hub."""

UNETS = ("UNet2DModel", "UNet2DConditionModel")

_DERIVED = ("pos_embed.pos_embed",)
"""Tensors that follow from the config: older files hold them, newer ones do not."""


def open_autoencoder(folder: Path) -> Any:
    """An autoencoder of one of the known classes, in float32, with all that its config says of the scale of latents.

    Raises:
        WeightsError: it is absent, broken, or of another class.
    """
    name, config = _class_name(folder, AUTOENCODERS), read_config(folder)
    model = _open(from_diffusers(name), folder)
    # Not every class of diffusers knows them all; what it does not know, it passes over.
    model.register_to_config(**{key: config[key] for key in ("shift_factor", *STATISTICS) if key in config})
    return model


def load_generator(folder: Path) -> tuple[Any, Any]:
    """The network and the noise scheduler of a generator: a UNet where `unet/` lies in its folder, else a DiT.

    Args:
        folder: in the layout of `save_pretrained`, as a stage of this project made it.

    Raises:
        DamagedArtifact: it cannot be opened.
    """
    part = "unet" if (folder / "unet").is_dir() else "transformer"
    try:
        return open_network(folder, part), from_diffusers("DDPMScheduler").from_pretrained(
            folder / "scheduler", local_files_only=True
        )
    except Exception as error:  # diffusers raises anything here
        otherwise = "open_generator" if part == "unet" else "train_generator"
        made_by = stage_that_wrote(folder / part / WEIGHTS, otherwise)
        raise damaged(folder, made_by, str(error).splitlines()[0]) from error


def open_network(folder: Path, part: str) -> Any:
    """The network of a generator's folder, in float32.

    Args:
        part: the folder in it that holds the network: `transformer` or `unet`.

    Raises:
        WeightsError: it is absent, broken, or something else.
    """
    return open_unet(folder / part) if part == "unet" else open_transformer(folder / part)


def open_transformer(folder: Path) -> Any:
    """A class-conditional DiT, in float32, with what this project notes in its config and diffusers passes over.

    Raises:
        WeightsError: it is absent, broken, or something else.
    """
    _class_name(folder, TRANSFORMERS)
    config = read_config(folder)
    if config.get("norm_type", "ada_norm_zero") != "ada_norm_zero" or not config.get("num_embeds_ada_norm"):
        raise WeightsError(f"{folder / 'config.json'}: no class-conditional DiT (norm_type, num_embeds_ada_norm)")
    model = _open(from_diffusers("DiTTransformer2DModel"), folder)
    if "timestep_shift" in config:
        set_timestep_shift(model, config["timestep_shift"])
    if "row_of_no_class" in config:
        model.register_to_config(row_of_no_class=config["row_of_no_class"])
    return model


def open_unet(folder: Path) -> Any:
    """A UNet of one of the known classes, in float32.

    Raises:
        WeightsError: it is absent, broken, or of another class.
    """
    return _open(from_diffusers(_class_name(folder, UNETS)), folder)


def set_timestep_shift(transformer: Any, shift: int) -> None:
    """Choose the frequencies of the timestep embedding: exp(-ln(10000) i / (128 - shift)), i = 0 to 127.

    DiT divides by 128 (shift 0), diffusers by 127 (shift 1), whoever trained the weights. The choice goes into the
    config as `timestep_shift`, which diffusers passes over.
    """
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = shift
    transformer.register_to_config(timestep_shift=shift)


def _class_name(folder: Path, known: tuple[str, ...]) -> str:
    name = read_config(folder).get("_class_name")
    if name not in known:
        raise WeightsError(f"{folder / 'config.json'}: a {name}; allowed: {', '.join(known)}")
    return str(name)


def _open(kind: Any, folder: Path) -> Any:
    files = weight_files(folder)
    try:
        for path in files:
            verify(path)
        model, about = kind.from_pretrained(
            folder,
            local_files_only=True,
            low_cpu_mem_usage=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers raises anything from OSError to SafetensorError here
        raise WeightsError(f"{folder}: cannot be opened ({str(error).splitlines()[0]})") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        wrong = [str(name) for name in about.get(what) or [] if name not in _DERIVED]
        if wrong:
            raise WeightsError(
                f"{folder}: {what.replace('_', ' ')} between config.json and the weights: {', '.join(wrong[:3])}"
                f"{', …' if len(wrong) > 3 else ''}; the download is not complete, or the two do not belong together"
            )
    model.register_to_config(_name_or_path="")  # diffusers notes the folder, which others need not know
    return model.float()
