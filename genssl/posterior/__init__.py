"""How sure a fitted method is, and whether that is right: draws of the posterior as an ArviZ data tree, and what they say."""

from genssl.posterior.calibration import Calibration, calibrate
from genssl.posterior.diagnose import diagnose
from genssl.posterior.export import posterior

__all__ = ["Calibration", "calibrate", "diagnose", "posterior"]
