"""The terms that fill the three slots of an objective."""

from genssl.terms.base import SLOTS, Combination, Term
from genssl.terms.consistency import ConsistencyKL
from genssl.terms.elbo import Constant, LogLikelihood, LogPrior, PosteriorEntropy
from genssl.terms.traces import Site, Traces

__all__ = [
    "SLOTS",
    "Combination",
    "ConsistencyKL",
    "Constant",
    "LogLikelihood",
    "LogPrior",
    "PosteriorEntropy",
    "Site",
    "Term",
    "Traces",
]
