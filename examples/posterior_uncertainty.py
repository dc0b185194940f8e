"""How sure is a representation, is that sureness right, and which inputs are strange: SimVAE on FashionMNIST, MNIST as strangers.

    python examples/posterior_uncertainty.py --data-root DIR    # DIR/FashionMNIST/raw/*-ubyte[.gz] and DIR/MNIST/raw; or --download

Five questions, each with the call that answers it:

    how sure of z, and of content y as views arrive     genssl.posterior.posterior, an ArviZ data tree in RUN/posterior.nc
    how far is the guide from the posterior              genssl.posterior.diagnose: Pareto k-hat, effective draws
    do intervals hold what they should                   run.evaluate(["certainty"]): calibration, predictive coverage
    are the unsure predictions the wrong ones            the same: risk against coverage
    which inputs are strange                             genssl.posterior.against: AUROC of every score

Result and hardware: results/uncertainty.md. p(y) is proper here (content_scale = 1), so that the model can be drawn from and calibrated;
--group-guide product gives each z_j the other views of its group too, and shows what the factorised guide leaves out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import genssl
from genssl import posterior
from genssl.cli import exit_status
from genssl.report import write

NUM_VIEWS = 4
BATCH_SIZE = 128
LR = 1e-3
PRECISION = "auto"  # bf16 around the networks where this machine is faster in it
SETTINGS: dict[str, Any] = {"dim": 10, "content_scale": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--strangers", default="mnist", help="a data set of the same size of images, or none")
    parser.add_argument("--data-root")
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--max-seconds", type=float, default=300.0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--groups", type=int, default=200, help="test groups whose posterior is drawn")
    parser.add_argument("--group-guide", choices=["product", "set"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/posterior_uncertainty")
    args = parser.parse_args()

    settings = SETTINGS | ({"group_guide": args.group_guide} if args.group_guide else {})
    run = genssl.fit(
        "SimVAE", args.data, settings=settings, num_views=NUM_VIEWS, batch_size=BATCH_SIZE, lr=LR, precision=PRECISION, epochs=1000,
        max_seconds=args.max_seconds, limit=args.limit, seed=args.seed, data_root=args.data_root, download=args.download,
        out=Path(args.out), resume=True,
    )  # fmt: skip

    tree = posterior.posterior(run, number=args.groups)
    how_sure(tree)
    how_far(posterior.diagnose(tree))
    tree.close()
    how_right(run.evaluate(["content", "certainty"])["certainty"])
    if args.strangers != "none":
        found = posterior.against(run, args.strangers)
        print(
            f"\n{args.strangers} against {args.data}: AUROC, 1/2 tells nothing, below 1/2 the strangers look LESS strange"
        )
        for score, area in sorted(found["auroc"].items(), key=lambda item: -item[1]):
            print(f"    {score:<16} {area:.3f}")
    print(f"\nposterior: {run.path / 'posterior.nc'}\nreport: {write([run])}")


def how_sure(tree: Any) -> None:
    """Scale of z in its own unit, the spread of z over test views; and of y, which shrinks with the views that it is given."""
    z, y = tree["posterior/z"], tree["posterior/y"]
    ratio = z.std("sample") / z.mean("sample").std(["group", "view"])
    print(f"\nsd of q(z | x) over the spread of z: median {float(ratio.median()):.3f}, by dimension", end=" ")
    print(np.array2string(ratio.mean(["group", "view"]).values, precision=2))
    print(
        f"sd of y given {z.sizes['view']} views: {float(y.std('sample').mean()):.3f} (before any view: {SETTINGS['content_scale']:.3f})"
    )


def how_far(found: Any) -> None:
    """A k-hat above 0.7 is what to expect of a factorised guide over many latents: it leaves out the posterior's correlations."""
    k_hat = found["pareto_k"].values
    print(
        f"k-hat: median {np.median(k_hat):.2f}; at most 0.7 for {float(found['trusted'].mean()):.0%} of the groups,",
        end=" ",
    )
    print(f"which alone may be weighted by importance; effective draws of {found.attrs['samples']}:", end=" ")
    print(f"{float(found['effective_samples'].mean()):.1f}")


def how_right(certainty: dict[str, Any]) -> None:
    """Each answer, or why there is none."""
    calibration, coverage, risk = (certainty.get(part) for part in ("calibration", "coverage", "risk"))
    for site, each in (calibration or {}).items():
        print(f"90% intervals of {site} hold {each['coverage']['0.9']:.1%} of what made the model's own data")
    for part in ("observed", "next_view"):
        if shares := (coverage or {}).get(part):
            print(
                f"90% intervals of pixels, {part.replace('_', ' ')}: "
                + ", ".join(f"{k} {v['0.9']:.1%}" for k, v in shares.items())
            )
    for name, curve in (risk or {"curves": {}})["curves"].items():
        half = next(error for share, error in curve["risk"] if share >= 0.5)
        print(f"error of a linear probe on the surest half by {name}: {half:.1%} (all: {curve['area_of_random']:.1%})")


if __name__ == "__main__":
    raise SystemExit(exit_status(main))  # what is missing in one line, no traceback
