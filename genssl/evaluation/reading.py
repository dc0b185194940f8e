"""evaluation.json as its readers find it: whole, of the kinds that `evaluate` writes, or told to be neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genssl.errors import CheckpointError
from genssl.files import read_json
from genssl.fit import metrics
from genssl.kinds import MAYBE, NUMBER, TEXT, fault

AGAIN = "genssl evaluate writes it again"
PROBES = {"*": {"validation": MAYBE, "test": MAYBE, "test_best": MAYBE, "ece": MAYBE}}
SCORE = {"validation": MAYBE, "test": MAYBE}
FACTORS = {"*": {"kind": TEXT, "majority": MAYBE, "linear": SCORE, "kernel": SCORE}}
AXES = {"disentanglement": MAYBE, "completeness": MAYBE, "informativeness": MAYBE, "mig": MAYBE}
OF_STYLE = {
    "z": FACTORS, "content": FACTORS, "residual": FACTORS, "left_out": {"*": TEXT}, "axes": {**AXES, "factors": {"*": AXES}},
}  # fmt: skip
STYLE = {"*?": OF_STYLE}
GEOMETRY = {
    "effective_rank": MAYBE, "alpha_req": MAYBE, "dim": MAYBE, "eigenvalues": [NUMBER],
    "groups": {
        "alignment": MAYBE, "uniformity": MAYBE, "lidar": MAYBE, "variance": {"within": MAYBE, "between": MAYBE},
        "view_information": {"nats": MAYBE, "cap": MAYBE}, "view_scale": MAYBE,
    },
}  # fmt: skip
RETRIEVAL = {"top1": MAYBE, "chance": MAYBE, "candidates": MAYBE, "within_class": {"top1": MAYBE, "chance": MAYBE}}
SETS = {"reconstructions": MAYBE, "samples": MAYBE, "unconditional": MAYBE, "reference": MAYBE}
CURVE = {
    "area": MAYBE, "area_of_random": MAYBE, "area_of_oracle": MAYBE, "excess_ratio": MAYBE, "risk": [(NUMBER, NUMBER)],
}  # fmt: skip
SHARES = {"*": {"*": MAYBE}}
EVALUATION = {
    "content": PROBES,
    "style": STYLE,
    "random_encoder": {"content": PROBES, "style": STYLE},
    "after_head": {"content": PROBES, "geometry": GEOMETRY},
    "low_label": {"*": {"test": MAYBE, "std": MAYBE}},
    "clustering": {"accuracy": MAYBE, "nmi": MAYBE, "ari": MAYBE, "components": MAYBE},
    "geometry": GEOMETRY,
    "identity": {
        "retrieval": MAYBE,
        "detail": {
            "euclidean": RETRIEVAL, "cosine": RETRIEVAL, "input": RETRIEVAL,
            "shattering": {"capacity": MAYBE, "cover_capacity": MAYBE}, "decoder": {"constant": MAYBE},
        },
    },
    "generation": {
        "mse": MAYBE,
        "adhoc": {"mse": MAYBE, "baseline_mse": MAYBE},
        "bound": {
            "elbo": MAYBE, "importance_weighted": {"*": MAYBE}, "bits_per_dimension": MAYBE, "groups": MAYBE, "views": MAYBE,
            "content_prior": {"scale": MAYBE},
        },
        "frechet": {**SETS, "kernel": SETS, "precision": SETS, "recall": SETS, "items": MAYBE, "features": TEXT},
    },
    "certainty": {
        "risk": {"accuracy": MAYBE, "items": MAYBE, "curves": {"*": CURVE}},
        "coverage": {"observed": SHARES, "next_view": SHARES, "constant_share": MAYBE},
        "weights": {
            "groups": MAYBE, "views": MAYBE, "draws": MAYBE, "trusted": MAYBE, "pareto_k": MAYBE, "effective_samples": MAYBE,
        },
        "calibration": {"*": {"p_value": MAYBE, "coverage": {"*": MAYBE}}},
    },
    "notes": {"*": TEXT},
}  # fmt: skip
"""What tables and figures read of it; `evaluate` says what it means. Parts of older evaluations may be missing."""


def read_evaluation(folder: Path) -> tuple[dict[str, Any], str]:
    """evaluation.json of a run ({} where there is none, and where it cannot be used), and what is wrong with it."""
    path = folder / "evaluation.json"
    if not path.exists():
        return {}, ""
    try:
        found = read_json(path)
    except CheckpointError as error:
        return {}, f"{str(error).rpartition('; ')[0]}; {AGAIN}"  # with the remedy of this file
    wrong = fault(found, EVALUATION, optional=False)
    return ({}, f"{path}: is no evaluation ({wrong}); {AGAIN}") if wrong else (found, "")


def problems(folder: Path) -> list[str]:
    """What is wrong with the files that tables and figures of a run are made of, a sentence each."""
    found = [
        read_evaluation(folder)[1],
        *(metrics.damaged(folder / name) for name in ("metrics.jsonl", "measures.jsonl")),
    ]
    return [sentence for sentence in found if sentence]
