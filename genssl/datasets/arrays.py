"""The user's arrays, images and labels as tensors, and the checks on their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genssl.errors import DataError


def as_tensor(value: Any, where: str) -> Tensor:
    """An array, tensor, number or PIL image as a tensor: uint8 (read as v / 255), floating or int64 (ids).

    Images give uint8 [C, H, W]; booleans 0 and 255 in uint8; other integers int64. Memory is shared where it can be.
    """
    if not isinstance(value, Tensor):
        value = torch.from_numpy(_as_array(value, where))
    if value.is_complex() or value.is_quantized or value.layout != torch.strided:
        raise DataError(f"{where}: a {value.dtype} tensor of layout {value.layout}, expected dense real numbers")
    if value.dtype == torch.bool:
        return value.to(torch.uint8) * 255
    if value.dtype == torch.uint8 or value.is_floating_point():
        return value.detach()
    return value.to(torch.int64)


def as_labels(value: Any, size: int, where: str) -> Tensor:
    """[N] int64 from any integers, or floats that are whole numbers."""
    label = torch.from_numpy(_as_array(value, where)) if not isinstance(value, Tensor) else value.detach()
    if tuple(label.shape) != (size,):
        raise DataError(f"{where}: labels have shape {list(label.shape)}, expected [{size}], one for each item of x")
    return whole_numbers(label, where)


def whole_numbers(label: Tensor, where: str) -> Tensor:
    """The same labels in int64; floats that are not whole numbers are an error."""
    if label.is_complex():
        raise DataError(f"{where}: labels are {label.dtype}, expected integers; give class numbers 0, 1, ...")
    # NaN and infinities fail the comparison too: neither equals its own truncation to an integer.
    if label.is_floating_point() and not bool((label == label.to(torch.int64)).all()):
        row = int((label != label.to(torch.int64)).flatten().nonzero()[0])
        raise DataError(
            f"{where}: label {row} is {float(label.flatten()[row])}, expected integers; give class numbers 0, 1, ..."
        )
    return label.to(torch.int64)


def as_floats(x: Tensor) -> Tensor:
    """uint8 -> v / 255 and floats of any width -> torch's default dtype (float32); integer ids stay as they are."""
    if x.dtype == torch.uint8:
        return x.to(torch.get_default_dtype()).div_(255)
    return x.to(torch.get_default_dtype()) if x.is_floating_point() else x


def check_values(x: Tensor, event: Sequence[int], where: str, rows: Sequence[int] | None = None) -> None:
    """Refuse NaN, infinities, images outside [0, 1] and images with channels last. x [N, ..., *event].

    rows: the numbers by which errors name the N rows (default 0..N-1). An event of three dimensions is an image.
    """
    image = len(event) == 3
    if image and event[-1] in (1, 3, 4) and min(event[:2]) > 4:
        remedy = "move the channels first with x.permute(0, 3, 1, 2), or x.transpose(0, 3, 1, 2) in numpy"
        raise DataError(
            f"{where}: items of shape {list(event)} look like images with channels last, expected [C, H, W]; {remedy}"
        )
    if len(event) == 2 and x.dtype == torch.uint8:
        raise DataError(
            f"{where}: uint8 items of shape {list(event)} look like images without a channel, expected [C, H, W]; add it with x[:, None]"
        )
    if not x.is_floating_point():
        if image and x.dtype != torch.uint8:
            raise DataError(
                f"{where}: images are {x.dtype}, expected uint8 or floats in [0, 1]; convert them to uint8 (0..255)"
            )
        return
    if x.numel() == 0:
        return
    low, high = (float(value) for value in x.aminmax())  # one pass, in which NaN and infinities win
    if not (np.isfinite(low) and np.isfinite(high)):
        row = int((~x.isfinite().flatten(1).all(1)).nonzero()[0])
        row = row if rows is None else rows[row]
        raise DataError(
            f"{where}: row {row} has NaN or infinite values, expected finite numbers; drop or repair such rows"
        )
    if image and (low < 0 or high > 1):
        divide = 1 < high <= 255 and low >= 0
        remedy = "divide by 255" if divide else "scale them with (x - minimum) / (maximum - minimum)"
        raise DataError(f"{where}: image values from {low:g} to {high:g}, expected [0, 1]; {remedy}")


def _as_array(value: Any, where: str) -> np.ndarray:
    """A writable, native, contiguous numpy array that torch can share."""
    from PIL import Image

    if isinstance(value, Image.Image):
        return _image_array(value, where)
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise DataError(
            f"{where}: {type(value).__name__} is no array ({error}); make all rows the same shape"
        ) from error
    kind = array.dtype.kind
    if kind in "US":
        raise DataError(
            f"{where}: texts ({array.dtype}), expected integers or floats; np.unique(y, return_inverse=True)[1] gives classes numbers"
        )
    if kind not in "bifu" or (kind == "f" and array.dtype.itemsize > 8):
        raise DataError(
            f"{where}: {type(value).__name__} of dtype {array.dtype}, expected integers or floats of at most 64 bits"
        )
    if kind == "u" and array.dtype.itemsize > 1:  # which torch can hardly compute with
        return array.astype(np.int64)
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    return native if native.flags.writeable else native.copy()


def _image_array(image: Any, where: str) -> np.ndarray:
    """uint8 [C, H, W]: one channel for L, four for RGBA, else three."""
    if image.mode.startswith(("I", "F")):
        raise DataError(
            f"{where}: an image of mode {image.mode!r}, expected 8 bits a channel; convert it to L or RGB first"
        )
    mode = {"1": "L", "L": "L", "RGBA": "RGBA"}.get(image.mode, "RGB")
    array = np.array(image if image.mode == mode else image.convert(mode))
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
