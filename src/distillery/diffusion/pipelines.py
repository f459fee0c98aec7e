"""Folders that hold a whole generator: transformer, noise schedule, names of classes, and an autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from distillery.diffusion.weights import read_config
from distillery.errors import WeightsError
from distillery.lean_imports import from_diffusers
from distillery.storage.atomic import copy_file, parse_json, write_json


def open_scheduler(folder: Path) -> Any:
    """The noise schedule of a folder as a `DDPMScheduler`: betas and prediction type are its own, whatever its class.

    So are `steps_offset` and `set_alpha_to_one`, which the chain of LD3M asks for, where they are not 0 and true.

    Raises:
        WeightsError: it is absent or cannot be used.
    """
    path = folder / "scheduler_config.json"
    try:
        config = parse_json(path.read_text("utf-8"))
        betas = {key: config[key] for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; the download is not complete") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error!r})") from error
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise WeightsError(f"{path}: prediction_type {prediction!r}; allowed: epsilon, v_prediction")
    if config.get("rescale_betas_zero_snr"):
        raise WeightsError(f"{path}: rescale_betas_zero_snr: a schedule that ends without any signal is not supported")
    if config.get("trained_betas") is not None:
        betas["trained_betas"] = config["trained_betas"]
    scheduler: Any = from_diffusers("DDPMScheduler")(
        **betas, prediction_type=prediction, timestep_spacing="linspace", clip_sample=False
    )
    one = config.get("_class_name") != "PNDMScheduler"  # where the file leaves it open, that class ends at timestep 0
    ends = {"steps_offset": config.get("steps_offset", 0), "set_alpha_to_one": config.get("set_alpha_to_one", one)}
    if ends != {"steps_offset": 0, "set_alpha_to_one": True}:
        scheduler.register_to_config(**ends)
    return scheduler


def timestep_shift(transformer: Any, wanted: Literal["auto", "dit", "diffusers"]) -> int:
    """0 for the frequencies of DiT, 1 for those of diffusers: as wanted, as the config says, or by learned variance.

    Models with a learned variance are DiT's own, converted: diffusers' training scripts make none.
    """
    if wanted != "auto":
        return 0 if wanted == "dit" else 1
    stated = transformer.config.get("timestep_shift")
    if stated is not None:
        return int(stated)
    return 0 if transformer.config.out_channels == 2 * transformer.config.in_channels else 1


def write_pipeline_index(path: Path, names: Mapping[str, str], autoencoder: Path, digest: str) -> None:
    """The index by which `DiTPipeline.from_pretrained` opens the folder that holds it.

    Args:
        names: index -> name of the classes.
        autoencoder: folder of the autoencoder that is copied to `vae/`.
        digest: of it; a renderer compares them.
    """
    write_json(
        path,
        {
            "_class_name": "DiTPipeline",
            "_autoencoder": digest,
            "id2label": dict(names),
            "scheduler": ["diffusers", "DDPMScheduler"],
            "transformer": ["diffusers", "DiTTransformer2DModel"],
            "vae": ["diffusers", read_config(autoencoder)["_class_name"]],
        },
    )


def copy_autoencoder(source: Path, config: Path, weights: Path) -> None:
    """Copy an autoencoder of the pipeline into the folder of a generator."""
    copy_file(source / "config.json", config)
    copy_file(source / "diffusion_pytorch_model.safetensors", weights)
