"""A checkpoint of latent diffusion, under the names that its code gives to weights, becomes folders of diffusers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel
from torch import Tensor

from distillery.diffusion.models import open_autoencoder, open_unet
from distillery.diffusion.pipelines import open_scheduler
from distillery.diffusion.weights_convert import convert
from distillery.diffusion.weights_ldm import NOISE, unet_config
from distillery.errors import WeightsError
from distillery.matching.conditioning import ends_of, table_of_unet

WIDTHS, LAYERS = (32, 64, 96), 2


def models() -> tuple[Any, Any]:
    """A UNet and a VQ autoencoder of the classes and shapes that those of cin256 have, but small."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=WIDTHS,
            layers_per_block=LAYERS,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=[1, 2, 3],
        )
        vq = VQModel(
            block_out_channels=(32, 32, 64),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=3,
            num_vq_embeddings=24,
            vq_embed_dim=3,
        )
    return unet.eval(), vq.eval()


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}


def name_in_unet(name: str) -> str:
    """What latent diffusion calls a weight of the UNet: blocks are counted through, over all sides."""
    for here, there in OUTSIDE.items():
        if name.startswith(f"{here}."):
            return name.replace(here, there, 1)
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{place}.{inside(found[1], found[3])}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", name)
    assert found is not None, name
    way, level, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    first = level * (LAYERS + 1) + (way == "down")
    blocks = "input_blocks" if way == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{blocks}.{first + LAYERS}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        attends = level < 2
        return f"{blocks}.{first + LAYERS}.{1 + attends}.{rest}"
    return f"{blocks}.{first + layer}.{int(kind == 'attentions')}.{inside(kind, rest)}"


def inside(kind: str, rest: str) -> str:
    part, _, end = rest.partition(".")
    return f"{RESNET[part]}.{end}" if kind == "resnets" else rest


def name_in_autoencoder(name: str) -> str:
    """What latent diffusion calls a weight of the autoencoder: levels of the decoder are counted from the image."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    name = re.sub(r"mid_block\.attentions\.0\.to_(.)", r"mid.attn_1.\1", name)
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{2 - int(found[1])}", name).replace("down_blocks", "down")
    name = re.sub(r"(up|down)samplers\.0", r"\1sample", name)
    return name.replace("resnets", "block")


def checkpoint(folder: Path, **changes: Any) -> tuple[Path, Any, Any]:
    """The file, and the models that it holds."""
    unet, vq = models()
    tensors: dict[str, Tensor] = {
        f"model.diffusion_model.{name_in_unet(name)}": value for name, value in unet.state_dict().items()
    }
    for name, value in vq.state_dict().items():
        linear = "mid_block.attentions" in name and value.ndim == 2  # a convolution of one pixel there
        tensors[f"first_stage_model.{name_in_autoencoder(name)}"] = value[..., None, None] if linear else value
    tensors["cond_stage_model.embedding.weight"] = torch.randn(6, 16)
    tensors["alphas_cumprod"] = DDIMScheduler(**NOISE).alphas_cumprod
    whole = {**tensors, **changes}
    path = folder / "model.ckpt"
    torch.save({"global_step": 3, "state_dict": {name: v for name, v in whole.items() if v is not None}}, path)
    return path, unet, vq


def test_a_checkpoint_of_latent_diffusion_becomes_folders_of_diffusers(tmp_path: Path) -> None:
    path, unet, vq = checkpoint(tmp_path)
    written = [*convert(tmp_path)]
    assert {old for old, _ in written} == {path}
    assert {new.relative_to(tmp_path).parts[0] for _, new in written} == {
        "unet",
        "vqvae",
        "class_embedding.safetensors",
    }
    opened, autoencoder = open_unet(tmp_path / "unet"), open_autoencoder(tmp_path / "vqvae")
    states, images = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        table = table_of_unet(opened, tmp_path)
        assert table is not None and table.shape == (6, 16)
        vectors = table[:2, None]
        wanted = unet(states, torch.tensor(7), encoder_hidden_states=vectors).sample
        assert torch.equal(opened(states, torch.tensor(7), encoder_hidden_states=vectors).sample, wanted)
        assert torch.equal(autoencoder.encode(images).latents, vq.encode(images).latents)
        assert torch.equal(autoencoder.decode(states[..., :4, :4]).sample, vq.decode(states[..., :4, :4]).sample)
    assert autoencoder.config.scaling_factor == 1.0
    assert ends_of(open_scheduler(tmp_path / "scheduler")) == (1, pytest.approx(1 - 0.0015))


def test_the_shapes_of_cin256_make_its_config() -> None:
    """By the shapes alone: 192 channels times 1, 2, 3, 5, attention below the first side, heads of 32 channels."""
    tensors = {"input_blocks.0.0.weight": torch.empty(192, 3, 3, 3), "out.2.weight": torch.empty(3, 192, 3, 3)}
    block = 1
    for level, width in enumerate((192, 384, 576, 960)):
        for _ in range(2):
            tensors[f"input_blocks.{block}.0.out_layers.3.weight"] = torch.empty(width, width, 3, 3, device="meta")
            if level:
                name = f"input_blocks.{block}.1.transformer_blocks.0.attn2.to_k.weight"
                tensors[name] = torch.empty(width, 512, device="meta")
            block += 1
        if level < 3:
            tensors[f"input_blocks.{block}.0.op.weight"] = torch.empty(width, width, 3, 3, device="meta")
            block += 1
    config = unet_config({f"model.diffusion_model.{name}": value for name, value in tensors.items()})
    assert config["block_out_channels"] == [192, 384, 576, 960] and config["attention_head_dim"] == [6, 12, 18, 30]
    assert config["down_block_types"] == ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 3
    assert config["up_block_types"] == ["CrossAttnUpBlock2D"] * 3 + ["UpBlock2D"]
    assert (config["layers_per_block"], config["cross_attention_dim"], config["in_channels"]) == (2, 512, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cond_stage_model.embedding.weight": None}, "no class-conditional model with a VQ autoencoder"),
        ({"model.diffusion_model.out.2.bias": None}, r"unet: conv_out\.bias do not fit its other weights"),
        ({"alphas_cumprod": torch.linspace(0.9, 0.1, 1000)}, "its noise schedule is not that of cin256-v2"),
    ],
    ids=["no classes", "broken off", "another schedule"],
)
def test_a_checkpoint_of_another_model_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, **changes)
    with pytest.raises(WeightsError, match=words):
        [*convert(tmp_path)]


def test_another_checkpoint_is_left_alone(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.ckpt")
    assert [*convert(tmp_path)] == []
