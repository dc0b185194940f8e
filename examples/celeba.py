"""SimVAE on CelebA at 64x64: hair colour as content (5 classes; images of none or several dropped), 40 attributes as style.

    python examples/celeba.py --data-root DIR       # DIR/celeba/img_align_celeba/*.jpg and list_*.txt; or --download
    python examples/celeba.py --target Male         # one attribute as the label instead

The paper trains 400 epochs on a GPU; on CPUs try --limit 5000 first.
"""

from __future__ import annotations

import argparse

from genssl.models import SimVAE

import genssl
from genssl.cli import exit_status
from genssl.report import write

NUM_VIEWS = 4
BATCH_SIZE = 32  # groups: 128 views a step, as in the paper
LR = 1e-3
PRECISION = "auto"  # bf16 around the networks where this machine is faster in it
SETTINGS = {**SimVAE.paper().settings, "dim": 64, "network": "conv"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root")
    parser.add_argument("--download", action="store_true")
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="take files whose MD5 is not the published one"
    )
    parser.add_argument("--target", default="hair", help="hair, or the name of an attribute")
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()

    run = genssl.fit(
        SimVAE, f"celeba:target={args.target}", settings=SETTINGS, num_views=NUM_VIEWS, batch_size=BATCH_SIZE, lr=LR, precision=PRECISION,
        epochs=args.epochs, max_seconds=args.max_seconds, limit=args.limit, num_workers=args.num_workers, seed=args.seed,
        data_root=args.data_root, download=args.download, verify=args.verify, out=args.out,
    )  # fmt: skip
    figures = run.evaluate()
    for probe in ("knn", "linear", "mlp"):
        fitted, random = (where["content"][probe]["test"] for where in (figures, figures["random_encoder"]))
        print(f"{args.target}, {probe:<8} test accuracy {fitted:.3f}   random encoder {random:.3f}")
    print(f"report: {write([run])}")


if __name__ == "__main__":
    raise SystemExit(exit_status(main))  # what is missing in one line, no traceback
