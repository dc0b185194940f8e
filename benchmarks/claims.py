"""The paper's claims C1 to C9 against the cells of results/paper/: supported, refuted or undecided, for the setting that was measured.

    python benchmarks/claims.py [--budget cpu]

Differences are paired by seed, with a 95 % t-interval; "comparable" and "invariant" are within 1.0 point; C6 and C7 are slopes over the
settings of an ablation, one a seed. Pairing, interval, the margin of 1.0 point, trends and the ablations' settings were fixed before the
cells were run; this file was written after them. A difference is supported where its interval lies above the margin, refuted where it
lies below, else undecided. "The best baseline" is the one that is best on validation, in the mean over seeds. Accuracies are on test, of
probes that validation chose, in points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from paper import committed

from genssl.compare.table import spread_of

Row = dict[str, Any]
Figure = Callable[[Row, str], float]  # of a row, on "validation" or "test"

VAES = ("VAE", "BetaVAE", "CRVAE", "AAVAE")
DISCRIMINATIVE = ("SimCLR", "MoCo", "VICReg", "BYOL", "BarlowTwins", "LDM")
COMPARABLE = 1.0


WORD = ("supported", "refuted", "undecided")
WORDS = {
    "C1": "MNIST, FashionMNIST: SimVAE is comparable to the best VAEs or better, and competitive with discriminative methods or better",
    "C2": "CelebA: SimVAE is the best of all",
    "C3": "CIFAR-10: SimVAE beats all VAEs and loses to discriminative methods",
    "C4": "CelebA: hair colour, and the mean of 20 attributes, are read best from SimVAE",
    "C5": "SimVAE generates better than the VAEs (squared error and FID)",
    "C6": "more views a group help on average",
    "C7": "the larger the likelihood's variance, the lower the accuracy",
    "C8": "SimVAE hardly depends on how strong augmentation is; discriminative methods gain by it, the VAE loses",
    "C9": "CelebA: the MLP probe over three runs",
}
"""Bizeul et al. 2024, arXiv:2402.01399, in words of ours; C1 to C9 as in the verdicts."""


class Verdict(NamedTuple):
    claim: str
    measured: str
    word: str

    def __str__(self) -> str:
        return f"{self.claim}: {self.word.upper()} ({self.measured})"


def probe(name: str) -> Figure:
    return lambda row, split: 100 * row["content"][name][split]


def mixture(row: Row, split: str) -> float:
    """Nothing of a mixture was measured on validation: there the MLP probe's figure stands for it, where a best method is chosen."""
    return probe("mlp")(row, split) if split == "validation" else 100 * row["clustering"]["accuracy"]


FIGURES: dict[str, Figure] = {
    "MLP probe": probe("mlp"), "kNN": probe("knn"), "linear probe": probe("linear"), "mixture": mixture,
}  # fmt: skip


class Cells:
    """The cells of a budget, by data, label and seed."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = {(row["data"], row["label"], row["seed"]): row for row in rows}

    def seeds(self, data: str, *labels: str) -> list[int]:
        """The seeds that all of the labels have."""
        found = [{seed for d, name, seed in self.rows if (d, name) == (data, label)} for label in labels]
        return sorted(set.intersection(*found)) if found else []

    def values(self, data: str, label: str, seeds: list[int], figure: Figure, split: str = "test") -> list[float]:
        return [figure(self.rows[data, label, seed], split) for seed in seeds]

    def best(self, data: str, labels: tuple[str, ...], figure: Figure) -> str | None:
        """The label that is best on validation in the mean over its seeds; of figures where more is better."""
        means = {}
        for label in labels:
            if seeds := self.seeds(data, label):
                means[label] = sum(self.values(data, label, seeds, figure, "validation")) / len(seeds)
        return max(means, key=means.__getitem__) if means else None


def interval(differences: list[float]) -> tuple[float, float, str]:
    found = spread_of(differences)
    half = math.inf if found.half is None else found.half
    return found.mean - half, found.mean + half, f"{found.mean:+.2f} +- {half:.2f}"


def above(claim: str, differences: list[float], margin: float, unit: str) -> Verdict:
    """Whether a difference is above a margin."""
    if len(differences) < 2:
        return Verdict(
            claim,
            f"{len(differences)} {'seed' if len(differences) == 1 else 'seeds'}, of which no interval can be had",
            "undecided",
        )
    low, high, told = interval(differences)
    word = "supported" if low > margin else "refuted" if high < margin else "undecided"
    return Verdict(claim, f"{told} {unit}, {len(differences)} seeds, margin {margin:g}", word)


def within(claim: str, differences: list[float], bound: float, unit: str) -> Verdict:
    """Whether a difference is no larger than a bound."""
    if len(differences) < 2:
        return Verdict(
            claim,
            f"{len(differences)} {'seed' if len(differences) == 1 else 'seeds'}, of which no interval can be had",
            "undecided",
        )
    low, high, told = interval(differences)
    word = "supported" if -bound < low and high < bound else "refuted" if low > bound or high < -bound else "undecided"
    return Verdict(claim, f"{told} {unit}, {len(differences)} seeds, bound {bound:g}", word)


def paired(cells: Cells, data: str, one: str, other: str, figure: Figure) -> list[float]:
    seeds = cells.seeds(data, one, other)
    sides = [cells.values(data, label, seeds, figure) for label in (one, other)]
    return [a - b for a, b in zip(*sides, strict=True)]


def slopes(cells: Cells, data: str, settings: dict[str, float], figure: Figure) -> list[float]:
    """Points a doubling of the setting, by least squares, of every seed."""
    x = [math.log2(value) for value in settings.values()]
    centre, out = sum(x) / len(x), []
    for seed in cells.seeds(data, *settings):
        y = [figure(cells.rows[data, label, seed], "test") for label in settings]
        out.append(sum((a - centre) * b for a, b in zip(x, y, strict=True)) / sum((a - centre) ** 2 for a in x))
    return out


def verdicts(rows: list[Row]) -> list[Verdict]:
    cells, out = Cells(rows), []
    mlp = FIGURES["MLP probe"]
    for data in ("mnist", "fashion_mnist"):
        for kind, labels in (("VAEs", VAES), ("discriminative methods", DISCRIMINATIVE)):
            for name, figure in FIGURES.items():
                best = cells.best(data, labels, figure)
                claim = f"C1 {data}: SimVAE is comparable to the best of the {kind} ({best}) or better, by {name}"
                out.append(above(claim, paired(cells, data, "SimVAE", best or "", figure), -COMPARABLE, "points"))
        for label in VAES:  # the best may be so by less than the choice is worth
            claim = f"C1 {data}: SimVAE is comparable to {label} or better, by MLP probe"
            out.append(above(claim, paired(cells, data, "SimVAE", label, mlp), -COMPARABLE, "points"))
    none = "not testable here: no CelebA"
    out.append(Verdict("C2 CelebA: SimVAE is the best of all", none, "undecided"))
    for claim, labels, sign in (("beats all VAEs", VAES, 1), ("loses to discriminative methods", DISCRIMINATIVE, -1)):
        best = cells.best("cifar10", labels, mlp) or "none measured"
        differences = [sign * d for d in paired(cells, "cifar10", "SimVAE", best, mlp)]
        out.append(above(f"C3 CIFAR-10: SimVAE {claim} (best: {best}), by MLP probe", differences, 0.0, "points"))
    out.append(Verdict("C4 hair colour and the mean of 20 attributes: SimVAE is best", none, "undecided"))
    for data in ("mnist", "fashion_mnist"):
        for label in VAES:
            differences = [-1e3 * d for d in paired(cells, data, "SimVAE", label, lambda row, _: float(row["mse"]))]
            out.append(
                above(
                    f"C5 {data}: SimVAE reconstructs better than {label} (MSE; no FID)", differences, 0.0, "thousandths"
                )
            )
    views = {"SimVAE, J = 2": 2.0, "SimVAE": 4.0, "SimVAE, J = 8": 8.0}
    out += [
        above(
            f"C6 {data}: more views a group help, J = 2, 4, 8, by MLP probe",
            slopes(cells, data, views, mlp),
            0.0,
            "points a doubling",
        )
        for data in ("mnist", "fashion_mnist")
    ]
    variances = {"SimVAE, variance 0.005": 0.005, "SimVAE": 0.02, "SimVAE, variance 0.08": 0.08}
    falls = [-slope for slope in slopes(cells, "fashion_mnist", variances, mlp)]
    out.append(
        above(
            "C7 fashion_mnist: accuracy falls with the likelihood's variance, .005, .02, .08, by MLP probe",
            falls,
            0.0,
            "points a doubling",
        )
    )
    claim = (
        "C8 fashion_mnist: SimVAE is invariant to the strength of crops (smallest area 0.15 against 0.8), by MLP probe"
    )
    out.append(
        within(
            claim,
            paired(cells, "fashion_mnist", "SimVAE, strong crops", "SimVAE, weak crops", mlp),
            COMPARABLE,
            "points",
        )
    )
    for label, sign, verb in (("SimCLR", 1, "improves"), ("VICReg", 1, "improves"), ("VAE", -1, "gets worse")):
        differences = [
            sign * d for d in paired(cells, "fashion_mnist", f"{label}, strong crops", f"{label}, weak crops", mlp)
        ]
        out.append(
            above(f"C8 fashion_mnist: {label} {verb} with stronger crops, by MLP probe", differences, 0.0, "points")
        )
    out.append(Verdict("C9 CelebA: MLP probe over three runs", none, "undecided"))
    return out


def summary(found: list[Verdict]) -> list[str]:
    """A Markdown table: each claim of the paper, and how many of its verdicts are which."""
    lines = ["| claim | what the paper says | supported | refuted | undecided |", "|---|---|---|---|---|"]
    for key, words in WORDS.items():
        mine = [verdict.word for verdict in found if verdict.claim.split()[0] == key]
        lines.append(f"| {key} | {words} | " + " | ".join(str(mine.count(word)) for word in WORD) + " |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="cpu")
    for verdict in verdicts(committed(parser.parse_args().budget)):
        print(verdict)


if __name__ == "__main__":
    main()
