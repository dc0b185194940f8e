"""What a frozen representation is worth: nearest neighbours, probes, known style, geometry, information, and the measures of a run."""

from genssl.evaluation.components import maximum_likelihood_scales, variance_components
from genssl.evaluation.evaluate import evaluate
from genssl.evaluation.geometry import alpha_req, effective_rank, eigenspectrum, lidar, rankme
from genssl.evaluation.information import posterior_information, view_information
from genssl.evaluation.knn import knn, knn_accuracy
from genssl.evaluation.measuring import measuring
from genssl.evaluation.probes import linear_probe, mlp_probe
from genssl.evaluation.slots import gradient_cosine, slot_measures
from genssl.evaluation.style import style_scores

__all__ = [
    "alpha_req",
    "effective_rank",
    "eigenspectrum",
    "evaluate",
    "gradient_cosine",
    "knn",
    "knn_accuracy",
    "lidar",
    "linear_probe",
    "maximum_likelihood_scales",
    "measuring",
    "mlp_probe",
    "posterior_information",
    "rankme",
    "slot_measures",
    "style_scores",
    "variance_components",
    "view_information",
]
