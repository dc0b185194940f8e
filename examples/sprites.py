"""What a representation keeps: SimVAE on sprites, whose content (shape) and style (place, size, orientation, brightness) are known.

    python examples/sprites.py                      # 32x32 grey, rendered here; about 4 minutes on 2 CPU cores
    python examples/sprites.py --colour             # hue in place of brightness, the paper's convolutional networks

A group is one shape in several styles. Result and hardware: results/generative.md holds the measured tables.
"""

from __future__ import annotations

import argparse

from genssl.models import SimVAE

import genssl
from genssl.report import write

NUM_VIEWS = 4
BATCH_SIZE = 128
LR = 1e-3
SETTINGS = SimVAE.paper().settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--colour", action="store_true")
    parser.add_argument(
        "--correlation", type=float, default=0.0, help="0: style says nothing about the shape; 1: it is fixed by it"
    )
    parser.add_argument("--max-seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()

    data = f"sprites:num={args.number},size={args.size},colour={args.colour},correlation={args.correlation}"
    run = genssl.fit(
        SimVAE, data, settings=SETTINGS, num_views=NUM_VIEWS, batch_size=BATCH_SIZE, lr=LR, precision="auto", epochs=500,
        max_seconds=args.max_seconds, seed=args.seed, out=args.out,
    )  # fmt: skip
    figures = run.evaluate()
    for probe in ("knn", "linear", "mlp"):
        fitted, random = (where["content"][probe]["test"] for where in (figures, figures["random_encoder"]))
        print(f"shape, {probe:<8} test accuracy {fitted:.3f}   random encoder {random:.3f}")
    print(f"report with the style factors: {write([run])}")


if __name__ == "__main__":
    main()
