"""Ten flat shapes: their outlines, their signed distance fields, and a number by which pictures of them differ."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

FIELD = 128  # samples along a side of a signed distance field
EXTENT = 1.25  # a field reaches from -EXTENT to EXTENT, in radii of the shape


def _arc(x: float, y: float, width: float, height: float, start: float, stop: float) -> list[tuple[float, float]]:
    """Points of an ellipse about (x, y) with these half axes, from one angle to another in degrees."""
    angles = np.radians(np.linspace(start, stop, 48))
    return list(zip(x + width * np.cos(angles), y + height * np.sin(angles), strict=True))


def _heart() -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    height = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return list(zip(16 * np.sin(t) ** 3, height, strict=True))


# Corners in turn, x to the right and y up, in any unit and about any centre.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "arrow": [(-12, 3), (0, 3), (0, 9), (11, 0), (0, -9), (0, -3), (-12, -3)],
    "crescent": _arc(0, 0, 10, 10, 40, 320) + _arc(6, 0, 6.6, 6.6, 283, 77),
    "crown": [(-10, -8), (10, -8), (10, 9), (5, -1), (0, 9), (-5, -1), (-10, 9)],
    "drop": [*_arc(0, 0, 8, 8, 30, -210), (0, 17)],
    "F": [(-6, -10), (-1, -10), (-1, -2), (5, -2), (5, 2), (-1, 2), (-1, 6), (8, 6), (8, 10), (-6, 10)],
    "fish": [*_arc(3, 0, 8, 5.5, 160, -160), (-12, -7), (-9, 0), (-12, 7)],
    "heart": _heart(),
    "L": [(-7, 10), (-7, -10), (8, -10), (8, -4.5), (-1.5, -4.5), (-1.5, 10)],
    "mouth": [(0, 0), *_arc(0, 0, 10, 10, 40, 320)],
    "T": [(-9, 10), (-9, 5), (-2.5, 5), (-2.5, -10), (2.5, -10), (2.5, 5), (9, 5), (9, 10)],
}
SHAPES = tuple(OUTLINES)


def outline(name: str) -> np.ndarray:
    """[n, 2] the corners of a shape, its centre of area at 0 and its farthest corner at distance 1, the radius."""
    corners = np.array(OUTLINES[name])
    following = np.roll(corners, -1, 0)
    cross = corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]
    corners = corners - (cross[:, None] * (corners + following)).sum(0) / (3 * cross.sum())
    return corners / np.linalg.norm(corners, axis=1).max()


def signed_distance(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[m] distance of points [m, 2] to the polygon with these corners [n, 2], exact; negative inside (even-odd rule)."""
    side = np.roll(corners, -1, 0) - corners
    offset = points[:, None] - corners  # [m, n, 2]
    along = ((offset * side).sum(-1) / (side * side).sum(-1)).clip(0, 1)
    distance = np.linalg.norm(offset - along[..., None] * side, axis=-1).min(1)
    # Sides that a ray to the right crosses; half-open in height, so that it crosses a corner once.
    spans = (offset[..., 1] >= 0) != (offset[..., 1] >= side[:, 1])
    height = np.where(side[:, 1] == 0, 1, side[:, 1])
    ahead = offset[..., 0] < offset[..., 1] / height * side[:, 0]
    inside = (spans & ahead).sum(1) % 2 == 1
    return np.where(inside, -distance, distance)


@functools.cache
def fields(device: torch.device) -> Tensor:
    """[K FIELD, FIELD] float32: the signed distance fields of all shapes, one below the other, in radii; top row first."""
    steps = ((np.arange(FIELD) + 0.5) / FIELD * 2 - 1) * EXTENT
    x, y = np.meshgrid(steps, -steps)
    points = np.stack([x.ravel(), y.ravel()], 1)
    stacked = np.concatenate([signed_distance(outline(name), points) for name in SHAPES])
    return torch.from_numpy(stacked.reshape(-1, FIELD).astype(np.float32)).to(device)
