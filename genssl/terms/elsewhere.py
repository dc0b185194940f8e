"""Slots whose work is done elsewhere: terms of value 0 that say where."""

from __future__ import annotations

from genssl.terms.elbo import Constant


class StopGradient(Constant):
    """Nothing in this slot: a target without gradient, and a predictor, stand against collapse. It has no value to report.

    Source: Chen and He 2021 (SimSiam), Grill et al. 2020 (BYOL). With a predictor that is always at its optimum the stopped gradient
    acts as a conditional-entropy term (genssl.estimators has that plug-in); with a slow predictor it need not.
    """

    slots = ("reconstruction",)
    kind = "stop-gradient"


class TargetTransform(Constant):
    """Nothing in this slot: how the site z_target is made (Sinkhorn, centring and sharpening) keeps views from one assignment."""

    slots = ("reconstruction",)
    kind = "target transform"


class Constraint(Constant):
    """Nothing in this slot: representations are whitened over the batch, which fixes their covariance to I."""

    slots = ("reconstruction",)
    kind = "constraint"


class Alternation(Constant):
    """Nothing in this slot: labels come from clustering, between steps, and an empty cluster is filled again."""

    slots = ("reconstruction",)
    kind = "alternation"
