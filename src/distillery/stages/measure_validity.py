"""Measure validity and learnability: what student and reference say of each candidate, and which was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.methods.lgd import LGD
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """`candidates`: per slot."""

    seed: int
    method: str
    candidates: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str) -> Settings:
        lgd = experiment.method_of(method, LGD)
        return cls(seed=experiment.seed(run), method=method, candidates=lgd.candidates)


def run(settings: Settings, *, candidates: list[Input], judge: Input | None = None, validity: Output, job: Job) -> None:
    """Candidates of all increments to one row each: the loss of the student before, and the label's probability by the
    reference and, if there is one, by a judge that took no part.

    Increment 1 has no student. `chosen_by_loss` is the candidate of largest loss of its slot, which S without its
    reference term would have chosen among the same candidates.
    """
    import pyarrow as pa
    import torch

    from distillery.data.pixels import decoded
    from distillery.guidance.increment import choose_candidates
    from distillery.storage.images import read_images
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier
    from distillery.students.training import logits_of

    network = Classifier.load(judge, "train_reference").to(job.device) if judge is not None else None
    schema = pa.schema(
        [("method", pa.string())]
        + [(name, pa.int64()) for name in ("seed", "increment", "label", "slot", "candidate")]
        + [(name, pa.float64()) for name in ("student_loss", "reference_probability", "judge_probability")]
        + [(name, pa.bool_()) for name in ("chosen", "chosen_by_loss")]
    )
    tables = [schema.empty_table()]
    for path in candidates:
        drawn = read_images(path, "generate_increment")
        if "student_loss" not in drawn.columns:
            continue
        columns, probability = drawn.columns, None
        if network is not None:
            logits = logits_of(network, decoded(drawn)).cpu()
            outputs = torch.tensor([network.classes.index(name) for name in drawn.classes])[
                torch.from_numpy(drawn.labels)
            ]
            probability = logits.double().softmax(1).gather(1, outputs[:, None])[:, 0].numpy()
        loss = torch.from_numpy(columns["student_loss"].copy()).view(-1, settings.candidates)
        alone = torch.zeros_like(loss, dtype=torch.bool)
        alone[torch.arange(len(loss)), choose_candidates(loss, torch.ones_like(loss))] = True
        tables.append(
            pa.table(
                {
                    "method": [settings.method] * len(drawn),
                    "seed": [settings.seed] * len(drawn),
                    "label": drawn.labels,
                    **{name: columns[name] for name in ("increment", "slot", "candidate")},
                    **{name: columns[name].astype("float64") for name in ("student_loss", "reference_probability")},
                    "judge_probability": pa.array(probability, pa.float64()) if network else [None] * len(drawn),
                    "chosen": columns["chosen"].astype(bool),
                    "chosen_by_loss": alone.flatten().numpy(),
                }
            )
            .select(schema.names)
            .cast(schema)
        )
    write_table(validity, pa.concat_tables(tables), job.provenance)
