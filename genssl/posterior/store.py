"""A netCDF file with ArviZ's groups, written in blocks of data groups: memory stays that of one block."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from genssl.files import DiskError, make_folder

Block = Mapping[str, Mapping[str, tuple[Sequence[str], np.ndarray]]]
"""{ArviZ group: {variable: (dims, values)}}"""


def sizes_of(path: Path) -> str:
    """How many groups and draws a file holds, in words; of one that cannot be read, that."""
    import h5netcdf

    try:
        with h5netcdf.File(path, "r") as file:
            dims = file["posterior"].dimensions
            return f"{dims['group'].size} groups, {dims['sample'].size} samples"
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError):  # any file may be there
        return "no posterior, or a damaged one"


class Store:
    """`write` blocks that follow each other along the dimension `group`; the file appears whole at the end, or not at all.

    Variables without that dimension are taken from the first block. Every dimension gets a coordinate 0, 1, .... Values are compressed
    lightly; truth values become 0 and 1.
    """

    def __init__(self, path: Path, groups: int, attributes: Mapping[str, Any]) -> None:
        import h5netcdf

        self.path, self.groups, self.begun = path, groups, 0
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        make_folder(path.parent)
        try:
            self.file = h5netcdf.File(self.temporary, "w")
        except OSError as error:
            raise self._told(error) from error
        for name, value in attributes.items():
            self.file.attrs[name] = value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.file.close()
            if kind is None:
                os.replace(self.temporary, self.path)
        except OSError as failed:
            raise self._told(failed) from failed
        finally:
            self.temporary.unlink(missing_ok=True)

    def write(self, block: Block) -> None:
        """The next groups."""
        size = 0
        try:
            for group, variables in block.items():
                place = self.file.groups[group] if group in self.file.groups else self.file.create_group(group)
                for name, (dims, values) in variables.items():
                    variable = self._variable(place, name, dims, values)
                    if "group" not in dims:
                        if self.begun == 0:
                            variable[...] = values
                        continue
                    axis = list(dims).index("group")
                    size = values.shape[axis]
                    variable[(slice(None),) * axis + (slice(self.begun, self.begun + size),)] = values
        except OSError as error:
            raise self._told(error) from error
        self.begun += size

    def _variable(self, place: Any, name: str, dims: Sequence[str], values: np.ndarray) -> Any:
        if name in place.variables:
            return place.variables[name]
        for dim, length in zip(dims, values.shape, strict=True):
            if dim not in place.dimensions:
                place.dimensions[dim] = self.groups if dim == "group" else length
                place.create_variable(dim, (dim,), dtype="i8", data=np.arange(place.dimensions[dim].size))
        kind = values.dtype if values.dtype != np.bool_ else np.dtype("i1")
        return place.create_variable(
            name, tuple(dims), dtype=kind, compression="gzip", compression_opts=1, shuffle=True
        )

    def _told(self, error: OSError) -> DiskError:
        return DiskError(f"{self.path}: cannot write ({error.strerror or error}); make room or give another out=")
