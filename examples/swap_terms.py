"""From SimVAE to SimCLR on FashionMNIST, one slot at a time: what each term does to the representation.

    python examples/swap_terms.py --data-root DIR         # DIR/FashionMNIST/raw/*-ubyte[.gz]; or --download

Four stations, all from the same initial weights and the same batches:

    SimVAE            log p(x | z)              H[q(z | x)]    log p(z_1..z_J)
    autoencoder       log p(x | z)              none           log p(z_1..z_J)       a guide without noise: a pinch, and no sampling
    with cosine       log p(x | z)              none           cos(z_i, z_j) / t     z may have any length
    SimCLR            -log sum over the batch   none           cos(z_i, z_j) / t     no decoder; what tells views apart can go

Result and hardware: printed, and in OUT/index.html with a map of z for each station; 3 minutes a station by default.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import genssl
from genssl.cli import exit_status

STATIONS = {
    "SimVAE": {},
    "autoencoder": {"entropy": "Constant"},
    "cosine": {"entropy": "Constant", "prior": "CosineAttraction:temperature=0.5"},
    "SimCLR": {
        "reconstruction": "ContrastiveNormaliser:temperature=0.5",
        "entropy": "Constant",
        "prior": "CosineAttraction:temperature=0.5",
    },
}
NUM_VIEWS = 2
BATCH_SIZE = 128
LR = 1e-3
PRECISION = "auto"  # bf16 around the networks where this machine is faster in it
SETTINGS = {"dim": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--max-seconds", type=float, default=180.0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/swap_terms")
    args = parser.parse_args()

    runs = []
    for name, replace in STATIONS.items():
        print(name)
        run = genssl.fit(
            "SimVAE", args.data, settings=SETTINGS, replace=replace, num_views=NUM_VIEWS, batch_size=BATCH_SIZE, lr=LR, precision=PRECISION,
            epochs=1000, max_seconds=args.max_seconds, limit=args.limit, seed=args.seed, data_root=args.data_root,
            download=args.download, out=Path(args.out) / name, resume=True,
        )  # fmt: skip
        run.evaluate(genssl.evaluation.CORE)
        runs.append(run)
    comparison = genssl.compare(runs, out=args.out)
    print(comparison)
    print(f"page: {Path(args.out) / 'index.html'}")


if __name__ == "__main__":
    raise SystemExit(exit_status(main))  # what is missing in one line, no traceback
