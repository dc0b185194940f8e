"""What a run is as a subject of measurement: its splits and labels, and the representations of clean items, computed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genssl.errors import NonFiniteError
from genssl.evaluation.inputs import SPLITS
from genssl.evaluation.items import batches, count, labels_of, several_modalities


class Subject:
    """The representations of every split under one encoder, for the stages of an evaluation to share.

    encode: x [B, *event] -> z [B, D]; default the run's `represent` (posterior means, eval mode). whose: for messages.
    """

    def __init__(self, run: Any, whose: str = "run", encode: Callable[[Tensor], Tensor] | None = None) -> None:
        self.run, self.whose, self.encode = run, whose, run.represent if encode is None else encode
        self._z: dict[str, Tensor] = {}

    @cached_property
    def splits(self) -> dict[str, Any]:
        return {name: getattr(self.run.data, name) for name in SPLITS}

    @property
    def seed(self) -> int:
        return int(self.run.config.get("seed") or 0)

    @cached_property
    def no_items(self) -> str:
        """Why there are no representations of items in every split, or nothing."""
        if any(several_modalities(split) for split in self.splits.values()):
            return "the views are of several modalities: probe the representation of each by itself"
        if empty := [name for name, split in self.splits.items() if count(split) == 0]:
            return f"the data have no {' and no '.join(empty)} items"
        return ""

    @cached_property
    def labels(self) -> dict[str, Tensor]:
        """The labels [N] of every split; empty where no probe can be trained, see `no_labels`."""
        if self.no_labels:
            return {}
        return self._labels

    @cached_property
    def _labels(self) -> dict[str, Any]:
        return {name: labels_of(split) for name, split in self.splits.items()}

    @cached_property
    def no_labels(self) -> str:
        """Why no probe can be trained, or nothing."""
        if self.no_items:
            return self.no_items
        for name, label in self._labels.items():
            if label is None:
                return f"the {name} items have no labels"
            if label.dim() != 1:
                return f"the labels of the {name} items are not one class for each"
            if not bool((label >= 0).any()):
                return f"the {name} items have no labels: all are negative"
            if len(label[label >= 0].unique()) == 1:
                return f"the {name} items are of one class alone, of which any z tells all"
        return ""

    def z(self, name: str) -> Tensor:
        """[N, D] of all items of a split.

        Raises NonFiniteError.
        """
        if name not in self._z:
            z = torch.cat([self.encode(x) for x, _ in batches(self.splits[name])]).flatten(1)
            if not bool(torch.isfinite(z).all()):
                bad = int((~torch.isfinite(z).all(1)).sum())
                raise NonFiniteError(
                    f"evaluate: {bad} of {len(z)} {name} representations of the {self.whose} are not finite; fit with a lower lr"
                )
            self._z[name] = z
        return self._z[name]

    @property
    def parts(self) -> list[Tensor]:
        """(train_z, train_y, validation_z, validation_y, test_z, test_y), as probes take them."""
        return [part for name in SPLITS for part in (self.z(name), self.labels[name].to(self.z(name).device))]
