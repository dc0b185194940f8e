"""The t-SNE map of a report, which takes longer than all the rest of it: placed once, and read again while z is the same."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genssl.files import write_json

NEIGHBOURS = 2000


def placed(z: Tensor, folder: str | Path) -> tuple[np.ndarray, Tensor]:
    """[M, 2] t-SNE of M <= 2000 rows of z [N, D], evenly spread, and which rows [M]; folder: the run's, which keeps them.

    The file evaluation/neighbours.json holds a digest of z beside the points; where it is another, or damaged, they are placed anew.
    """
    count = min(len(z), NEIGHBOURS)
    rows = torch.arange(count) * len(z) // count
    points = np.ascontiguousarray(z[rows].double().cpu().numpy())
    key = hashlib.blake2b(points.tobytes() + str(points.shape).encode(), digest_size=20).hexdigest()
    path = Path(folder) / "evaluation" / "neighbours.json"
    kept = _read(path, key)
    if kept is None:
        kept = tsne(points)
        with suppress(OSError):  # a run that may only be read: they are placed anew the next time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"key": key, "points": [[round(float(v), 4) for v in point] for point in kept]})
    return kept, rows


def tsne(points: np.ndarray) -> np.ndarray:
    """[N, 2] t-SNE of [N, D] from its first two principal components, perplexity 30 (a third of N where that is less)."""
    from sklearn.manifold import TSNE

    made = TSNE(
        perplexity=min(30.0, max(1.0, (len(points) - 1) / 3)),
        init="pca" if points.shape[1] > 1 else "random",
        random_state=0,
    )
    return made.fit_transform(points)


def _read(path: Path, key: str) -> np.ndarray | None:
    try:
        found = json.loads(path.read_text())
        points = np.asarray(found["points"], dtype=float)
        return points if found["key"] == key and points.ndim == 2 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
