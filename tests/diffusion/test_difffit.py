"""What DiffFit trains in the layout of diffusers, what it leaves alone, and what comes out as a plain DiT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from safetensors.torch import load_file
from tiny import job, stopped_at
from tiny_weights import CHANNELS, SIDE, SIZE, dit, kl, open_dit, open_vae, openings, save_dit

from distillery.diffusion import difffit
from distillery.diffusion.generators import FinetunedGenerator
from distillery.diffusion.models import load_generator
from distillery.diffusion.renderer import class_conditions
from distillery.diffusion.weights import model_digest
from distillery.errors import BadInput
from distillery.stages import finetune_generator
from distillery.storage.atomic import read_json
from distillery.storage.tables import read_table
from distillery.storage.tensors import read_tensors, write_tensors
from distillery.streams import stream

ROLES = ("bias", "gamma", "embedding_table")


def xl() -> Any:
    """DiT-XL/2 in its shape, without weights."""
    with torch.device("meta"):
        model = DiTTransformer2DModel(num_embeds_ada_norm=1000, out_channels=8)
    difffit.share_embeddings(model, compare=False)
    return model


def counts(model: Any) -> dict[str, int]:
    """Trained numbers by role."""
    found = dict.fromkeys(ROLES, 0)
    for name, value in model.named_parameters():
        if value.requires_grad:
            found[next(role for role in ROLES if role in name)] += value.numel()
    return found


def answer(model: Any, label: int = 3) -> torch.Tensor:
    noisy = torch.randn(2, CHANNELS, SIZE, SIZE, generator=stream("answer"))
    with torch.no_grad():
        return model(noisy, timestep=torch.tensor([700, 30]), class_labels=torch.tensor([label, 1000])).sample


# ---- what is trained -------------------------------------------------------------------------------------------------


def test_the_counts_of_dit_xl_are_the_published_ones() -> None:
    model = xl()
    assert sum(value.numel() for value in model.parameters()) == 674_834_720
    difffit.prepare(model, "difffit")
    assert counts(model) == {"bias": 489_632, "gamma": 96_768, "embedding_table": 1_153_152}
    assert sum(counts(model).values()) == 1_739_552


def test_biases_alone_and_everything() -> None:
    model = xl()
    difffit.prepare(model, "bias")
    assert counts(model) == {"bias": 489_632, "gamma": 0, "embedding_table": 1_153_152}
    difffit.prepare(model, "full")
    assert all(value.requires_grad for value in model.parameters())


def test_embeddings_that_were_trained_apart_stay_apart() -> None:
    model = dit()
    assert difffit.share_embeddings(model)
    assert model.transformer_blocks[0].norm1.emb is model.transformer_blocks[1].norm1.emb
    other = dit()
    other.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.bias.add_(1.0)
    assert not difffit.share_embeddings(other)


def test_scales_begin_as_one_and_fold_into_the_weights() -> None:
    model = dit()
    before = answer(model)
    difffit.prepare(model, "difffit", gamma_blocks=2)
    torch.testing.assert_close(answer(model), before, atol=1e-6, rtol=1e-6)
    draws = stream("gamma")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "gamma" in name:
                value.add_(0.3 * torch.randn(value.shape, generator=draws))
    scaled = answer(model)
    assert not torch.allclose(scaled, before, atol=1e-3)
    folded = difffit.fold(model)
    torch.testing.assert_close(answer(folded), scaled, atol=1e-5, rtol=1e-5)
    assert folded.state_dict().keys() == dit().state_dict().keys()


def test_new_classes_begin_as_no_class_and_leave_the_others_alone() -> None:
    model = dit()
    known, none = answer(model, 3), answer(model, 1000)
    assert difffit.add_class_rows(model, 2) == [1001, 1002]
    assert model.config.num_embeds_ada_norm == 1003
    assert torch.equal(answer(model, 3), known)
    for row in (1000, 1001, 1002, 1003):
        assert torch.equal(answer(model, row), none)
    assert difffit.add_class_rows(model, 1) == [1003]
    assert (model.config.num_embeds_ada_norm, model.config.row_of_no_class) == (1004, 1000)


# ---- the stage -------------------------------------------------------------------------------------------------------


CLASSES = ["n02102040", "tench", "French horn"]


class Ready:
    """A tiny pretrained generator, its autoencoder, and latents of it."""

    def __init__(self, folder: Path, classes: list[str] = CLASSES) -> None:
        self.folder, self.classes = folder, classes
        self.base = open_dit(save_dit(folder / "given"), folder / "dit")
        kl().save_pretrained(folder / "vae-given")
        self.codec = open_vae(folder / "vae-given", folder / "autoencoder")
        self.latents = folder / "latents.safetensors"
        self.encode()

    def encode(self, size: int = SIZE, autoencoder: str | None = None) -> None:
        mean = torch.randn(24, CHANNELS, size, size, generator=stream("latents"))
        tensors = {"mean": mean, "std": torch.full_like(mean, 0.1), "labels": torch.arange(24) % len(self.classes)}
        digest = self.codec.digest if autoencoder is None else autoencoder
        write_tensors(self.latents, tensors, {}, classes=self.classes, autoencoder=digest)

    def tune(self, name: str, group: int | None = None, **options: Any) -> Path:
        block = FinetunedGenerator(
            **{"kind": "finetune", "base": "dit", "steps": 4, "batch_size": 4, "ema_decay": 0.5, **options}
        )
        settings = finetune_generator.Settings(seed=0, name="tuned", generator=block, group=group)
        folder = self.folder / name
        finetune_generator.run(
            settings,
            latents=[self.latents],
            base=[self.base / "model_index.json"],
            autoencoder=[self.folder / "autoencoder" / "config.json"],
            **openings(folder),
            history=folder / "history.parquet",
            changed=folder / "changed.safetensors",
            vae_config=folder / "vae" / "config.json",
            vae_weights=folder / "vae" / "diffusion_pytorch_model.safetensors",
            job=job("finetune_generator", settings, [self.latents]),
        )
        return folder


def test_a_group_learns_its_classes_alone_in_epochs_of_their_images(tmp_path: Path, no_request: None) -> None:
    ready, by_epochs = Ready(tmp_path), {"steps": None, "epochs": 3, "groups": 2, "learning_rate": 1e-3}
    base, _ = load_generator(ready.base)
    for group, rows, steps in ((0, [217, 566], 12), (1, [0], 6)):  # 16 images of two classes, 8 of one, 4 in a batch
        folder = ready.tune(f"group-{group}", group, **by_epochs)
        tuned, _ = load_generator(folder)
        now, before = (
            model.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight for model in (tuned, base)
        )
        learned = (now != before).any(1).nonzero()[:, 0].tolist()
        assert [row for row in learned if row != 1000] == rows
        tensors, _ = read_tensors(folder / "changed.safetensors", "finetune_generator")
        assert tensors["class_rows"].tolist() == [*rows, 1000]
        assert len(read_table(folder / "history.parquet", "finetune_generator")) == steps
        assert len(read_json(folder / "model_index.json", "finetune_generator")["id2label"]) == 1000
    one, other = (
        files(tmp_path / name)["transformer/diffusion_pytorch_model.safetensors"] for name in ("group-0", "group-1")
    )
    assert one != other


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("trainable", ["difffit", "bias"])
def test_few_numbers_change_and_the_folder_is_a_pipeline(trainable: str, tmp_path: Path, no_request: None) -> None:
    ready = Ready(tmp_path)
    folder = ready.tune("tuned", trainable=trainable, steps=20)
    tensors, about = read_tensors(folder / "changed.safetensors", "finetune_generator")
    assert tensors["class_rows"].tolist() == [0, 217, 566, 1000]
    assert about["base"] == model_digest(ready.base / "transformer")

    tuned, scheduler = load_generator(folder)
    base, _ = load_generator(ready.base)
    assert isinstance(scheduler, DDPMScheduler)
    assert not torch.equal(answer(tuned, 217), answer(base, 217))
    for one, other in zip(tuned.transformer_blocks, base.transformer_blocks, strict=True):
        now, before = (block.norm1.emb.class_embedder.embedding_table.weight for block in (one, other))
        learned = (now != before).any(1).nonzero()[:, 0].tolist()  # rows of the classes, and of none if it was drawn
        assert [row for row in learned if row != 1000] == [0, 217, 566]

    difffit.share_embeddings(base)
    difffit.prepare(base, trainable, about["gamma_blocks"])
    difffit.apply_changes(base, tensors)
    torch.testing.assert_close(answer(difffit.fold(base), 217), answer(tuned, 217), atol=1e-5, rtol=1e-5)

    pipeline = DiTPipeline.from_pretrained(folder)
    assert pipeline.labels["tench"] == 0
    drawn = pipeline([217, 0], num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np")
    assert drawn.images.shape == (2, SIDE, SIDE, 3)


def test_tuning_stopped_and_resumed_gives_the_same_bytes(
    tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Ready(tmp_path)
    whole = files(ready.tune("whole"))
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        ready.tune("halves")
    assert files(ready.tune("halves")) == whole


def test_tuning_with_memories_resumes_with_them(
    tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = Ready(tmp_path)
    memory = {"trainable": "full", "objective": {"kind": "memory", "memory_size": 2, "lambda_generated": 0.5}}
    whole = files(ready.tune("whole", **memory))
    assert "memory of generated latents: " in capsys.readouterr().out
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        ready.tune("halves", **memory)
    assert files(ready.tune("halves", **memory)) == whole
    assert files(ready.tune("plain", trainable="full")) != whole


def test_tuning_goes_on_from_the_weights_of_its_base(tmp_path: Path, no_request: None) -> None:
    ready = Ready(tmp_path)
    base, _ = load_generator(ready.base)
    tuned, _ = load_generator(ready.tune("tuned", trainable="full", learning_rate=1e-12))
    for name, value in base.state_dict().items():
        torch.testing.assert_close(tuned.state_dict()[name], value, atol=1e-6, rtol=0)


def test_full_tuning_changes_everything(tmp_path: Path, no_request: None) -> None:
    ready = Ready(tmp_path)
    tuned, _ = load_generator(ready.tune("tuned", trainable="full"))
    base, _ = load_generator(ready.base)
    changed = [not torch.equal(a, b) for a, b in zip(tuned.parameters(), base.parameters(), strict=True)]
    assert all(changed)


def test_a_class_that_the_base_does_not_know_is_refused_or_gets_a_row(tmp_path: Path, no_request: None) -> None:
    ready = Ready(tmp_path, ["tench", "my cat", "crane"])
    with pytest.raises(BadInput, match=r"generators.tuned: .* knows no class 'my cat', 'crane'.*new_row"):
        ready.tune("tuned")
    folder = ready.tune("tuned", unknown_classes="new_row")
    assert class_conditions(folder, ["my cat", "crane", "tench", "church"]) == {0: 1001, 1: 1002, 2: 0, 3: 497}
    tuned, _ = load_generator(folder)
    assert not torch.equal(answer(tuned, 1001), answer(tuned, 1000))
    assert torch.equal(answer(tuned, 1003), answer(tuned, 1000))  # where pipelines look for no class
    again, _ = load_generator(ready.tune("again", unknown_classes="new_row"))
    assert torch.equal(answer(again, 1001), answer(tuned, 1001))


def test_latents_that_do_not_fit_are_refused(tmp_path: Path, no_request: None) -> None:
    ready = Ready(tmp_path)
    ready.encode(size=4)
    with pytest.raises(BadInput, match="takes latents of 4 x 8 x 8, and the autoencoder gives 4 x 4 x 4"):
        ready.tune("tuned")
    ready.encode(autoencoder="another")
    with pytest.raises(BadInput, match="not the autoencoder of these latents"):
        ready.tune("tuned")


def test_low_precision_keeps_weights_in_float32(tmp_path: Path, no_request: None) -> None:
    folder = Ready(tmp_path).tune("tuned", precision="bfloat16", gradient_checkpointing=True)
    written = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float32}
