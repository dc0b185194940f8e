"""Every number of evaluation.json has its cell, and what is missing leaves none behind."""

from __future__ import annotations

import re

from genssl.report.tables import content, generation, geometry, identity, results, style

PROBE = {"validation": 0.9, "test": 0.812, "test_best": 0.834, "ece": 0.031}
CONTENT = dict.fromkeys(("knn", "linear", "mlp"), PROBE)
GEOMETRY = {
    "effective_rank": 3.456, "rankme": 2.0, "alpha_req": 1.25, "dim": 10, "items": 9, "eigenvalues": [2.0, 1.0],
    "groups": {"alignment": 0.123, "uniformity": -1.5, "lidar": None, "variance": {"within": 0.0123, "between": 4.5}},
}  # fmt: skip


def words(html):
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html)).strip()


def test_content_with_few_labels_with_none_and_after_the_head():
    after = {"content": {"linear": {"test": 0.701}}, "geometry": None}
    few = {"1": {"test": 0.401, "std": 0.052}, "10": {"test": 0.652, "std": 0.011}, "note": "x"}
    clusters = {"accuracy": 0.517, "nmi": 0.482, "ari": 0.371, "components": 10}
    found = {"content": CONTENT, "after_head": after, "low_label": few, "clustering": clusters}
    text = words(content(found))
    assert "linear probe 81.2% - 70.1% 83.4% 0.031" in text
    assert "1 a class 40.1% 5.2% 10 a class 65.2% 1.1%" in text
    assert "10 clusters 51.7% 0.482 0.371" in text
    plain = words(content({"content": {"knn": {"test": 0.5}}}))
    assert "after the head" not in plain
    assert "calibration" not in plain
    assert "clusters" not in plain


def test_geometry_of_z_and_after_the_head():
    text = words(
        geometry({"geometry": GEOMETRY, "after_head": {"geometry": GEOMETRY | {"effective_rank": 1.5, "dim": 64}}})
    )
    assert "effective rank (dimensions: 10 of z, 64 after the head) 3.46 1.50" in text
    assert "variance within groups, a dimension 0.0123 0.0123" in text
    assert "LiDAR" not in text
    assert geometry({}) == ""


def test_identity_and_generation():
    one = {"top1": 0.314, "chance": 0.0002, "candidates": 5000, "within_class": {"top1": 0.501, "chance": 0.002}}
    detail = {"euclidean": one, "cosine": None, "input": None, "shattering": {"capacity": 14.4, "cover_capacity": 22.0}}
    text = words(identity({"identity": {"retrieval": 0.314, "detail": detail}}))
    assert "z, of 5000 items 31.4% 0.0% 50.1% 0.2%" in text
    assert "up to 14 items, a view each, are told apart by a hyperplane half of the time; 22 is" in text
    assert identity({"identity": None}) == ""
    bound = {
        "elbo": 1234.56, "importance_weighted": {"1": 1234.5, "64": 1300.25}, "bits_per_dimension": -1.234, "groups": 500, "views": 4,
        "content_prior": {"fitted": True, "scale": 0.876},
    }  # fmt: skip
    frechet = {"features": "64 <features>", "items": 5000, "reconstructions": 0.1234, "samples": 0.5, "reference": 0.01}
    text = words(generation({"generation": {"mse": 0.012345, "bound": bound, "frechet": frechet}}))
    parts = (
        "0.01235",
        "ELBO 1234.6",
        "64 draws 1300.2",
        "-1.234 bits a dimension",
        "standard deviation 0.876",
        "reconstructions of test items 0.123",
        "training items (the floor) 0.010",
        "64 &lt;features&gt;",
        "not comparable with FID",
    )
    for part in parts:
        assert part in text
    assert "samples without a class" not in text
    assert "recall" not in text  # of an evaluation that was written before
    others = {
        "kernel": {"samples": -0.0004, "reference": 0.0312},
        "precision": {"samples": 0.612},
        "recall": {"samples": 0.443},
    }
    text = words(generation({"generation": {"mse": 1.0, "frechet": frechet | others}}))
    assert "samples of each class 0.500 0.000 61.2% 44.3%" in text
    assert "training items (the floor) 0.010 0.031 - -" in text
    assert "against test items Frechet distance kernel distance precision recall" in text
    proper = bound | {"content_prior": {"fitted": False, "scale": None}, "bits_per_dimension": None}
    assert "flat" not in words(generation({"generation": {"mse": 1.0, "bound": proper}}))


def test_axes_of_z_stand_beside_those_of_the_random_encoder():
    factors = {"hue": {"completeness": 0.411, "informativeness": 0.872, "mig": 0.023}}
    axes = {"disentanglement": 0.512, "completeness": 0.471, "informativeness": 0.93, "mig": 0.144, "factors": factors}
    score = {"kind": "circular", "linear": {"test": 0.7}}
    found = {"items": None, "views": {"z": {"hue": score}, "left_out": {}, "axes": axes}}
    random = {"style": {"views": {"z": {}, "axes": axes | {"disentanglement": 0.123}}}}
    text = words(style({"style": found, "random_encoder": random}))
    assert "coordinates of z and style of views disentanglement completeness R2, forest MIG" in text
    assert "z 0.51 0.47 0.93 0.14 random encoder 0.12 0.47 0.93 0.14 hue - 0.41 0.87 0.02" in text
    assert "a rotation of z moves them and loses nothing" in text
    without = words(style({"style": {"views": {"z": {"hue": score}}}}))
    assert "MIG" not in without


def test_an_evaluation_of_nulls_is_short():
    text = words(results({"content": None, "style": None, "geometry": None, "generation": {"mse": None}, "notes": {}}))
    assert text == "Content No content accuracy: not measured. Generation No reconstruction error: not measured."
