"""Which groups of the training set a batch holds: for terms that keep something of each (a class, a bank, a label that is shown)."""

from __future__ import annotations

import torch
from torch import Tensor

from genssl.errors import DataError
from genssl.groups import Groups
from genssl.host_sync import readable


def is_training(groups: Groups, size: int, training: bool) -> bool:
    """Whether these can be groups of a training set of `size`: placed in it, or of a loop of one's own that trains."""
    return training or (groups.placed and groups.total == size)


def training_place(groups: Groups, size: int, training: bool) -> Tensor:
    """[G] the place of each group in a training set of `size` groups, -1 for one that is not of it.

    Batches of `fit` were given their `rows` in it. Those of a loop of one's own were not: while training their `index` is taken, and
    otherwise they are not of the training set, like validation and test groups.

    DataError: an index beyond the training set (seen where it lives on the CPU).
    """
    if groups.placed and groups.total == size:
        return groups.rows
    if not training:
        return torch.full_like(groups.index, -1)
    if readable(groups.index) and int(groups.index.max()) >= size:
        raise DataError(
            f"groups.index goes up to {int(groups.index.max())}, but the method was made for {size} training groups; number them from 0"
        )
    return groups.index
