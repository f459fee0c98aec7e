"""The table of reconstruction by an autoencoder."""

from __future__ import annotations

import pandas as pd

COLUMNS = ["seed", "autoencoder", "images", "psnr", "reference", "accuracy", "accuracy_reconstructed"]


def reconstruction_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of PSNR, accuracies and the accuracy that is lost, from the columns `COLUMNS`; n counts seeds."""
    lost = rows.assign(lost=rows["accuracy"] - rows["accuracy_reconstructed"])
    means: dict[str, tuple[str, str]] = {
        name: (name, "mean") for name in ("psnr", "accuracy", "accuracy_reconstructed", "lost")
    }
    cells = lost.groupby(["autoencoder", "reference"], sort=True, as_index=False)
    table: pd.DataFrame = cells.agg(n=("seed", "nunique"), images=("images", "first"), **means)
    return table


def reconstruction_markdown(table: pd.DataFrame, split: str = "test") -> str:
    """The table for readers; `split` names the images."""
    lines = [
        f"What the autoencoder keeps of the {split} images: PSNR in dB, accuracy of reference networks in percent, on"
        " the images and on their reconstructions.",
        "",
        "| autoencoder | PSNR | reference | images | reconstructed | lost |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in table.to_dict("records"):
        cells = [
            f"{row[name]:.1f}" if pd.notna(row[name]) else "\N{EN DASH}"
            for name in ("accuracy", "accuracy_reconstructed", "lost")
        ]
        reference = row["reference"] or "\N{EN DASH}"
        lines.append(f"| {row['autoencoder']} | {row['psnr']:.2f} | {reference} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
