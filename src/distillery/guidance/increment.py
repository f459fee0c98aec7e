"""One increment of LGD: candidates for every slot of every class, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from distillery.diffusion.renderer import Renderer
from distillery.diffusion.sampler import Guidance
from distillery.errors import Diverged
from distillery.guidance.base import Remembers
from distillery.guidance.score import Score, Scorer
from distillery.progress import Progress
from distillery.storage.resume import Resume
from distillery.storage.tensors import below
from distillery.streams import Key, stream


@dataclass
class Candidates:
    """All candidates of an increment, in the order slot, class, candidate.

    Attributes:
        labels, slots, numbers: (N,) int64; `numbers` counts the candidates of a slot from 0.
        latents: (N, C, h, w).
        pixels: (N, C, H, W) uint8.
        score: of the stored images; None without a student.
        chosen: (N,) bool, one per slot and class.
    """

    labels: Tensor
    slots: Tensor
    numbers: Tensor
    latents: Tensor
    pixels: Tensor
    score: Score | None
    chosen: Tensor


def choose_candidates(
    learnability: Tensor, reference_probability: Tensor, min_reference_probability: float = 0.0
) -> Tensor:
    """The candidate of largest S in each row of (rows, candidates), the lowest of equal ones: (rows,) int64.

    Candidates below the least reference probability are left out, unless all of a row are.
    """
    valid = reference_probability >= min_reference_probability
    valid |= ~valid.any(1, keepdim=True)
    # numpy's argmax returns the first of equal values; torch leaves open which one it gives.
    return torch.from_numpy(np.argmax(learnability.masked_fill(~valid, -torch.inf).numpy(), axis=1))


def generate_candidates(
    renderer: Renderer,
    *,
    labels: Sequence[int],
    conditions: dict[int, int],
    slots: Sequence[int],
    candidates: int,
    key: Callable[[int, int, int], Key],
    scorer: Scorer | None = None,
    guidances: Sequence[Guidance] = (),
    choose: Literal["learnability", "random"] = "learnability",
    min_reference_probability: float = 0.0,
    resume: Resume | None = None,
    what: str = "generate_increment",
) -> Candidates:
    """Fill slots with the best of several candidates each, and mark which were chosen.

    Slots are sequential where a guidance remembers what was chosen, because it steers a slot by the slots before; then
    one batch holds one slot of all classes. Otherwise as many slots as fit share a batch.

    Args:
        labels: classes of this shard.
        conditions: label -> class index of the generator.
        key: (label, slot, candidate) -> key of the image's stream.
        scorer: needed to choose by learnability among several candidates.

    Raises:
        Diverged: the scores are not finite.
    """
    remembering = [guidance for guidance in guidances if isinstance(guidance, Remembers)]
    slots_at_once = 1 if remembering else max(1, renderer.batch_size // max(1, len(labels) * candidates))
    groups = [list(slots[start : start + slots_at_once]) for start in range(0, len(slots), slots_at_once)]
    parts: list[dict[str, Tensor]] = []
    if resume and (state := resume.restore()):
        for number in range(state[1]["groups"]):
            part = below(state[0], f"{number}/")
            parts.append(part)
            for guidance in remembering:
                guidance.remember(part["latents"][part["chosen"]], part["labels"][part["chosen"]])
    with Progress(what, len(slots) * len(labels) * candidates, "image", sum(len(p["labels"]) for p in parts)) as bar:
        for group in groups[len(parts) :]:
            rows = [(slot, label, number) for slot in group for label in labels for number in range(candidates)]
            in_slot, of_class, numbers = torch.tensor(rows).unbind(1)
            latents, pixels = renderer.render(
                [key(label, slot, number) for slot, label, number in rows],
                of_class,
                torch.tensor([conditions[label] for label in of_class.tolist()]),
                guidances,
                in_slot,
            )
            part = {"labels": of_class, "slots": in_slot, "numbers": numbers, "latents": latents, "pixels": pixels}
            if scorer is not None:
                part.update(vars(scorer.score_stored(pixels, of_class)))
                if choose == "learnability" and not part["learnability"].isfinite().all():
                    raise Diverged(
                        "the scores are no numbers: the student or the reference has diverged; train it at a lower rate"
                    )
            best = torch.zeros(len(group) * len(labels), dtype=torch.long)
            if candidates > 1 and choose == "random":
                draws = [stream(*key(label, slot, 0), "choice") for slot in group for label in labels]
                best = torch.stack([torch.randint(candidates, (), generator=draw) for draw in draws])
            elif candidates > 1:
                best = choose_candidates(
                    part["learnability"].view(-1, candidates),
                    part["reference_probability"].view(-1, candidates),
                    min_reference_probability,
                )
            part["chosen"] = (numbers.view(-1, candidates) == best[:, None]).flatten()
            for guidance in remembering:
                guidance.remember(latents[part["chosen"]], of_class[part["chosen"]])
            parts.append(part)
            bar.advance(len(rows))
            if resume:
                resume.checkpoint(
                    lambda: (
                        {f"{n}/{name}": tensor for n, done in enumerate(parts) for name, tensor in done.items()},
                        {"groups": len(parts)},
                    )
                )
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    score = Score(*(whole.pop(name) for name in Score.__annotations__)) if scorer is not None else None
    return Candidates(**whole, score=score)
