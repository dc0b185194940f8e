"""Joint priors over the views of a group, and likelihoods of one view."""

from genssl.distributions.group_mixture import GroupMixture
from genssl.distributions.group_normal import GroupNormal
from genssl.distributions.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from genssl.distributions.pixels import IsotropicNormal, LogitsContinuousBernoulli
from genssl.distributions.precision import at_least_float32

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "Gaussian",
    "GroupMixture",
    "GroupNormal",
    "IsotropicNormal",
    "LogitsContinuousBernoulli",
    "at_least_float32",
]
