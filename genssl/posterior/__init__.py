"""How sure a fitted method is, and whether that is right: draws of the posterior as an ArviZ data tree, and what they say."""

from genssl.posterior.against import against
from genssl.posterior.calibration import Calibration, calibrate
from genssl.posterior.diagnose import diagnose
from genssl.posterior.ensemble import ensemble
from genssl.posterior.export import posterior
from genssl.posterior.predictive_coverage import predictive_coverage
from genssl.posterior.selective import representation_risk, risk_coverage
from genssl.posterior.strangeness import auroc, strangeness

__all__ = [
    "Calibration",
    "against",
    "auroc",
    "calibrate",
    "diagnose",
    "ensemble",
    "posterior",
    "predictive_coverage",
    "representation_risk",
    "risk_coverage",
    "strangeness",
]
