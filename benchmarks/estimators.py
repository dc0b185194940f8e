"""Errors of the entropy and information estimators on Gaussians of known values: results/estimators.json and results/estimators.md.

    python benchmarks/estimators.py             # measures, a few minutes on one thread, then writes both
    python benchmarks/estimators.py --table     # results/estimators.md from results/estimators.json

Entropies: N(0, S) with S_ij = 0.5^|i - j|; on the sphere the uniform density. Information: pairs of correlation rho in each of d
dimensions, rho chosen for the information wanted, scored by the exact critic (1 + it for nwj), so that what is left is the error of
the estimator. Errors are in nats, mean over repetitions and standard deviation of one estimate.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from pathlib import Path

import torch
from torch.nn.functional import normalize

from genssl import estimators as e
from genssl.files import write_bytes, write_json

RESULTS = Path(__file__).parent.parent / "results"
REPETITIONS = {64: 40, 256: 40, 1024: 10, 4096: 3}
DIMS = (1, 2, 4, 8, 16, 32)
INFORMATION = (2.0, 4.0, 6.0, 8.0, 10.0)
STAIRCASE_DIM = 20


def entropies(n, dim, generator):
    """estimator -> (estimate, truth) on one sample."""
    covariance = 0.5 ** (torch.arange(dim)[:, None] - torch.arange(dim)).abs()
    white = torch.randn(n, dim, generator=generator)
    z = white @ torch.linalg.cholesky(covariance).T
    truth = 0.5 * dim * (1 + math.log(2 * math.pi)) + 0.5 * (dim - 1) * math.log(0.75)
    scott = n ** (-1 / (dim + 4))
    seen = {
        "kde gaussian, Scott's bandwidth": e.kde_entropy(z, scott),
        "kde gaussian, Scott's bandwidth, with self": e.kde_entropy(z, scott, leave_one_out=False),
        "kde gaussian, bandwidth 0.5": e.kde_entropy(z, 0.5),
        "knn, k = 3": e.knn_entropy(z),
        "knn, k = 3, clip 0.9": e.knn_entropy(z, clip=0.9),
        "logdet": e.logdet_entropy(z),
        "logdet, unbiased": e.logdet_entropy(z, unbiased=True),
        "logdet, shrinkage 0.1": e.logdet_entropy(z, 0.1),
        "logdet, expansion": e.logdet_expansion_entropy(z),
    }
    measured = {name: (value, truth) for name, value in seen.items()}
    if dim > 1:
        sphere = normalize(white, dim=1)
        area = math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)
        bandwidth = n ** (-1 / (dim + 3)) / math.sqrt(dim)
        measured["sphere: kde vmf, Scott's bandwidth"] = e.kde_entropy(sphere, bandwidth, "vmf"), area
        measured["sphere: knn, k = 3, manifold_dim d - 1"] = e.knn_entropy(sphere, manifold_dim=dim - 1), area
    return measured


def informations(n, dim, truth, generator):
    """estimator -> (estimate, truth) on one sample of pairs."""
    rho = math.sqrt(-math.expm1(-2 * truth / dim))
    noise = math.sqrt(1 - rho**2)
    z = torch.randn(n, dim, generator=generator)
    other = rho * z + noise * torch.randn(n, dim, generator=generator)
    f = e.gaussian_pair_critic(z, other, rho)
    conditional = torch.distributions.Normal(rho * z, noise).log_prob(other).sum(1)
    both = torch.cat([z, other], 1)
    seen = {
        "infonce": e.infonce(f),
        "infonce, both orientations": e.infonce(f, "both"),
        "nwj (tuba with a = e)": e.nwj(f + 1),
        "dv": e.dv(f),
        "smile, clip 5": e.smile(f),
        "barber_agakov, exact density and entropy": e.barber_agakov(
            conditional, 0.5 * dim * (1 + math.log(2 * math.pi))
        ),
        "no critic: three knn entropies": e.knn_entropy(z) + e.knn_entropy(other) - e.knn_entropy(both),
    }
    if n > 2 * dim:
        single = e.logdet_entropy(z) + e.logdet_entropy(other)
        corrected = e.logdet_entropy(z, unbiased=True) + e.logdet_entropy(other, unbiased=True)
        seen["no critic: logdet - joint logdet"] = single - e.joint_logdet_entropy(z, other)
        seen["no critic: the same, unbiased"] = corrected - e.joint_logdet_entropy(z, other, unbiased=True)
    return {name: (value, truth) for name, value in seen.items()}


def measure(what, function, n, dim, *rest):
    """Rows of the result: one an estimator."""
    values, truths = {}, {}
    for repetition in range(REPETITIONS[n]):
        generator = torch.Generator().manual_seed(1000 * n + repetition)
        for name, (value, truth) in function(n, dim, *rest, generator).items():
            values.setdefault(name, []).append(float(value))
            truths[name] = truth
    return [
        {
            "what": what,
            "estimator": name,
            "n": n,
            "d": dim,
            "truth": truths[name],
            "error": statistics.fmean(seen) - truths[name],
            "deviation": statistics.stdev(seen),
            "repetitions": len(seen),
        }
        for name, seen in values.items()
    ]


def table(rows, columns, heads):
    """Markdown: a row an estimator, a column a setting; error (deviation)."""
    lines = ["| estimator | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in dict.fromkeys(row["estimator"] for row in rows):
        cells = []
        for wanted in columns:
            found = [r for r in rows if r["estimator"] == name and all(r[key] == wanted[key] for key in wanted)]
            cells.append(f"{found[0]['error']:+.2f} ({found[0]['deviation']:.2f})" if found else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(result):
    rows = result["rows"]
    entropy = [{"n": n, "d": d} for d in (2, 8, 32) for n in (64, 1024, 4096)]
    level = [{"n": n, "d": d} for d in (2, 32) for n in (64, 1024, 4096)]
    stairs = [{"n": n, "truth": i} for n in (64, 4096) for i in INFORMATION]
    return f"""# Entropy and information estimators

Error in nats against the exact value, and in brackets the standard deviation of one estimate. n: rows, d: dimensions.
Made by `benchmarks/estimators.py`, which says how; every n and d is in estimators.json. {result["threads"]} thread, float32,
torch {result["torch"]}, {result["cpu_seconds"]:.0f} s of CPU time.
Repetitions by n: {", ".join(f"{n}: {k}" for n, k in REPETITIONS.items())}.

## Entropy

{table([r for r in rows if r["what"] == "entropy"], entropy, [f"d={c['d']}, n={c['n']}" for c in entropy])}

## Information of 2 nats, exact critic

{table([r for r in rows if r["what"] == "information"], level, [f"d={c['d']}, n={c['n']}" for c in level])}

## Information from 2 to 10 nats in {STAIRCASE_DIM} dimensions, exact critic

log 64 = {math.log(64):.2f}, log 4096 = {math.log(4096):.2f}: what infonce cannot exceed.

{table([r for r in rows if r["what"] == "staircase"], stairs, [f"I={c['truth']:g}, n={c['n']}" for c in stairs])}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only make the table from the stored figures")
    args = parser.parse_args()
    if args.table:
        result = json.loads((RESULTS / "estimators.json").read_text())
    else:
        torch.set_num_threads(1)
        began, rows = time.process_time(), []
        for n in REPETITIONS:
            for dim in DIMS:
                rows += measure("entropy", entropies, n, dim)
                rows += measure("information", informations, n, dim, 2.0)
            for information in INFORMATION:
                rows += measure("staircase", informations, n, STAIRCASE_DIM, information)
            print(f"n = {n}: {time.process_time() - began:.0f} s", flush=True)
        result = {
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cpu_seconds": time.process_time() - began,
            "rows": rows,
        }
        write_json(RESULTS / "estimators.json", result)
    write_bytes(RESULTS / "estimators.md", report(result).encode())


if __name__ == "__main__":
    main()
