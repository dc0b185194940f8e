"""SimVAE on MNIST, binarised, with the paper's networks and augmentation.

    python examples/mnist.py --data-root DIR      # DIR/MNIST/raw/*-ubyte[.gz]; or --download

Result and hardware: results/core.md holds the measured tables. The paper's own schedule is 400 epochs (SimVAE.paper()).
"""

from __future__ import annotations

import argparse

from genssl.models import SimVAE

import genssl
from genssl.cli import exit_status
from genssl.report import write

DATA = "mnist"
NUM_VIEWS = 4
BATCH_SIZE = 32  # groups: 128 views a step, as in the paper
EPOCHS = 10
LR = 1e-3
PRECISION = "auto"  # bf16 around the networks where this machine is faster in it
SETTINGS = {**SimVAE.paper().settings, "dim": 10}


def main(data: str = DATA) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root")
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()

    run = genssl.fit(
        SimVAE, data, settings=SETTINGS, num_views=NUM_VIEWS, batch_size=BATCH_SIZE, lr=LR, precision=PRECISION, epochs=args.epochs,
        max_seconds=args.max_seconds, limit=args.limit, seed=args.seed, data_root=args.data_root, download=args.download, out=args.out,
    )  # fmt: skip
    figures = run.evaluate()
    for probe in ("knn", "linear", "mlp"):
        fitted, random = (where["content"][probe]["test"] for where in (figures, figures["random_encoder"]))
        print(f"{probe:<8} test accuracy {fitted:.3f}   random encoder {random:.3f}")
    print(f"report: {write([run])}")


if __name__ == "__main__":
    raise SystemExit(exit_status(main))  # what is missing in one line, no traceback
