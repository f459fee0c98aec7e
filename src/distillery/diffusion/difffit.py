"""Fine-tuning of a DiT by few parameters: biases, scales and the class table (DiffFit, arXiv 2304.06648).

The published list of keywords is not applied: in diffusers `norm1` names a block's whole modulation, a third of a
billion parameters in DiT-XL/2. What is trained is chosen by the type and the part that a module plays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Trainable = Literal["difffit", "bias", "full"]

_ROWS = "class_rows"
_TABLE = "class_embedder.embedding_table.weight"


class Scaled(nn.Module):
    """A linear layer whose outputs are scaled by vectors that are learned: y = gamma_n … gamma_1 (W x + b)."""

    def __init__(self, linear: nn.Linear, vectors: int) -> None:
        super().__init__()
        self.linear = linear
        self.gamma = nn.Parameter(torch.ones(vectors, linear.out_features, device=linear.weight.device))

    def forward(self, values: Tensor) -> Tensor:
        """The scaled output."""
        output = self.linear(values)
        for gamma in self.gamma:
            output = gamma * output
        return output

    def folded(self) -> nn.Linear:
        """A plain linear layer that gives the same."""
        with torch.no_grad():
            gamma = self.gamma.prod(0)
            self.linear.weight.mul_(gamma[:, None])
            if self.linear.bias is not None:
                self.linear.bias.mul_(gamma)
        return self.linear


def share_embeddings(transformer: Any, *, compare: bool = True) -> bool:
    """Let all blocks use the first one's embedding of timestep and class, if all of them are equal.

    DiT has one embedding; diffusers keeps a copy in each block. Copies that were trained apart stay apart.

    Returns:
        Whether they are one now.
    """
    blocks = transformer.transformer_blocks
    first = blocks[0].norm1.emb
    if compare:
        mine = first.state_dict()
        for block in blocks[1:]:
            its = block.norm1.emb.state_dict()
            if not all(torch.equal(mine[name], its[name]) for name in mine):
                return False
    for block in blocks[1:]:
        block.norm1.emb = first
    return True


def add_class_rows(transformer: Any, count: int) -> list[int]:
    """Give a DiT so many classes more; their rows begin as the row of no class.

    That row moves to the end of the table, where the config puts it. A copy stays in its old place, where it is looked
    for by readers that take 1,000 for "none", such as `DiTPipeline`; `fold` keeps both equal.

    Returns:
        The indices of the new classes.
    """
    before = transformer.config.num_embeds_ada_norm
    old_place = transformer.config.get("row_of_no_class")
    first = before + 1 if old_place is None else before  # one copy is enough
    after = first + count
    for embedder in _embedders(transformer):
        old = embedder.embedding_table.weight.detach()
        none = old[-1:]
        table = nn.Embedding(after + 1, old.shape[1], device=old.device, dtype=old.dtype)
        with torch.no_grad():
            table.weight.copy_(torch.cat([old[:-1], none.expand(after - before, -1), none]))
        embedder.embedding_table, embedder.num_classes = table, after
    transformer.register_to_config(
        num_embeds_ada_norm=after, row_of_no_class=before if old_place is None else old_place
    )
    return list(range(first, after))


def prepare(transformer: Any, trainable: Trainable, gamma_blocks: int | None = None) -> None:
    """Set `requires_grad` of the trained parameters, and add scales to the first blocks; none: to half of them."""
    transformer.requires_grad_(trainable == "full")
    if trainable == "full":
        return
    if trainable == "difffit":
        blocks = transformer.transformer_blocks
        for block in blocks[: len(blocks) // 2 if gamma_blocks is None else gamma_blocks]:
            attention, feed_forward = block.attn1, block.ff.net
            attention.to_q, attention.to_k, attention.to_v = (
                Scaled(layer, 1) for layer in (attention.to_q, attention.to_k, attention.to_v)
            )
            # The published model scales the projection and then the gated branch: one vector in effect, two in Adam.
            attention.to_out[0] = Scaled(attention.to_out[0], 2)
            feed_forward[2] = Scaled(feed_forward[2], 1)
    for module in transformer.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            module.bias.requires_grad_(True)
        elif isinstance(module, Scaled):
            module.gamma.requires_grad_(True)
    for embedder in _embedders(transformer):
        embedder.embedding_table.weight.requires_grad_(True)


def changed(transformer: Any, trained: Sequence[str], rows: Sequence[int]) -> dict[str, Tensor]:
    """What training has changed: the trained parameters, and of class tables the rows of these classes and of no class.

    Other rows of a table get no gradient, and without weight decay no change.
    """
    parameters = {name: value.detach() for name, value in transformer.named_parameters() if name in set(trained)}
    used = torch.tensor(sorted({*rows, transformer.config.num_embeds_ada_norm}))
    kept = {name: value[used] if name.endswith(_TABLE) else value for name, value in parameters.items()}
    return {**kept, _ROWS: used}


def apply_changes(transformer: Any, tensors: dict[str, Tensor]) -> None:
    """Put what `changed` gave into a transformer that was prepared in the same way."""
    parameters = dict(transformer.named_parameters())
    with torch.no_grad():
        for name, value in tensors.items():
            if name.endswith(_TABLE):
                parameters[name][tensors[_ROWS]] = value.to(parameters[name])
            elif name != _ROWS:
                parameters[name].copy_(value)


def fold(transformer: Any) -> Any:
    """Make a plain DiT of it again, which any pipeline opens: scales go into weights and biases, in place.

    Each block gets a copy of the embedding that it shared.
    """
    for block in transformer.transformer_blocks:
        attention, feed_forward = block.attn1, block.ff.net
        for name in ("to_q", "to_k", "to_v"):
            setattr(attention, name, _plain(getattr(attention, name)))
        attention.to_out[0] = _plain(attention.to_out[0])
        feed_forward[2] = _plain(feed_forward[2])
    if (row := transformer.config.get("row_of_no_class")) is not None:
        with torch.no_grad():
            for embedder in _embedders(transformer):
                embedder.embedding_table.weight[row] = embedder.embedding_table.weight[-1]
    first = transformer.transformer_blocks[0].norm1
    for block in transformer.transformer_blocks[1:]:
        if block.norm1.emb is first.emb:  # as diffusers has it: a copy in each block
            block.norm1.emb = copy.deepcopy(first.emb)
    return transformer


def _plain(layer: nn.Module) -> nn.Module:
    return layer.folded() if isinstance(layer, Scaled) else layer


def _embedders(transformer: Any) -> Iterator[Any]:
    """The class tables, each once."""
    seen: set[int] = set()
    for block in transformer.transformer_blocks:
        embedder = block.norm1.emb.class_embedder
        if id(embedder) not in seen:
            seen.add(id(embedder))
            yield embedder
