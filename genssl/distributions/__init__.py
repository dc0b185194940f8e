"""Joint priors over the views of a group, likelihoods of one view, and posteriors on the sphere."""

from genssl.distributions.group_mixture import GroupMixture
from genssl.distributions.group_normal import GroupNormal
from genssl.distributions.group_posterior import GroupPosterior
from genssl.distributions.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from genssl.distributions.pixels import IsotropicNormal, LogitsContinuousBernoulli
from genssl.distributions.power_spherical import PowerSpherical
from genssl.distributions.von_mises_fisher import VonMisesFisher
from genssl.precision import at_least_float32

__all__ = [
    "Bernoulli",
    "ContinuousBernoulli",
    "Gaussian",
    "GroupMixture",
    "GroupNormal",
    "GroupPosterior",
    "IsotropicNormal",
    "LogitsContinuousBernoulli",
    "PowerSpherical",
    "VonMisesFisher",
    "at_least_float32",
]
