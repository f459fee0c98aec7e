"""Features of real images, as a file beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillery.errors import damaged
from distillery.storage.tables import read_table


def read_features(path: Path, ids: Sequence[str]) -> np.ndarray:
    """Features (N, F) fp32 in the order of the images of these ids, as `extract_features` wrote them.

    Raises:
        DamagedArtifact: not a table of features, or not of these images.
    """
    table = read_table(path, "extract_features")
    try:
        if table["path"].to_pylist() != list(ids):
            raise ValueError("it describes other images")
        column = table["features"].combine_chunks()
        return np.asarray(column.flatten().to_numpy().reshape(-1, column.type.list_size))
    except (KeyError, ValueError, AttributeError) as error:
        raise damaged(path, "extract_features", error) from error
