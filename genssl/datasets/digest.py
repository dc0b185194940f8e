"""A cheap digest of data in memory, by which runs on different data are told apart: sizes, labels, some spaced items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from genssl.datasets.items import Stream
from genssl.groups import Groups

ROWS = 64


def digest_of(splits: Iterable[tuple[str, Any]]) -> str:
    """Of splits as they were given, before any is drawn: sizes, all labels, ROWS evenly spaced items of each; of a Stream its first.

    The device does not matter. Data that differ in other items alone have the same digest.
    """
    found = hashlib.blake2b(digest_size=8)
    for name, split in splits:
        found.update(f"{name} {len(split)} {split.event_shape}".encode())
        if isinstance(split, Stream):
            tensors = [*split._like, split.rows]
        else:
            rows = torch.arange(min(ROWS, len(split))) * len(split) // min(ROWS, len(split))
            several = isinstance(split, Groups) and isinstance(split.x, tuple)
            tensors = [x[rows.to(x.device)] for x in (split.x if several else (split.x,))] + [split.label]
        for tensor in tensors:
            found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor | None) -> bytes:
    if tensor is None:
        return b"none"
    held = tensor.detach().cpu().contiguous()
    return f"{held.dtype}{list(held.shape)}".encode() + held.flatten().view(torch.uint8).numpy().tobytes()
