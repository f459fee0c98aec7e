"""Where the histories of a run are sent: TensorBoard, Trackio, Weights & Biases, MLflow.

Each kind is a block of settings that opens its tool. Addresses and secrets are those of the tool's own environment
variables, never of an experiment file. Planning imports this module, so that it imports no tool but in `open`.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from pydantic import Field

from distillery.settings import Block, Name, UserPath

if TYPE_CHECKING:
    import pyarrow as pa

MLFLOW_BATCH = 1000
"""Values that MLflow takes at once."""


@dataclass(frozen=True)
class TrackedTraining:
    """A training as a tool shows it.

    Attributes:
        run: the experiment, and the seed of its run.
        panel: what trainings share that are compared.
        name: of the training in its panel; empty where it is alone there.
        facts: of the experiment, as the tool lists them.
    """

    run: str
    panel: str
    name: str
    facts: Mapping[str, str]

    @property
    def title(self) -> str:
        """Run, panel and name."""
        return ", ".join(filter(None, [self.run, self.panel, self.name]))


class Log(Protocol):
    """Takes the values of one step."""

    def __call__(self, step: int, values: Mapping[str, float], /) -> object: ...


class Tracker(Block):
    """Settings of one tool."""

    package: ClassVar[str]
    """What is imported."""
    extra: ClassVar[str]
    """The optional dependency of this project that brings it."""

    project: Name | None = Field(None, description="None: the name of the experiment.")

    def check(self, key: str) -> Iterator[str]:
        """Whether the tool is installed."""
        if find_spec(self.package) is None:
            yield f"{key}.kind: {self.package} is not installed; `pip install 'distillery[{self.extra}]'` brings it"

    @abstractmethod
    def open(self, project: str, training: TrackedTraining) -> AbstractContextManager[Log]:
        """One training of a project, which ends with the context."""


class TensorBoard(Tracker):
    """Event files, which `tensorboard --logdir runs` shows; an earlier one of the training is replaced."""

    package: ClassVar[str] = "tensorboardX"
    extra: ClassVar[str] = "tensorboard"
    kind: Literal["tensorboard"]
    folder: UserPath = Field("runs", description="The files lie in a folder of the project's name in it.")

    @contextmanager
    def open(self, project: str, training: TrackedTraining) -> Iterator[Log]:
        from tensorboardX import SummaryWriter

        parts = [training.run, training.panel, training.name]
        folder = Path(self.folder, project, *(_file_name(part) for part in parts if part))
        shutil.rmtree(folder, ignore_errors=True)
        with SummaryWriter(str(folder)) as writer:
            writer.add_text("facts", "\n\n".join(f"{name}: {value}" for name, value in training.facts.items()))

            def log(step: int, values: Mapping[str, float]) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)

            yield log


class Trackio(Tracker):
    """Trackio: a local data base, or what `TRACKIO_SPACE_ID` or `TRACKIO_SERVER_URL` names."""

    package: ClassVar[str] = "trackio"
    extra: ClassVar[str] = "trackio"
    kind: Literal["trackio"]

    @contextmanager
    def open(self, project: str, training: TrackedTraining) -> Iterator[Log]:
        import trackio

        trackio.init(
            project,
            training.title,
            group=f"{training.run}, {training.panel}",
            config=dict(training.facts),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        try:
            yield lambda step, values: trackio.log(dict(values), step=step)
        finally:
            trackio.finish()


class WandB(Tracker):
    """Weights & Biases, as `WANDB_API_KEY`, `WANDB_ENTITY`, `WANDB_MODE` and the others say."""

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"
    kind: Literal["wandb"]

    @contextmanager
    def open(self, project: str, training: TrackedTraining) -> Iterator[Log]:
        import wandb

        with wandb.init(
            project=project,
            name=training.title,
            group=training.run,
            job_type=training.panel,
            config=dict(training.facts),
            settings=wandb.Settings(console="off", disable_git=True, x_disable_stats=True),
        ) as run:
            yield lambda step, values: run.log(dict(values), step=step)


class MLflow(Tracker):
    """MLflow: what `MLFLOW_TRACKING_URI` names, or its own default."""

    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"
    kind: Literal["mlflow"]

    @contextmanager
    def open(self, project: str, training: TrackedTraining) -> Iterator[Log]:
        import mlflow

        mlflow.set_experiment(project)
        metrics: list[mlflow.entities.Metric] = []
        with mlflow.start_run(run_name=training.title, tags={"run": training.run, "panel": training.panel}) as run:
            mlflow.log_params(dict(training.facts))

            def log(step: int, values: Mapping[str, float]) -> None:
                now = round(1000 * time.time())
                metrics.extend(mlflow.entities.Metric(name, value, now, step) for name, value in values.items())

            yield log
            for start in range(0, len(metrics), MLFLOW_BATCH):
                mlflow.MlflowClient().log_batch(run.info.run_id, metrics[start : start + MLFLOW_BATCH])


AnyTracker = Annotated[TensorBoard | Trackio | WandB | MLflow, Field(discriminator="kind")]


def curves(history: pa.Table) -> Iterator[tuple[int, dict[str, float]]]:
    """The values of each step of a history: means over the networks that were trained at once, finite ones alone.

    Args:
        history: as `storage.history` writes it, of any unit.
    """
    table = history.to_pandas()
    unit = next((name for name in ("step", "epoch", "iteration") if name in table), None)
    if unit is None:
        return
    for step, row in table.drop(columns="network", errors="ignore").groupby(unit).mean().iterrows():
        yield int(step), {name: float(value) for name, value in row.items() if math.isfinite(value)}


def _file_name(text: str) -> str:
    """A text as a name of a folder that any file system takes."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-.") or "-"
