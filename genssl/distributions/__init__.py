"""Joint priors over the views of a group, and likelihoods of one view."""

from genssl.distributions.group_normal import GroupNormal
from genssl.distributions.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian, IsotropicNormal

__all__ = ["Bernoulli", "ContinuousBernoulli", "Gaussian", "GroupNormal", "IsotropicNormal"]
