"""What is measured while a run goes on: accuracy of the nearest neighbours of clean items."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genssl.datasets import Stream
from genssl.evaluation import knn_accuracy
from genssl.evaluation.items import batches, labels_of, several_modalities

TRAIN, VALIDATION, NEIGHBOURS = 5000, 1000, 15
STEPS_APART = 50


class Follow:
    """knn at ends of epochs, at least 50 steps apart, and at the last step: part of the validation split against part of training.

    Off (`every` is 0) where there is no validation split, where items have no label, and where they are read from disk.
    """

    def __init__(self, represent: Callable[[Tensor], Tensor], data: Any, steps_per_epoch: int) -> None:
        self.represent = represent
        self.splits = (data.train, data.validation)
        self.steps_per_epoch = steps_per_epoch
        self.every = math.ceil(STEPS_APART / steps_per_epoch) if all(map(_can, self.splits)) else 0

    def due(self, epoch: int, ends: bool, last: bool) -> bool:
        """Whether to measure now: in this epoch (1, 2, ...), at its end, or at the last step of the run."""
        return bool(self.every) and (last or (ends and epoch % self.every == 0))

    def seconds_per_step(self) -> float:
        """What measuring adds to a step, in the mean."""
        if not self.every:
            return 0.0
        began = time.perf_counter()
        self.knn()
        return (time.perf_counter() - began) / (self.every * self.steps_per_epoch)

    def knn(self) -> float | None:
        """Accuracy in [0, 1]; None where no item has a label, or where representations are not finite."""
        (train, train_label), (x, label) = (
            _some(split, n) for split, n in zip(self.splits, (TRAIN, VALIDATION), strict=True)
        )
        train, train_label, x, label = (
            part[y >= 0] for x_, y in ((train, train_label), (x, label)) for part in (x_, y)
        )
        if not len(train) or not len(x):
            return None
        z, query = self.represent(train).flatten(1), self.represent(x).flatten(1)
        if not bool(torch.isfinite(z).all() & torch.isfinite(query).all()):
            return None
        return knn_accuracy(z, train_label.to(z.device), query, label.to(z.device), k=min(NEIGHBOURS, len(z)))


def _can(split: Any) -> bool:
    if split is None or isinstance(split, Stream) or several_modalities(split):
        return False
    label = labels_of(split)
    return label is not None and label.dim() == 1


def _some(split: Any, size: int) -> tuple[Tensor, Tensor]:
    x, label = zip(*batches(split, size), strict=True)
    return torch.cat(x), torch.cat(label)
