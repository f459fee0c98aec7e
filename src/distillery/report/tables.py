"""The tables of a paper: accuracy, redundancy, and one against the other.

Accuracies are percent. Frames that come in may have their rows in any order; equal rows give equal tables.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from distillery.errors import BadInput, damaged
from distillery.proportions import wilson_interval
from distillery.provenance import Provenance
from distillery.report.about import About
from distillery.report.text import markdown_text
from distillery.spreadsheets import csv_text
from distillery.storage.atomic import write_bytes
from distillery.storage.tables import read_table, write_table

ACCURACY = ["method", "ipc", "network", "protocol", "seed", "student", "epoch", "accuracy"]
"""Columns of an evaluation: one row per trained network and validated epoch."""

EVALUATION = [*ACCURACY, "correct", "images", "test_images", "parameters", "label_bytes"]
"""All columns of an evaluation; `correct`: a bit per test image, last epoch only."""

REDUNDANCY = ["method", "seed", "network", "student", "trained_on", "tested_on", "accuracy"]
"""Columns of a redundancy matrix: one row per trained network and increment that it was tested on."""

SHARES = ["coverage", "recall", "precision", "density"]
"""Measures of a distilled set beside the real one."""

COUNTED_ON = {"coverage": "real", "recall": "real", "precision": "distilled"}
"""The shares among them, and the images that each is a share of."""

COVERAGE = ["method", "seed", "ipc", *SHARES, "real", "distilled"]
"""Columns of a measured coverage: one row per set; the last two are numbers of images."""

MAY_BE_ABSENT = (
    "accuracy",
    "correct",
    "recall",
    "condition",
    "test_accuracy",
    "js",
    "js_of_subset",
    "judge_probability",
)
"""A network that diverged has no accuracy, the rows of earlier epochs have no `correct`, a set of at most k images has
no recall, and a generator without classes has no gradient with respect to them."""

MEAN = "mean"
"""The name of the rows that hold the mean over networks."""

ABSENT = "\N{EN DASH}"

SYMBOLS = {"strength": "λ", "reference_weight": "ω", "deviation": "\N{GREEK SMALL LETTER GAMMA}"}
"""Symbols of the guidance of a method, as papers write them."""

CELL = ["method", "ipc", "network", "protocol"]
"""Columns that name a cell of the table of accuracies."""

REPLICATE = ["seed", "student"]
"""Columns that name a network of a cell."""


def read_rows(paths: Sequence[Path], columns: Sequence[str], made_by: str) -> pd.DataFrame:
    """These columns of many tables as one frame, sorted, without repeated rows.

    Raises:
        DamagedArtifact: not a Parquet file, or a column is missing or has gaps.
    """
    frames: list[pd.DataFrame] = []
    for path in paths:
        table = read_table(path, made_by)
        if missing := [name for name in columns if name not in table.column_names]:
            raise damaged(path, made_by, f"no column {', '.join(missing)}")
        frame = table.select(list(columns)).to_pandas()
        if gaps := [name for name in columns if name not in MAY_BE_ABSENT and frame[name].isna().any()]:
            raise damaged(path, made_by, f"values are missing in {', '.join(gaps)}")
        frames.append(frame)
    if not frames:
        raise BadInput("no tables were given, so there is nothing to tabulate")
    rows: pd.DataFrame = pd.concat(frames, ignore_index=True).drop_duplicates()
    return rows.sort_values([name for name in columns if name != "correct"], ignore_index=True)


def accuracy_table(rows: pd.DataFrame, methods: Sequence[str], networks: Sequence[str]) -> pd.DataFrame:
    """Mean and sample standard deviation over the trained networks of each method, IPC, network and protocol.

    `accuracy` is that of the last epoch, `best` that of the epoch that does best on the test set, as papers report it.
    A row `mean` follows where all of `networks` were evaluated: its standard deviation is that of the mean over
    networks, taken per (seed, student), because the networks of one replicate share their images.

    `n` is how many values the standard deviation is over: trained networks, and in the rows `mean` replicates (seed and
    student) of which every network is there. `trained` is how many networks the mean is over. A network that diverged
    is in no mean, and neither of them counts it.

    Args:
        rows: the columns `ACCURACY`.
        methods, networks: in the order of the rows; others follow by name.
    """
    _refuse_contradictions(rows, [*CELL, *REPLICATE, "epoch"])
    best = rows.groupby([*CELL, *REPLICATE], as_index=False).agg(best=("accuracy", "max"))
    every = last_epochs(rows).merge(best, on=[*CELL, *REPLICATE])
    trained = every[every["accuracy"].notna()]
    cells: list[dict[str, Any]] = []
    for keys, part in every.groupby(CELL):
        sound = part[part["accuracy"].notna()]
        counts = {"n": len(sound), "trained": len(sound)}
        cells.append({**dict(zip(CELL, keys, strict=True)), **counts, **_spread(sound)})
    for (method, ipc, protocol), part in trained.groupby(["method", "ipc", "protocol"]):
        if set(networks) <= set(part["network"]):
            cell = {"method": method, "ipc": ipc, "network": MEAN, "protocol": protocol, "trained": len(part)}
            cells.append({**cell, **_spread_over_networks(part)})
    others = sorted({*rows["network"]} - {*networks})
    method_rank, network_rank = _rank(methods), _rank([*networks, *others, MEAN])
    cells.sort(key=lambda c: (method_rank(c["method"]), c["ipc"], c["protocol"], network_rank(c["network"])))
    spread = ["accuracy_mean", "accuracy_std", "best_mean", "best_std"]
    return pd.DataFrame(cells, columns=[*CELL, "n", "trained", *spread])


def last_epochs(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last epoch of each trained network; its accuracy is not a number if the network has diverged."""
    ordered = rows.sort_values([*CELL, *REPLICATE, "epoch"])
    return ordered.drop_duplicates([*CELL, *REPLICATE], keep="last").reset_index(drop=True)


def _spread(part: pd.DataFrame) -> dict[str, float]:
    pairs = [(name, what) for name in ("accuracy", "best") for what in ("mean", "std")]
    return {f"{name}_{what}": float(getattr(part[name], what)()) for name, what in pairs}


def _spread_over_networks(part: pd.DataFrame) -> dict[str, float]:
    spread: dict[str, float] = {}
    for name in ("accuracy", "best"):
        wide = part.pivot(index=REPLICATE, columns="network", values=name)
        # A replicate that lacks a network would add the difference between networks to the spread.
        whole = wide.dropna().mean(axis=1)
        spread |= {"n": len(whole), f"{name}_mean": float(wide.mean().mean()), f"{name}_std": float(whole.std())}
    return spread


def redundancy_matrices(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The matrices of each method: (replicates, K, K), [:, r, s] trained on increment r + 1, tested on s + 1.

    Raises:
        BadInput: a cell is missing or contradicts another, or networks are mixed.
    """
    _refuse_contradictions(rows, ["method", "network", *REPLICATE, "trained_on", "tested_on"])
    if len(networks := sorted(set(rows["network"]))) > 1:
        raise BadInput(f"redundancy matrices of different networks do not compare: {', '.join(networks)}. Give one")
    matrices: dict[str, np.ndarray] = {}
    for method, part in rows.groupby("method"):
        increments = int(part[["trained_on", "tested_on"]].to_numpy().max())
        replicates = []
        for (seed, student), cells in part.groupby(REPLICATE):
            matrix = np.full((increments, increments), np.nan)
            matrix[cells["trained_on"].to_numpy() - 1, cells["tested_on"].to_numpy() - 1] = cells["accuracy"].to_numpy()
            if np.isnan(matrix).any():
                raise BadInput(
                    f"{method}: the redundancy matrix of seed {seed}, student {student} lacks"
                    f" {int(np.isnan(matrix).sum())} of {matrix.size} cells"
                )
            replicates.append(matrix)
        matrices[str(method)] = np.stack(replicates)
    return matrices


def redundancy_table(rows: pd.DataFrame, methods: Sequence[str], baseline: str | None) -> pd.DataFrame:
    """Redundancy of each method: how well a network trained on one increment knows the others.

    The mean runs over the cells off the diagonal: on the diagonal a network is tested on what it was trained on.
    The reduction is 100 (1 - redundancy / redundancy of the baseline); it is not a number without a baseline.
    """
    matrices = redundancy_matrices(rows)
    off_diagonal = {method: _off_diagonal(stack) for method, stack in matrices.items()}
    reference = float(off_diagonal[baseline].mean()) if baseline in off_diagonal else np.nan
    table = []
    for method in sorted(matrices, key=_rank(methods)):
        values = off_diagonal[method]
        mean = float(values.mean())
        table.append(
            {
                "method": method,
                "increments": matrices[method].shape[-1],
                "n": len(values),
                "off_diagonal_mean": mean,
                "off_diagonal_std": float(values.std(ddof=1)) if len(values) > 1 else np.nan,
                "baseline": baseline,
                "reduction_percent": reduction_percent(mean, reference),
            }
        )
    return pd.DataFrame(table)


def coverage_table(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds of `SHARES`, in percent; density in units of one.

    `low` and `high` of a share are its Wilson interval, 95 %, over the images of one set.

    Raises:
        BadInput: a set was measured twice with different results.
    """
    _refuse_contradictions(rows, ["method", "seed", "ipc"])
    table = []
    for method in sorted(set(rows["method"]), key=_rank(methods)):
        for ipc, part in rows[rows["method"] == method].groupby("ipc"):
            row: dict[str, Any] = {"method": method, "ipc": int(str(ipc)), "n": len(part)}
            for name in SHARES:
                values = part[name] * (1 if name == "density" else 100)
                row[f"{name}_mean"], row[f"{name}_std"] = float(values.mean()), float(values.std())
                if counted := COUNTED_ON.get(name):
                    low, high = wilson_interval(row[f"{name}_mean"] / 100, int(part[counted].min()))
                    row[f"{name}_low"], row[f"{name}_high"] = 100 * low, 100 * high
            table.append(row)
    return pd.DataFrame(table)


def _off_diagonal(stack: np.ndarray) -> np.ndarray:
    """(replicates, K, K) -> (replicates,); a single increment has nothing off the diagonal."""
    away = ~np.eye(stack.shape[-1], dtype=bool)
    return stack[:, away].mean(axis=1) if away.any() else np.full(len(stack), np.nan)


def reduction_percent(redundancy: float, baseline: float) -> float:
    """By how many percent a redundancy lies below that of the baseline; not a number if the baseline has none."""
    return 100 * (1 - redundancy / baseline) if baseline > 0 else float("nan")


def front_table(
    accuracy: pd.DataFrame, redundancy: pd.DataFrame, ipc: int, labels: Mapping[str, Mapping[str, float | str | None]]
) -> pd.DataFrame:
    """Accuracy (mean over networks) beside the reduction of redundancy, and which methods are Pareto-optimal.

    Args:
        accuracy: what `accuracy_table` returned.
        redundancy: what `redundancy_table` returned; a method that it lacks has no place on the front.
        ipc: the size to compare at.
        labels: method -> `strength`, `reference_weight`, `deviation`, in the order of the rows.

    Raises:
        BadInput: nothing was evaluated at this IPC, or under several protocols.
    """
    rows = accuracy[(accuracy["ipc"] == ipc) & (accuracy["network"] == MEAN)]
    if rows.empty:
        raise BadInput(
            f"no method has a mean over networks at IPC {ipc}: all networks of one kind diverged, or only IPC "
            f"{', '.join(map(str, sorted(set(accuracy['ipc']))))} was evaluated"
        )
    if len(protocols := sorted(set(rows["protocol"]))) > 1:
        raise BadInput(f"accuracies of different protocols do not compare: {', '.join(protocols)}. Give one")
    known = {str(row["method"]): row for row in redundancy.to_dict("records")}
    nothing: dict[Any, Any] = {"off_diagonal_mean": np.nan, "baseline": None, "reduction_percent": np.nan}
    compared = []
    for row in rows.sort_values("method", key=lambda names: names.map(_rank(list(labels)))).to_dict("records"):
        method = str(row["method"])
        guidance = labels.get(method, {})
        measured = known.get(method, nothing)
        compared.append(
            {
                "method": method,
                **{key: _setting(guidance.get(key)) for key in SYMBOLS},
                **{key: row[key] for key in ("accuracy_mean", "accuracy_std", "n", "trained")},
                "redundancy": float(measured["off_diagonal_mean"]),
                "baseline": measured["baseline"],
                "reduction_percent": float(measured["reduction_percent"]),
            }
        )
    table = pd.DataFrame(compared)
    table["pareto"] = pareto(table["reduction_percent"].to_numpy(), table["accuracy_mean"].to_numpy())
    return table


def pareto(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) bool: no other point is at least as large in both values and larger in one. Points with a gap never are."""
    whole = ~(np.isnan(first) | np.isnan(second))
    least = (first[:, None] <= first) & (second[:, None] <= second)
    beaten = least & ((first[:, None] < first) | (second[:, None] < second))
    optimal: np.ndarray = whole & ~beaten.any(axis=1)
    return optimal


def _setting(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"


def _rank(names: Sequence[str]) -> Callable[[str], tuple[int, str]]:
    """A sort key: the position in `names`; other names come after, by name."""
    places = {name: place for place, name in enumerate(names)}
    return lambda name: (places.get(name, len(places)), name)


def _refuse_contradictions(rows: pd.DataFrame, keys: list[str]) -> None:
    rows = rows.drop(columns="correct", errors="ignore")
    twice = rows.drop_duplicates()[keys].duplicated()
    if twice.any():
        first = rows.drop_duplicates()[keys][twice].iloc[0].to_dict()
        raise BadInput(f"two different accuracies for {', '.join(f'{key} {value}' for key, value in first.items())}")


def number(value: float, digits: int = 2, absent: str = "") -> str:
    """A number with fixed digits, never a negative zero; `absent` for NaN."""
    return absent if np.isnan(value) else f"{value:z.{digits}f}"


def mean_and_std(mean: float, std: float, digits: int = 1) -> str:
    """`97.3 ± 0.4`; without the second part where one network was trained."""
    return number(mean, digits, ABSENT) + ("" if np.isnan(std) else f" ± {number(std, digits)}")


def interval(low: float, high: float) -> str:
    """`96.1 to 97.9`."""
    return ABSENT if np.isnan(low) else f"{number(low, 1)} to {number(high, 1)}"


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A table as CSV: two decimals, or two digits below 0.01; empty cells for NaN."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False):
        writer.writerow([_cell(value) for value in row])
    return buffer.getvalue().encode()


def _cell(value: Any) -> Any:
    return _short(value) if isinstance(value, float) else csv_text(value) if isinstance(value, str) else value


def _short(value: float) -> str:
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else number(value)


def write_formats(
    table: pd.DataFrame, text: str, csv: Path, parquet: Path, markdown: Path, provenance: Provenance, about: About
) -> None:
    """Write a table as CSV, Parquet and Markdown, `text`. Each says which experiment, data set and commit it is of."""
    write_bytes(csv, csv_bytes(with_origin(table, about)))
    write_bytes(markdown, signed(text, about).encode())
    write_table(parquet, arrow_table(table), {**provenance, **about.origin})


def with_origin(table: pd.DataFrame, about: About) -> pd.DataFrame:
    """A table of a CSV file: the origin is in columns at its end, so that it needs no options to be read."""
    return table.assign(**about.origin)


def signed(text: str, about: About) -> str:
    """A table of a Markdown file: the origin is in a line below."""
    words = {key: markdown_text(value) for key, value in about.origin.items()}
    return f"{text}\nExperiment {words['experiment']}, data set {words['dataset']}, commit: {words['commit']}.\n"


def arrow_table(table: pd.DataFrame) -> pa.Table:
    """A table in full precision; NaN becomes null."""
    kinds = {"b": pa.bool_(), "i": pa.int64(), "f": pa.float64()}
    schema = pa.schema([(str(name), kinds.get(table[name].dtype.kind, pa.string())) for name in table.columns])
    return pa.Table.from_pandas(table, schema=schema, preserve_index=False).replace_schema_metadata(None)


def against(baseline: str | None, what: str = "reduction") -> str:
    """The heading of a reduction, with the baseline."""
    return f"{what} vs. {baseline} (%)" if baseline else f"{what} (%)"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose source is readable too: the first column to the left, the others to the right."""
    cells = [[markdown_text(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        first, *rest = zip(row, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]) + " |"

    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])]) + "\n"


def words_of_n(n: pd.Series[int], noun: str = "") -> str:
    """`n = 4`, or `n = 3 to 4`; with a noun, which gets an s: `n = 4 networks`."""
    words = f"n = {n.min()}" if n.nunique() == 1 else f"n = {n.min()} to {n.max()}"
    return f"{words} {noun}{'' if n.max() == 1 else 's'}" if noun else words


def increment_row(columns: Mapping[str, np.ndarray]) -> dict[str, float | int]:
    """One increment as numbers, from the columns of its image set; the first one has no student, and no scores.

    Returns:
        Number of images, percent that student and reference recognise, and mean learnability.
    """
    percents = ("student_correct", "reference_correct", "reference_probability")
    means = [float(columns[name].mean()) if name in columns else np.nan for name in (*percents, "learnability")]
    return {
        "images": len(columns["slot"]),
        "student_accuracy": 100 * means[0],
        "reference_accuracy": 100 * means[1],
        "reference_probability": 100 * means[2],
        "learnability": means[3],
    }
