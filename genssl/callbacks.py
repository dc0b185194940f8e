"""Callbacks of genssl.fit that come with the library: TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genssl.errors import SettingsError
from genssl.files import DiskError
from genssl.fit.metrics import SLOTS, Line


class TensorBoard:
    """Writes what metrics.jsonl and measures.jsonl hold as scalars that TensorBoard shows: genssl.fit(..., callbacks=[TensorBoard()]).

        terms/NAME       reconstruction, entropy, prior, elbo, objective: nats a group, means since the line before
        knn              accuracy in [0, 1], where it was measured
        views_per_second, epoch
        measures/...     every number of a look at the slots (genssl.evaluation.slots), at its step

    The numbers are on the host already: nothing waits for the device, no generator is touched, and no bit of the run changes. Lines are
    flushed as they come. A run that goes on adds a file, and what a killed run wrote after its checkpoint is purged from view.

    Args:
        dir: a folder for this run alone; default `tensorboard` in the run's folder.

    Raises SettingsError without tensorboard (pip install 'genssl[tensorboard]'), DiskError where the folder cannot be written.
    """

    def __init__(self, dir: str | os.PathLike[str] | None = None) -> None:
        _writer_class()  # said before the first step, not after
        self.dir, self.writer = None if dir is None else Path(dir), None

    writer: Any

    def __call__(self, line: Line) -> None:
        scalars = {(tag, step): value for tag, step, value in _scalars(line)}
        place = Path(line.folder) / "tensorboard" if self.dir is None else self.dir
        try:
            if self.writer is None:
                self.writer = _writer_class()(str(place), purge_step=min(step for _, step in scalars))
            for (tag, step), value in scalars.items():
                self.writer.add_scalar(tag, value, step)
            self.writer.flush()
        except OSError as error:
            raise DiskError(
                f"{place}: cannot write ({error.strerror or error}); make room or give another folder"
            ) from error

    def close(self) -> None:
        """Close the file; genssl.fit does so at its end. Another line opens a new one."""
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()


def _scalars(line: Line) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of a line and of the looks before it."""
    for look in line.measures:
        yield from ((f"measures/{name}", look["step"], value) for name, value in _flat(look) if name != "step")
    for name, value in _flat(line):
        if name != "step":
            yield f"terms/{name}" if name in SLOTS else name, line["step"], value


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested dicts, names joined by slashes."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{before}{key}", value


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            f"TensorBoard: tensorboard cannot be imported ({error}); pip install 'genssl[tensorboard]'"
        ) from error
    return SummaryWriter
