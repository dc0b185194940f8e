"""What a frozen representation is worth: nearest neighbours, probes, known style, and the measures of a run."""

from genssl.evaluation.evaluate import evaluate
from genssl.evaluation.knn import knn, knn_accuracy
from genssl.evaluation.measuring import measuring
from genssl.evaluation.probes import linear_probe, mlp_probe
from genssl.evaluation.style import style_scores

__all__ = ["evaluate", "knn", "knn_accuracy", "linear_probe", "measuring", "mlp_probe", "style_scores"]
