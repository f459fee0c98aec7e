"""Folders of weights in the layout of diffusers: where they are, whether they are whole, and what is missing.

Nothing here opens a model, and nothing that is pickled is read. So an experiment is refused before any job, for a word
in its file as for a download that broke off.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from distillery.errors import NotSafetensors, WeightsError
from distillery.storage.atomic import parse_json
from distillery.storage.files import no_file
from distillery.storage.tensors import read_header

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Stated(Protocol):
    """Weights that an experiment names; `diffusion.settings.Pretrained` says what each attribute is."""

    @property
    def weights(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def subfolder(self) -> str | None: ...
    @property
    def sha256(self) -> Mapping[str, str]: ...
    @property
    def origin(self) -> str | None: ...


def is_hub_name(weights: str) -> bool:
    """Whether `weights` is a name on the hub: `owner/name`, and nothing here is called so, nor like its owner.

    `weights` itself owns nothing there: it is the folder that every message and document puts weights into.
    """
    owner = weights.partition("/")[0]
    return bool(_HUB_NAME.fullmatch(weights)) and owner != "weights" and not Path(owner).exists()


def local_folder(
    weights: str, revision: str | None, parts: tuple[str, ...], below: str | None = None, *, download: bool
) -> Path:
    """The folder that holds these weights.

    Args:
        weights: a folder, or a name on the hub.
        parts: the folders in it that are needed; an empty text stands for itself.
        below: where in the folder, or in the repository, it lies.
        download: whether what is not in the hub's cache may be fetched; never with `HF_HUB_OFFLINE`.

    Raises:
        WeightsError: there is no such folder, or it cannot be had; the message says what to download and where to.
    """
    if Path(weights).is_dir():
        return Path(weights, below or "")
    if Path(weights).exists():
        raise WeightsError(f"{weights}: a file; give the folder that it lies in")
    if not is_hub_name(weights):
        raise WeightsError(
            f"{weights}: no such folder (a relative one starts at {Path.cwd()}); give a folder in the layout of "
            "diffusers, or a name on the Hugging Face hub"
        )
    from huggingface_hub import snapshot_download

    root = f"{below}/" if below else ""
    inside = [f"{root}{part}/" if part else root for part in parts]
    patterns = [f"{root}model_index.json", *(f"{place}*{end}" for place in inside for end in (".json", ".safetensors"))]
    offline = _offline()
    try:
        fetch = download and not offline
        snapshot = snapshot_download(weights, revision=revision, allow_patterns=patterns, local_files_only=not fetch)
    except Exception as error:  # whatever the hub client raises: no connection, no such name, no permission
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        here = "HF_HUB_OFFLINE is set" if offline else why
        raise WeightsError(
            f"{weights}: no such folder, and not to be had from the Hugging Face hub ({here}). Where there is a "
            f"connection: `hf download {weights} --local-dir weights/{weights.split('/', maxsplit=1)[1]}`; then "
            f"give ./weights/{weights.split('/', maxsplit=1)[1]}"
        ) from error
    return Path(snapshot, below or "")


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The `config.json` of a folder, or another file of that kind.

    Raises:
        WeightsError: it is absent or no JSON object.
    """
    path = folder / name
    if path.exists() and (what := no_file(path)):  # opening a pipe waits for its other end
        raise WeightsError(f"{path}: {what}; give a folder in the layout of diffusers")
    try:
        config = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; the folder is no model of diffusers, or not wholly there") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The files of weights of a folder, each of them whole.

    Raises:
        WeightsError: there is none, one is missing or broken off, or there are pickles alone.
    """
    one, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if one.exists():
        files = [one]
    elif index.exists():
        try:
            names = sorted(set(read_config(folder, index.name)["weight_map"].values()))
        except (KeyError, AttributeError) as error:
            raise WeightsError(f"{index}: cannot be read ({error!r})") from error
        if outside := [name for name in names if Path(str(name)).name != name or name == ".."]:
            raise WeightsError(f"{index}: names {outside[0]!r}, which lies outside the folder")
        files = [folder / name for name in names]
    else:
        pickles = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
        if pickles:
            raise WeightsError(
                f"{folder / pickles[0]}: pickled weights, which are not opened. Rewrite them once: "
                f"`python -m distillery.diffusion.weights_convert {folder}`"
            )
        raise WeightsError(
            f"{one}: no such file; the download is not complete, or the weights come as a pickle alone: then download "
            "the whole repository, and rewrite them with `python -m distillery.diffusion.weights_convert FOLDER`"
        )
    for path in files:
        header(path)
    return files


STATISTICS = ("latents_mean", "latents_std")


def latent_statistics(config: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """The mean and the standard deviation of each channel of the latents that an autoencoder's config states; None
    where it states none.

    Raises:
        WeightsError: one without the other, not one number for each channel, or a shift of all channels beside them.
    """
    mean, std = (config.get(name) for name in STATISTICS)
    if mean is None and std is None:
        return None
    channels = config.get("vq_embed_dim") or config.get("latent_channels")
    for name, values in zip(STATISTICS, (mean, std), strict=True):
        numbers = values if isinstance(values, list | tuple) else []
        usable = all(isinstance(one, int | float) and math.isfinite(one) for one in numbers)
        if not usable or len(numbers) != channels or (name == "latents_std" and min(numbers) <= 0):
            raise WeightsError(
                f"config.json: {name} {values}; allowed: a number for each of the {channels} channels of the latents, "
                "a standard deviation above 0, and both or neither of latents_mean and latents_std"
            )
    if config.get("shift_factor"):
        raise WeightsError(
            f"config.json: shift_factor {config['shift_factor']} beside latents_mean, and models differ in how the two "
            "combine; set shift_factor: 0 where latents_mean alone holds"
        )
    return [float(one) for one in mean or ()], [float(one) for one in std or ()]


def header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> type and shape of the tensors of a safetensors file, without reading them.

    Raises:
        WeightsError: the file is absent, broken off, or no safetensors file.
    """
    if path.exists() and (what := no_file(path)):
        raise WeightsError(f"{path}: {what}; give a folder of the files as they were downloaded")
    try:
        return read_header(path).shapes
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; the download is not complete") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    except NotSafetensors as error:
        raise WeightsError(f"{path}: {error}{error.way_out}") from None


def check_digests(folder: Path, wanted: Mapping[str, str]) -> None:
    """Compare files with the sha256 that an experiment names.

    Raises:
        WeightsError: a file is absent or another one.
    """
    for name, digest in wanted.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise WeightsError(f"{name}: lies outside {folder}")
        if not path.is_file():
            raise WeightsError(f"{path}: no such file, and the experiment names its sha256")
        own = file_digest(path)
        if own != digest:
            raise WeightsError(f"{path}: sha256 {own}, and the experiment names {digest}; download it again")


def file_digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(folder: Path) -> str:
    """A short name of a model: of its config and its tensors, not of the way they were written."""
    config = {key: value for key, value in read_config(folder).items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for path in weight_files(folder):
        header = read_header(path)
        digest.update(json.dumps(header.tensors, sort_keys=True).encode())
        with path.open("rb") as file:
            file.seek(header.start)
            while block := file.read(2**22):
                digest.update(block)
    return digest.hexdigest()[:16]


def check_stated(block: Stated, parts: tuple[str, ...]) -> None:
    """Whether weights that an experiment names are there and whole, as far as this machine can say without a download.

    A name on the hub is left to the job that opens it, unless `HF_HUB_OFFLINE` is set: what its cache lacks is fetched.

    Raises:
        WeightsError: they are not; the message names the file, the way out, and the digests that are compared.
    """
    if is_hub_name(block.weights) and not _offline():
        return
    try:
        folder = local_folder(block.weights, block.revision, parts, block.subfolder, download=False)
        for part in parts:
            read_config(folder / part)
            weight_files(folder / part)
    except WeightsError as error:
        digests = [f"{name} has to have the sha256 {digest}" for name, digest in sorted(block.sha256.items())]
        raise WeightsError("; ".join([str(error), *filter(None, [block.origin]), *digests])) from error


def stated_folder(block: Stated) -> Path:
    """The folder of weights that an experiment names.

    Raises:
        WeightsError: it is not on this machine.
    """
    if is_hub_name(block.weights) and not _cached(block):
        raise WeightsError(f"{block.weights}: not on this machine")
    return local_folder(block.weights, block.revision, (), block.subfolder, download=False)


def stated_config(block: Stated, part: str) -> dict[str, Any]:
    """The config of weights that an experiment names.

    Raises:
        WeightsError: it is not on this machine, or no JSON object.
    """
    return read_config(stated_folder(block) / part)


def stated_scheduler(block: Stated) -> dict[str, Any]:
    """The noise schedule of weights that an experiment names.

    Raises:
        WeightsError: it is not on this machine, or no JSON object.
    """
    return read_config(stated_folder(block) / "scheduler", "scheduler_config.json")


def files_here(weights: str, subfolder: str | None) -> list[str]:
    """The configs and weights below a folder that an experiment names, sorted; none of a name on the hub."""
    folder = Path(weights, subfolder or "")
    wanted = (path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors") and path.is_file())
    return sorted(map(str, wanted)) if folder.is_dir() else []


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _cached(block: Stated) -> bool:
    """Whether the hub's cache has something of this name; where it lies is told by the hub's own variables."""
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any(Path(cache, "models--" + block.weights.replace("/", "--"), "snapshots").glob("*/*"))
