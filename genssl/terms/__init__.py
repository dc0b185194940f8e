"""The terms that fill the three slots of an objective."""

from genssl.terms.aggregate import (
    AggregateEntropy,
    KernelDensityEntropy,
    LogDeterminantEntropy,
    NearestNeighbourEntropy,
    SphericalEntropy,
    Uniformity,
)
from genssl.terms.attraction import (
    AssignmentAttraction,
    CosineAttraction,
    PredictorAttraction,
    SquaredAttraction,
    WhitenedAttraction,
)
from genssl.terms.base import SLOTS, Combination, Term
from genssl.terms.batch import unit
from genssl.terms.classes import ClassDensity, Classes, ClassNormaliser, ClassScore, GaussianClasses, Instances
from genssl.terms.clusters import Clusters
from genssl.terms.consistency import ConsistencyKL
from genssl.terms.elbo import Constant, LogLikelihood, LogPrior, PosteriorEntropy
from genssl.terms.elsewhere import Alternation, Constraint, StopGradient, TargetTransform
from genssl.terms.products import ProductAttraction, ProductNormaliser
from genssl.terms.repulsion import (
    ContrastiveNormaliser,
    DiagonalCorrelation,
    OffDiagonalCorrelation,
    QueueNormaliser,
    VarianceCovariance,
)
from genssl.terms.spherical import AveragedNormaliser, MonteCarloContrast, SphericalAttraction
from genssl.terms.targets import Centring, sinkhorn
from genssl.terms.traces import Site, Traces

__all__ = [
    "SLOTS",
    "AggregateEntropy",
    "Alternation",
    "AssignmentAttraction",
    "AveragedNormaliser",
    "Centring",
    "ClassDensity",
    "ClassNormaliser",
    "ClassScore",
    "Classes",
    "Clusters",
    "Combination",
    "ConsistencyKL",
    "Constant",
    "Constraint",
    "ContrastiveNormaliser",
    "CosineAttraction",
    "DiagonalCorrelation",
    "GaussianClasses",
    "Instances",
    "KernelDensityEntropy",
    "LogDeterminantEntropy",
    "LogLikelihood",
    "LogPrior",
    "MonteCarloContrast",
    "NearestNeighbourEntropy",
    "OffDiagonalCorrelation",
    "PosteriorEntropy",
    "PredictorAttraction",
    "ProductAttraction",
    "ProductNormaliser",
    "QueueNormaliser",
    "Site",
    "SphericalAttraction",
    "SphericalEntropy",
    "SquaredAttraction",
    "StopGradient",
    "TargetTransform",
    "Term",
    "Traces",
    "Uniformity",
    "VarianceCovariance",
    "WhitenedAttraction",
    "sinkhorn",
    "unit",
]
