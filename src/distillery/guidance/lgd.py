"""What LGD's loop carries from one increment to the next: memory, guidances, and the images as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distillery.data.pixels import to_unit
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.renderer import Renderer
from distillery.diffusion.sampler import Guidance
from distillery.guidance.deviation import ClassMemory
from distillery.guidance.further import start_deviation
from distillery.guidance.increment import Candidates
from distillery.guidance.learnability import LearnabilityGuidance
from distillery.guidance.score import Scorer
from distillery.guidance.settings import Deviation, Learnability
from distillery.storage.images import ImageSet, encode_png


def image_set(drawn: Candidates, classes: Sequence[str], increment: int | None = None) -> ImageSet:
    """Candidates as an image set with their latents, places and losses."""
    columns = {
        "slot": drawn.slots.numpy(),
        "candidate": drawn.numbers.numpy(),
        "latent": drawn.latents.flatten(1).numpy(),
    }
    if increment is not None:
        columns["increment"] = np.full(len(drawn.slots), increment)
        columns["chosen"] = drawn.chosen.numpy()
    if drawn.score is not None:
        columns.update({name: values.numpy() for name, values in vars(drawn.score).items()})
    names = [
        f"{classes[label]}/{slot:05d}-{number}.png"
        for label, slot, number in zip(drawn.labels.tolist(), drawn.slots.tolist(), drawn.numbers.tolist(), strict=True)
    ]
    return ImageSet(
        [encode_png(image) for image in drawn.pixels.numpy()], drawn.labels.numpy(), list(classes), names, columns
    )


def encode_seed(seed: ImageSet, labels: Sequence[int], count: int, codec: Codec, device: torch.device) -> ImageSet:
    """The first `count` images of each class of another method's set as increment 1, with their latents (mean)."""
    rows = [row for row, label in enumerate(seed.labels) if label in labels and seed.columns["slot"][row] < count]
    taken = seed.take(sorted(rows, key=lambda row: (seed.columns["slot"][row], seed.labels[row])))
    with torch.no_grad():
        batches = torch.from_numpy(taken.pixels()).split(64)
        latents = torch.cat([codec.encode(to_unit(batch).to(device))[0].cpu() for batch in batches])
    columns = {
        "slot": taken.columns["slot"],
        "candidate": np.zeros(len(taken), dtype=np.int64),
        "latent": latents.flatten(1).numpy(),
        "increment": np.ones(len(taken), dtype=np.int64),
        "chosen": np.ones(len(taken), dtype=bool),
    }
    return ImageSet(taken.images, taken.labels, taken.classes, taken.paths, columns)


@dataclass(frozen=True)
class LoopGuidance:
    """The guidances of one LGD method, ready to start an increment.

    Attributes:
        learnability, deviation: their settings, with ranges.
        increments: what the method has made so far; the memory starts from it.
        further: guidances that join them.
    """

    renderer: Renderer
    learnability: Learnability
    deviation: Deviation
    increments: Sequence[ImageSet]
    further: Sequence[Guidance] = ()

    def start(
        self, scorer: Scorer, strength: float, deviation: bool = True
    ) -> tuple[list[Guidance], ClassMemory | None]:
        """The guidances at a strength, and the memory that grows with the increment.

        There is no memory where deviation is off: then slots are independent.

        Args:
            deviation: False: learnability alone, as the pilot measures it.
        """
        guidances: list[Guidance] = []
        steered = self.learnability
        if strength:
            assert steered.range is not None, "ranges are resolved when the settings of a stage are made"
            guidances.append(
                LearnabilityGuidance(
                    scorer,
                    self.renderer.guidance_codec or self.renderer.codec,
                    strength=strength,
                    first=steered.range[0],
                    last=steered.range[1],
                    direction=steered.direction,
                    norm=steered.norm,
                    through_denoiser=steered.through_denoiser,
                )
            )
        if not deviation:
            return guidances, None
        guidances += self.further
        started = start_deviation(self.deviation, self.renderer, self.increments)
        if started is None:
            return guidances, None
        return [*guidances, started[0]], started[1]
