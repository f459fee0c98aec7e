"""Histories of trainings: the loss and its terms, the learning rate and the norm of the gradient, as a table.

A history holds at most `MOST_ROWS` rows for each network. How fast a training went is in the record of its cost: equal
trainings write equal histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from distillery.provenance import Provenance
from distillery.storage.tables import write_table
from distillery.storage.tensors import below

MOST_ROWS = 1000
PENDING_ROWS = 100
"""Rows that wait on their device: each transfer waits for the device."""

Unit = Literal["step", "epoch", "iteration"]


class History:
    """The history of one training, or of several networks that are trained at once.

    A row is the mean over `stride` units of training, and is named after the last of them.
    """

    def __init__(self, total: int, unit: Unit = "step", networks: Sequence[int] | None = None) -> None:
        """
        Args:
            total: units of the whole training.
            networks: numbers of the networks that are trained at once; None: there is one, without a number.
        """
        self.total, self.unit, self.networks = total, unit, networks
        self.stride = -(-total // MOST_ROWS)
        self._rows: dict[str, Tensor] = {}
        self._pending: dict[str, list[Tensor]] = {}
        self._sums: dict[str, Tensor] = {}

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return max((len(rows) for rows in self._fetched().values()), default=0)

    def add(self, done: int, **values: Tensor | float) -> None:
        """Record one unit of training.

        Args:
            done: units up to this one; each is recorded once, in order.
            values: numbers, (), or one for each network, (networks,).
        """
        for name, value in values.items():
            numbers = torch.as_tensor(value).detach().double().reshape(-1)
            self._sums[name] = self._sums[name].to(numbers.device) + numbers if name in self._sums else numbers
        if done % self.stride and done != self.total:
            return
        units = done % self.stride or self.stride
        for name, total in self._sums.items():
            self._pending.setdefault(name, []).append(total / units)
        self._sums = {}
        if any(len(rows) >= PENDING_ROWS for rows in self._pending.values()):
            self._fetched()

    def summary(self) -> str:
        """The loss over the last hundredth of the training, for a line of progress; empty before the first row."""
        losses = self._fetched().get("loss")
        if losses is None or not len(losses):
            return ""
        return f"loss {losses[-max(1, self.total // self.stride // 100) :].mean().item():.4g}"

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that has been recorded."""
        fetched = {f"rows/{name}": values for name, values in self._fetched().items()}
        return fetched | {f"sums/{name}": value.clone() for name, value in self._sums.items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        self._pending, self._rows, self._sums = {}, below(tensors, "rows/"), below(tensors, "sums/")

    def table(self) -> pa.Table:
        """Columns: the unit, `network` where several are numbered, the loss, then the other values by name, fp64."""
        fetched, numbers = self._fetched(), self.networks or [0]
        count = self.rows
        units = [min((row + 1) * self.stride, self.total) for row in range(count)]
        columns: dict[str, pa.Array] = {self.unit: pa.array([unit for unit in units for _ in numbers], pa.int64())}
        if self.networks is not None:
            columns["network"] = pa.array([number for _ in units for number in numbers], pa.int64())
        # A checkpoint does not keep their order.
        for name, values in sorted(fetched.items(), key=lambda item: (item[0] != "loss", item[0])):
            columns[name] = pa.array(values.expand(count, len(numbers)).flatten().numpy())
        return pa.table(columns)

    def _fetched(self) -> dict[str, Tensor]:
        """name -> (rows, 1 or networks) fp64, on the CPU."""
        for name, rows in self._pending.items():
            fresh = torch.stack(rows).cpu()
            self._rows[name] = torch.cat([self._rows[name], fresh]) if name in self._rows else fresh
        self._pending = {}
        return self._rows


def history_tensors(history: History) -> dict[str, Tensor]:
    """The state of a history for a checkpoint, `history/…`; `restore_history` takes it."""
    return {f"history/{name}": value for name, value in history.state_dict().items()}


def restore_history(history: History, tensors: dict[str, Tensor]) -> None:
    """Put back what `history_tensors` gave a checkpoint."""
    history.load_state_dict(below(tensors, "history/"))


def write_history(path: Path, histories: Sequence[History], provenance: Provenance) -> None:
    """Write histories of one unit as one table; none, of a training that did not take place, as one without rows."""
    tables = [history.table() for history in histories if history.rows]
    nothing = pa.table({"loss": pa.array([], pa.float64())})
    write_table(path, pa.concat_tables(tables, promote_options="default") if tables else nothing, provenance)
