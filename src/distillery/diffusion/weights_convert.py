"""Pickled weights of diffusers and of latent diffusion, rewritten as safetensors; read with `weights_only=True`.

python -m distillery.diffusion.weights_convert FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from distillery.diffusion.weights import file_digest, read_config
from distillery.diffusion.weights_ldm import convert_checkpoint
from distillery.errors import WeightsError
from distillery.processes import accept_all_characters
from distillery.storage.atomic import write_json
from distillery.storage.tensors import save_tensors


def convert(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Rewrite the pickled weights of a folder, and of the folders below it, as safetensors beside them.

    A checkpoint of latent diffusion (`*.ckpt`) becomes the folders that diffusers has in its place.

    Yields:
        Each pickle and the file that stands for it now.

    Raises:
        WeightsError: a pickle holds something else than tensors.
    """
    for path in sorted(folder.rglob("diffusion_pytorch_model*.bin")):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling raises anything
            raise WeightsError(f"{path}: holds something else than tensors ({type(error).__name__})") from error
        state = state.get("state_dict", state) if isinstance(state, dict) else state
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise WeightsError(f"{path}: not a table of tensors")
        target = path.with_suffix(".safetensors")
        save_tensors(target, {name: state.pop(name).contiguous().clone() for name in list(state)}, {"format": "pt"})
        yield path, target
    for path in sorted(folder.rglob("diffusion_pytorch_model*.bin.index.json")):
        index = read_config(path.parent, path.name)
        try:
            places = {name: _rewritten(file) for name, file in index["weight_map"].items()}
        except (KeyError, AttributeError, TypeError) as error:
            raise WeightsError(f"{path}: cannot be read ({error!r})") from error
        target = path.with_name(f"{_rewritten(path.name.removesuffix('.index.json'))}.index.json")
        write_json(target, {**index, "weight_map": places})
        yield path, target
    for path in sorted(folder.rglob("*.ckpt")):
        for target in convert_checkpoint(path):
            yield path, target


def _rewritten(name: str) -> str:
    return str(Path(name).with_suffix(".safetensors"))


def main(arguments: list[str]) -> int:
    """The command."""
    accept_all_characters()
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m distillery.diffusion.weights_convert FOLDER", file=sys.stderr)
        return 2
    try:
        done = list(convert(Path(arguments[0])))
    except WeightsError as error:
        print(f"distillery: {error}", file=sys.stderr)
        return 1
    for old, new in done:
        print(f"{old} -> {new}  sha256 {file_digest(new)}")
    if not done:
        print(f"{arguments[0]}: holds no pickled weights of diffusers or latent diffusion")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
