"""genssl: probabilistic programming for self-supervised learning, on Pyro and PyTorch."""

from genssl import terms
from genssl._version import __version__
from genssl.compare import compare
from genssl.fit.api import fit
from genssl.fit.run import Run, load
from genssl.groups import Groups
from genssl.objective import Objective

__all__ = ["Groups", "Objective", "Run", "__version__", "compare", "fit", "load", "terms"]
