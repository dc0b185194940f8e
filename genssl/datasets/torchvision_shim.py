"""Makes `import torchvision` work beside a torch without CUDA: declares the two operator schemas that it asks for."""

from __future__ import annotations

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a Library takes its declarations back when it is collected


def ensure_torchvision() -> None:
    """After this, `import torchvision` works, here and in every other package of the process.

    torchvision's Linux wheel is built for CUDA. Beside a CPU-only torch its library of compiled operators cannot be
    loaded, and `import torchvision` stops with "operator torchvision::nms does not exist", since it registers shapes
    for `nms` and `qnms`. Data sets, transforms and model definitions need neither, so their schemas alone are declared,
    and only where the library did not bring them. `torchvision.ops.nms` still fails, with torchvision's own message.

    torchvision itself is not imported (about a second). Without torchvision, or called again, this does nothing.
    """
    spec = importlib.util.find_spec("torchvision")
    if _declared or spec is None or spec.origin is None or _load_operators(Path(spec.origin).parent):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _NMS)
    _declared.append(library)


def _load_operators(folder: Path) -> bool:
    """Load torchvision's own library first: declaring `nms` before it would make the library's own declaration fail."""
    if hasattr(torch.ops.torchvision, "nms") and hasattr(torch.ops.torchvision, "qnms"):
        return True
    candidates = [folder / f"_C{suffix}" for suffix in EXTENSION_SUFFIXES]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        return False
    try:
        torch.ops.load_library(path)
    except (ImportError, OSError):
        return False
    return hasattr(torch.ops.torchvision, "nms") and hasattr(torch.ops.torchvision, "qnms")
