"""The table of what an autoencoder keeps of real images."""

from __future__ import annotations

import pandas as pd

COLUMNS = ["seed", "autoencoder", "images", "psnr", "reference", "accuracy", "accuracy_reconstructed"]


def reconstruction_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of PSNR, accuracy, and what is lost by the autoencoder; n is the number of seeds.

    Args:
        rows: the columns `COLUMNS`.
    """
    lost = rows.assign(lost=rows["accuracy"] - rows["accuracy_reconstructed"])
    cells = lost.groupby(["autoencoder", "reference"], sort=True, as_index=False)
    found: pd.DataFrame = cells.agg(
        n=("seed", "nunique"),
        images=("images", "first"),
        psnr=("psnr", "mean"),
        accuracy=("accuracy", "mean"),
        accuracy_reconstructed=("accuracy_reconstructed", "mean"),
        lost=("lost", "mean"),
    )
    return found


def reconstruction_markdown(table: pd.DataFrame) -> str:
    """The table for readers."""
    lines = [
        "What the autoencoder keeps of the test images: PSNR in dB, accuracy of reference networks in percent, on the"
        " images and on their reconstructions.",
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
