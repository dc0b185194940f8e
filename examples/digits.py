"""SimVAE on scikit-learn's digits: fit, look at the terms, ask for content and new views.

    python examples/digits.py

Result (seed 0, 2 cores of a Xeon, half a minute): nearest neighbours on the 10 numbers of z read 96.7% of the test digits (other writers
than in training), against 79.7% for the same encoder before any training.
"""

from __future__ import annotations

import argparse

import torch
from genssl.models import SimVAE

import genssl

NUM_VIEWS = 4
EPOCHS = 200
SEED = 0
SETTINGS = {
    "dim": 10,
    "view_scale": 0.15**0.5,  # standard deviation of z_j around y; the paper's 0.15 is the variance
    "likelihood_scale": 0.02**0.5,
    "content_scale": None,  # flat p(y), the paper's choice
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out")
    args = parser.parse_args()

    # Each image gives a group of NUM_VIEWS augmented views; the data set brings its own gentle augmentation.
    run = genssl.fit(
        SimVAE,
        "digits",
        settings=SETTINGS,
        num_views=NUM_VIEWS,
        epochs=args.epochs,
        seed=SEED,
        limit=args.limit,
        out=args.out,
    )

    # The three slots of the objective, measured on groups of the test split: [G] nats each.
    groups = run.groups("test", n=100)
    terms = run.method.objective.terms(run.method.model, run.method.guide, groups)
    print(f"reconstruction {terms.reconstruction.mean():8.2f} nats a group")
    print(f"entropy        {terms.entropy.mean():8.2f}")
    print(f"prior          {terms.prior.mean():8.2f}")

    # What the model says about content: q(y | x_1..x_J), a Normal in closed form, surer with every view.
    with torch.no_grad():
        for views in (1, 2, NUM_VIEWS):
            some = genssl.Groups(groups.x[:, :views])
            print(
                f"content from {views} view{'s'[: views > 1]}: standard deviation {run.method.content(some).stddev.mean():.3f}"
            )
        next_view = run.method.next_view(run.method.encode(groups.x).mean)
        print(f"new views of the first group: {tuple(run.method.decode(next_view.sample()[:1]).shape)}")

    figures = run.evaluate()
    for probe in ("knn", "linear", "mlp"):
        fitted, random = (where["content"][probe]["test"] for where in (figures, figures["random_encoder"]))
        print(f"{probe:<8} test accuracy {fitted:.3f}   random encoder {random:.3f}")


if __name__ == "__main__":
    main()
