"""genssl: probabilistic programming for self-supervised learning, on Pyro and PyTorch."""

from typing import Any

from genssl import callbacks, terms
from genssl._version import __version__
from genssl.compare import compare
from genssl.export import export
from genssl.fit.api import fit
from genssl.fit.run import Run, load
from genssl.groups import Groups
from genssl.objective import Objective

__all__ = [
    "Groups",
    "Objective",
    "Representation",
    "Run",
    "__version__",
    "callbacks",
    "compare",
    "export",
    "fit",
    "load",
    "terms",
]


def __getattr__(name: str) -> Any:
    if name == "Representation":  # scikit-learn takes a second to import
        from genssl.representation import Representation

        return Representation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
