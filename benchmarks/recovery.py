r"""Do fitted posteriors recover the true ones? results/recovery.json and results/recovery.md.

    python benchmarks/recovery.py --check       # only the exact posteriors against quadrature, importance sampling and moments
    python benchmarks/recovery.py [--budget 90] [--seeds 0 1 2] [--only TEXT]
    python benchmarks/recovery.py --table       # results/recovery.md from results/recovery.json

A. Linear-Gaussian groups: y ~ N(0, I), z_j ~ N(y, 0.5^2 I), x_j = W z_j + n_j e_j; D = 4, 10 features, J = 4, n_j log-uniform in
   [0.3, 2] and visible as an eleventh input. The exact p(y, z_1..z_J | x_1..x_J) and p(z_j | x_j) are dense normals. SimVAE gets
   the true scales, an MLP encoder and a linear decoder, and ("known noise") the likelihood N(x_j; decoder(z_j), n_j^2 I); without it
   one learned scale for all items. z is identified up to a rotation: Procrustes from posterior means of other groups. Error of log
   det: mean absolute difference over mean absolute value; Spearman of sqrt(trace covariance) an item; KL(q || exact), mean an item.
B. MCInfoNCE's protocol (Kirchhof, Kasneci, Oh 2023, arXiv:2302.02865): sphere in R^10, p(z | x) = vMF(mu(x), kappa(x)), k = 20,
   kappa in [16, 32]. Ours: mu uniform, kappa log-uniform, and x is mu * kappa / sqrt(16 * 32) through an invertible MLP (three
   square leaky-ReLU layers), so that marginals are uniform as their theorem asks. Pairs: z uniform; z+ "vmf", density e^{k z.z+}
   as in the theorem, or "accepted", s / (1 + s), s = e^{k z.z+} / mean, as the released sampler accepts candidates. RMSE of mu after
   Procrustes; cosines of all pairs of items, and kappa: mean absolute error, Pearson, Spearman. VISimSiam's kappa is that of the vMF
   with the resultant of its power-spherical law, SimVAE's 1 / mean s^2 of its Normal (with the true mean noise for scales).
   MCInfoNCE's negatives: "averaged" is the library's and the released code's e^+ / (e^+ + mean e^-), "summed" ours, with their sum.
   "True locations": mu is given, and log kappa = level + slope * (true - middle) + middle is fitted; the truth is 0 and 1.
C. MCInfoNCE's objective at the truth, at kappas off by a factor, and with all directions in a cone, mu -> e + a mu, kappa 1e4.

A cell's budget is CPU seconds on one thread, turned into steps by a timed warm-up; a cell done with at least that budget is skipped, one
done with less is done again. Adam, cosine schedule, fresh groups every step; encoders' last layers start with outputs of mean 0 (B).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import recovery_linear
import recovery_sphere
import torch

from genssl.files import write_json
from genssl.fit.config import environment

RESULTS = Path(__file__).parent.parent / "results"


def cells(seed):
    linear = {"part": "A", "seed": seed, "guide": None, "likelihood": "known noise", "method": "SimVAE"}
    yield linear | {"method": "best factorised", "untrained": True}
    yield linear | {"untrained": True}
    for guide in (None, "product", "set"):
        yield linear | {"guide": guide}
    yield linear | {"likelihood": "one learned scale"}
    common = {
        "seed": seed,
        "positives": "vmf",
        "samples": recovery_sphere.SAMPLES,
        "groups": recovery_sphere.SIZES[1],
        "negatives": "averaged",
    }
    ball = common | {"part": "B", "true_mu": False, "head": None, "method": "MCInfoNCE"}
    for negatives in ("averaged", "summed"):
        for kind in ("vmf", "accepted"):
            yield common | {"part": "C", "positives": kind, "negatives": negatives, "samples": 64}
    yield ball | {"untrained": True}
    true = ball | {"true_mu": True}
    for more in ({"negatives": "summed"}, {}, {"positives": "accepted"}, {"method": "VISimSiam"}):
        yield true | {"samples": 64} | more
    for groups in (recovery_sphere.SIZES[1], recovery_sphere.SIZES[0], recovery_sphere.SIZES[2]):
        for more in ({"negatives": "summed"}, {}, {"method": "VISimSiam"}, {"method": "SimVAE"}):
            yield ball | {"groups": groups} | more
    yield ball | {"method": "VISimSiam", "head": [128, recovery_sphere.DIM]}


def table(heads, body):
    shown = [[f"{v:.3g}" if isinstance(v, float) else "" if v is None else str(v) for v in row] for row in body]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *shown])


def label(cell):
    name, last = cell.get("method", "MCInfoNCE"), ", untrained" * bool(cell.get("untrained"))
    if name == "best factorised":
        return "the best factorised q(z_j given x_j), not fitted"
    if cell["part"] == "A":
        return f"{name}, {cell['guide'] or 'factorised'}, {cell['likelihood']}{last}"
    name += f", {cell['negatives']} negatives" * (name == "MCInfoNCE") + ", head" * bool(cell.get("head"))
    return name + f", {cell['positives']} positives" * (cell["part"] == "C" or cell["true_mu"]) + last


def report(rows):
    linear, ball, true, values, first = [], [], [], [], rows[0]
    names = {"view": "z_j of x_j", "group": "z of the group", "content": "y of the group"}
    for row in rows:
        cell, figures, told = row["cell"], row["figures"], [row["cell"]["seed"], row["steps"], row["seconds"]]
        if cell["part"] == "A":
            linear += [[label(cell), names[kind], *law.values(), *told] for kind, law in figures.items()]
        elif cell["part"] == "C":
            values.append([label(cell), *figures.values()])
        else:
            kappa, cosines = (
                [figures[name].get(key) for key in ("mae", "pearson", "spearman")] for name in ("kappa", "cosines")
            )
            kappa = [figures["kappa"]["median"], *kappa]
            if cell["true_mu"]:
                true.append([label(cell), cell["samples"], figures["level"], figures["slope"], *kappa[:2], *told])
            else:
                ball.append([label(cell), cell["groups"], figures["rmse"], *cosines, *kappa, *told])
    ran, three = ["seed", "steps", "CPU s"], ["MAE", "Pearson", "Spearman"]
    heads = [row["figures"] for row in rows if row["cell"]["part"] == "C"]
    return f"""# Recovery of true posteriors

Made by `benchmarks/recovery.py`, which says what everything is. {first["machine"]}, one thread, beside other fits on two cores;
torch {first["versions"]["torch"]}, genssl {first["versions"]["genssl"]}. The source of MCInfoNCE takes 100 000 steps of 512 pairs.

## A. Linear-Gaussian groups, D = {recovery_linear.LATENT}, J = {recovery_linear.VIEWS}, 256 groups a batch

{table(["guide, likelihood", "law", "R2 of means", "error of log det", "Spearman of scale", "KL, nats", *ran], linear)}

## B. Sphere in R^{recovery_sphere.DIM}, kappa in [{recovery_sphere.KAPPA[0]:g}, {recovery_sphere.KAPPA[1]:g}], pairs

{table(["method", "groups", "RMSE of mu", "cosines: MAE", *three[1:], "kappa: median", *three, *ran], ball)}

True locations, two parameters of kappa (the truth: level 0, slope 1), {recovery_sphere.SIZES[1]} groups a batch:

{table(["method", "draws", "level", "slope", "kappa: median", "MAE", *ran], true)}

## C. MCInfoNCE's objective, {recovery_sphere.SIZES[1]} groups, 64 draws, nats a group

Cone 0 is collapse; the greatest value of a row is what the objective wants.

{table(["objective", *(heads[0] if heads else ())], values)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only make the table from the stored figures")
    parser.add_argument("--check", action="store_true", help="only check the exact posteriors")
    parser.add_argument("--budget", type=float, default=90, help="CPU seconds of a cell's fit (default 90)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--only", default="", help="cells whose settings, as written in the file, contain this")
    args = parser.parse_args()
    out = RESULTS / "recovery.json"
    rows = json.loads(out.read_text()) if out.exists() else []
    torch.set_num_threads(1)
    if not args.table:
        recovery_linear.check()
        recovery_sphere.check()
        print("exact posteriors: quadrature, importance sampling and moments agree", flush=True)
    for cell in [] if args.check or args.table else [cell for seed in args.seeds for cell in cells(seed)]:
        budget = args.budget / 3 if cell.get("true_mu") else args.budget
        fixed = cell["part"] == "C" or cell.get("untrained")
        done = any(cell == row["cell"] and (fixed or row["budget"] >= budget) for row in rows)
        if done or args.only not in json.dumps(cell):
            continue
        measured = {
            "A": recovery_linear.linear_cell,
            "B": recovery_sphere.spherical_cell,
            "C": recovery_sphere.value_cell,
        }[cell["part"]](cell, budget)
        rows = [row for row in rows if row["cell"] != cell]
        rows.append({"cell": cell, "budget": budget, **measured, **environment(torch.device("cpu"))})
        write_json(out, rows)
        print(json.dumps(cell), measured["steps"], measured["figures"], flush=True)
    if rows and not args.check:
        (RESULTS / "recovery.md").write_text(report(rows))


if __name__ == "__main__":
    main()
