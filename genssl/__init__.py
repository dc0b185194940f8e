"""genssl: probabilistic programming for self-supervised learning, on Pyro and PyTorch."""

from genssl._version import __version__
from genssl.groups import Groups

__all__ = ["Groups", "__version__"]
