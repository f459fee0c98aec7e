"""Nothing is unpickled, evaluated or handed to a shell: a file can be damaged or hostile, but not run."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from clone import PROJECT
from tiny import CLASSES, CPU

from distillery.data.arrays import ENDINGS, read_arrays
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.latents import LatentCache
from distillery.diffusion.models import load_generator, open_autoencoder, open_transformer, open_unet
from distillery.diffusion.weights_convert import main as convert
from distillery.errors import BadInput, DamagedArtifact, NotSafetensors, WeightsError
from distillery.guidance.influence_gradients import GradientDistance
from distillery.guidance.mode_discovery import read_modes
from distillery.matching.experts import Trajectories
from distillery.storage.atomic import write_json
from distillery.storage.resume import Resume
from distillery.storage.tensors import described_tensors, load_slice, load_tensors, opened_tensor, read_header
from distillery.students.networks import Classifier, Domain, load_networks
from distillery.students.pretrained import open_pretrained

SOURCES = sorted((PROJECT / "src").rglob("*.py"))

UNPICKLE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
EXECUTE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"}
ONLY_SAFE = {"torch.load": "weights_only", **dict.fromkeys(("yaml.load", "yaml.unsafe_load", "yaml.full_load"), "")}
"""Calls that unpickle or build objects, with the argument that has to be True; empty: none makes them safe."""


def wrong(tree: ast.AST) -> Iterator[str]:
    """What of a module runs what a file or a text says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLE)
        elif isinstance(node, ast.ImportFrom):
            yield from [node.module] if (node.module or "").partition(".")[0] in UNPICKLE else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            stated = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in EXECUTE:
                yield f"{name} in line {node.lineno}"
            if name in ONLY_SAFE and stated.get(ONLY_SAFE[name]) != "True":
                yield f"{name} in line {node.lineno}"
            for option, value in (("shell", "False"), ("allow_pickle", "False"), ("trust_remote_code", "False")):
                if stated.get(option, value) != value:
                    yield f"{name}({option}={stated[option]}) in line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT / "src")))
def test_no_module_runs_what_a_file_says(path: Path) -> None:
    assert [*wrong(ast.parse(path.read_text("utf-8")))] == []


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from joblib import load", "import torch; torch.load(path)", "yaml.load(text, yaml.Loader)"),
        *("torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "eval(text)", "os.system(text)"),
        *("subprocess.run(text, shell=True)", "load_dataset(name, trust_remote_code=True)"),
    ],
)
def test_the_rule_is_kept_by_more_than_silence(line: str) -> None:
    assert [*wrong(ast.parse(line))] != []


# ---- a pickle that leaves a file behind where it is opened -----------------------------------------------------------


class Harm:
    """Opened by pickle, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    return pickle.dumps({"state_dict": Harm(mark)})


def zipped(mark: Path) -> bytes:
    """As torch writes it."""
    path = mark.with_name("written.pt")
    torch.save({"state_dict": Harm(mark)}, path)
    return path.read_bytes()


def as_array(mark: Path) -> bytes:
    path = mark.with_name("written.npy")
    np.save(path, np.array([Harm(mark)], dtype=object), allow_pickle=True)
    return path.read_bytes()


def folder_of(path: Path) -> Path:
    """A folder of a model whose file of weights is this one."""
    folder = path.parent / "model"
    for part, name in (("transformer", "DiTTransformer2DModel"), ("unet", "UNet2DModel"), ("", "AutoencoderKL")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        write_json(folder / part / "config.json", {"_class_name": name, "num_embeds_ada_norm": 4})
        for file in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"):
            (folder / part / file).write_bytes(path.read_bytes())
    return folder


def opened_as(ending: str) -> Callable[[Path], object]:
    """A distilled set in a file of this ending."""

    def opened(path: Path) -> object:
        return read_arrays("methods.theirs", str(path.rename(path.with_suffix(ending))), None, "0..1", CLASSES)

    return opened


def restore(path: Path) -> None:
    resume = Resume(path.with_name("model"), "digest")
    path.rename(resume.path)
    assert resume.restore() is None
    raise NotSafetensors("it starts afresh")


OPENERS: dict[str, Callable[[Path], object]] = {
    "tensors": load_tensors,
    "a slice": lambda path: load_slice(path, "a"),
    "a header": read_header,
    "a description": described_tensors,
    "soft labels": lambda path: opened_tensor(path, "logits", "store_soft_labels"),
    "latents": lambda path: LatentCache([path]),
    "a network": lambda path: Classifier.load(path, "train_student"),
    "networks": lambda path: load_networks(path, "train_student"),
    "a pretrained network": lambda path: open_pretrained(path, "convnet2_w8", CLASSES, Domain(16, 1), None),
    "experts": lambda path: Trajectories([path], {}),
    "gradients": lambda path: GradientDistance.load(path, CLASSES, CPU),
    "modes": lambda path: read_modes(path, CLASSES),
    "an autoencoder": lambda path: open_autoencoder(folder_of(path)),
    "a made autoencoder": lambda path: Codec.load(folder_of(path)),
    "a transformer": lambda path: open_transformer(folder_of(path) / "transformer"),
    "a UNet": lambda path: open_unet(folder_of(path) / "unet"),
    "a made generator": lambda path: load_generator(folder_of(path)),
    "a resume file": restore,
    **{f"a set in a {ending} file": opened_as(ending) for ending in ENDINGS},
}


@pytest.mark.parametrize("write", [pickled, zipped, as_array])
@pytest.mark.parametrize("name", OPENERS)
def test_a_hostile_pickle_is_refused_wherever_weights_are_opened(
    name: str, write: Callable[[Path], bytes], tmp_path: Path
) -> None:
    mark = tmp_path / "harm"
    (tmp_path / "weights.safetensors").write_bytes(write(mark))
    with pytest.raises((DamagedArtifact, WeightsError, BadInput, NotSafetensors)):
        OPENERS[name](tmp_path / "weights.safetensors")
    assert not mark.exists()


@pytest.mark.parametrize("write", [pickled, zipped])
def test_pickles_are_rewritten_without_running_them(
    write: Callable[[Path], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "harm"
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(write(mark))
    assert convert([str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "holds something else than tensors" in line
    assert not mark.exists()


def test_the_pickle_would_have_done_it(tmp_path: Path) -> None:
    pickle.loads(pickled(tmp_path / "harm"))
    assert (tmp_path / "harm").exists()
