"""What a frozen representation is worth: nearest neighbours, probes, known style, geometry, information, and the measures of a run."""

from genssl.evaluation.bound import held_out_bound
from genssl.evaluation.clustering import clustering_scores
from genssl.evaluation.components import maximum_likelihood_scales, variance_components
from genssl.evaluation.disentanglement import dci, mutual_information_gap
from genssl.evaluation.evaluate import CORE, evaluate
from genssl.evaluation.frechet import frechet_distance
from genssl.evaluation.geometry import alpha_req, effective_rank, eigenspectrum, lidar, rankme
from genssl.evaluation.identity import retrieval
from genssl.evaluation.information import posterior_information, view_information
from genssl.evaluation.knn import knn, knn_accuracy
from genssl.evaluation.low_label import low_label_probe
from genssl.evaluation.measuring import measuring
from genssl.evaluation.neighbour_decoder import nonparametric_decoder
from genssl.evaluation.probes import linear_probe, mlp_probe
from genssl.evaluation.reliability import expected_calibration_error, reliability
from genssl.evaluation.sample_quality import kernel_distance, kernel_distance_of_subsets, precision_recall
from genssl.evaluation.shattering import shattering
from genssl.evaluation.slots import gradient_cosine, slot_measures
from genssl.evaluation.style import style_scores
from genssl.evaluation.weights import effective_sample_size, importance_bound, log_weights

__all__ = [
    "CORE",
    "alpha_req",
    "clustering_scores",
    "dci",
    "effective_rank",
    "effective_sample_size",
    "eigenspectrum",
    "evaluate",
    "expected_calibration_error",
    "frechet_distance",
    "gradient_cosine",
    "held_out_bound",
    "importance_bound",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "knn",
    "knn_accuracy",
    "lidar",
    "linear_probe",
    "log_weights",
    "low_label_probe",
    "maximum_likelihood_scales",
    "measuring",
    "mlp_probe",
    "mutual_information_gap",
    "nonparametric_decoder",
    "posterior_information",
    "precision_recall",
    "rankme",
    "reliability",
    "retrieval",
    "shattering",
    "slot_measures",
    "style_scores",
    "variance_components",
    "view_information",
]
