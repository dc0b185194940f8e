"""What a fitted model generates: the images of genssl.evaluation.generated, and how far they are from real ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genssl.evaluation.decoding import decodes
from genssl.evaluation.frechet import FEATURES, RULER_ITEMS, Classifier, classifier_features, frechet_distance
from genssl.evaluation.generated import (
    BLOCK,
    FIT_ITEMS,
    Decode,
    Generated,
    Traversals,
    class_samples,
    class_sizes,
    decoder_of,
    draw,
    draw_classes,
    gaussian_samples,
    next_views,
    represented,
    samples,
    traversals,
)
from genssl.evaluation.items import batches, count, several_modalities
from genssl.evaluation.sample_quality import kernel_distance, precision_recall

__all__ = [
    "Generated",
    "Traversals",
    "class_samples",
    "gaussian_samples",
    "generation_figures",
    "next_views",
    "samples",
    "traversals",
]

ITEMS = 5000
RULER_SEED, RULER_VALUES = 0, 2**26  # the classifier's seed, and how many values of training items it is shown at most


def generation_figures(
    run: Any, decode: Decode | None = None, limit: int = ITEMS, features: Classifier | None = None
) -> dict[str, Any] | str:
    """The figures `generation.frechet` of evaluation.json, or why there are none.

        features         whose features the distances are in: those of a small classifier of the training labels, no FID
        accuracy         of that classifier on these test items; None where they have no labels
        items            N of each set, at most `limit` and the same for all: the bias of a distance depends on it
        reconstructions  test items against decode(mean of q(z | x)) of the same items. As pairs share the noise of
                         sampling, it can be below the reference
        samples          test items against `class_samples`, with as many of each class as training has
        unconditional    test items against `samples`
        reference        test items against training items: what as many real items reach, the floor of the others
        kernel           of the same four sets their `kernel_distance`: of independent items without bias from N; of classes
                         in fixed shares, as here, below 0 by about c / N where the distance is small
        precision        their `precision_recall`, k = 3: the share of each set that lies where test items do,
        recall           and the share of test items that lie where the set does
        law              what z was drawn from

    Frechet distances are in units of the total variance of the features of training items (`frechet_distance`,
    `classifier_features`): a generator of one image only has about 1 or more. For the kernel each feature has
    variance 1 on average, and mean 0, over training items. The classifier is seeded by 0 whatever the run's seed, one ruler
    for all runs on the same training items (`features` takes one that was fitted before). It is shown training labels
    only, and nothing is chosen on test. What tells none of its classes apart it hardly sees. The reference is of items
    that it was trained on: of few of them it knows some by heart, and no N closes that gap (sprites, 6400 training
    items: kernel 0.6, recall 0.49; FashionMNIST: -0.002 and 0.88).

    For scale, FashionMNIST at N = 5000: the reference is 0.001 (0.02 at N = 500), noise of standard deviation 0.1 on
    the pixels is at 0.04, a blur of 1.2 pixels at 0.14, a class left out at 0.03, one class alone at 1.1.

    decode: for a method without a trained decoder, as in `samples`. Run and torch's generators are left as they were.
    Raises NonFiniteError.
    """
    train, test = run.data.train, run.data.test
    if reason := _no_figures(run, decode):
        return reason
    number = min(limit, count(train), count(test))
    if number <= FEATURES:
        return f"{number} items of training and test, and {FEATURES} features need more"
    with decoder_of("generation_figures", run, decode) as decoder:
        if features is None:
            items, classes = _items_for_ruler(run)
            if len(class_sizes(classes)) < 2:
                return "the labels of the training items are of fewer than two classes, which gives no features"
            features = classifier_features(items, classes, RULER_SEED)
        z, label = represented("generation_figures", run, FIT_ITEMS)
        if label is None or not class_sizes(label):
            return "the training items that the Gaussians are fitted to have no labels"
        shares = _shares(class_sizes(label), number)
        drawn = {
            "samples": torch.cat(list(draw_classes(run, z, label, shares).values())),
            "unconditional": draw(run, z, number),
        }
        real, reconstructed, accuracy = _looked_at(run, features, decoder, number)
        sets = {"reconstructions": reconstructed} | {
            name: torch.cat([features(decoder(part).to(real)) for part in rows.split(BLOCK)])
            for name, rows in drawn.items()
        }
        sets["reference"] = torch.cat([features(x.to(real.device)) for x, _ in batches(train, number)])
        unit = FEATURES**0.5  # in which the variance of a feature is 1 on average
        kernel = {name: kernel_distance(unit * real, unit * found) for name, found in sets.items()}
        covered = {name: precision_recall(real, found) for name, found in sets.items()}
        return {
            "features": f"{FEATURES} of a small classifier of {features.trained_on} training items: no FID",
            "accuracy": accuracy,
            "items": number,
            **{name: frechet_distance(real, found) for name, found in sets.items()},
            "kernel": kernel,
            "precision": {name: found.precision for name, found in covered.items()},
            "recall": {name: found.recall for name, found in covered.items()},
            "law": f"Gaussians (samples: of each class) of {len(z)} training representations, not the model's prior",
        }


def _shares(counts: dict[int, int], number: int) -> dict[int, int]:
    """`number` divided among the classes as their items are, by largest remainders."""
    total = sum(counts.values())
    out = {value: size * number // total for value, size in counts.items()}
    most = sorted(counts, key=lambda value: -(counts[value] * number % total))
    return out | {value: out[value] + 1 for value in most[: number - sum(out.values())]}


def _no_figures(run: Any, decode: Decode | None) -> str:
    """Why there is nothing to measure, or nothing."""
    train, test = run.data.train, run.data.test
    if several_modalities(train):
        return "the views are of several modalities, and one decoder gives one"
    if empty := [name for name, split in (("training", train), ("test", test)) if count(split) == 0]:
        return f"the data have no {' and no '.join(empty)} items"
    if decode is None and not decodes(run.method):
        return "the method has no trained decoder, and none was given (decode=)"
    x, label = next(batches(train, 1))
    if not x.is_floating_point():
        return "the items are ids, which have no features"
    if label is None:
        return "the training items have no labels, and the features are those of a classifier of them"
    if label.dim() != 1:
        return "the labels of the training items are not one class for each"
    return ""


def _items_for_ruler(run: Any) -> tuple[Tensor, Tensor]:
    """Training items with labels for the classifier, fewer where they are large."""
    limit = min(RULER_ITEMS, max(1, RULER_VALUES // math.prod(run.data.event_shape)))
    found = [(x.to(run.device), y.to(run.device)) for x, y in batches(run.data.train, limit) if y is not None]
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def _looked_at(run: Any, features: Classifier, decode: Decode, number: int) -> tuple[Tensor, Tensor, float | None]:
    """Features of test items and of their reconstructions, and the accuracy of the classifier on those with a label."""
    real, reconstructed, right = [], [], [torch.zeros(0, dtype=torch.bool)]
    for x, label in batches(run.data.test, number):
        x = x.to(run.device)
        real.append(features(x))
        reconstructed.append(features(decode(run.represent(x).flatten(1)).to(real[-1])))
        if label is not None and label.dim() == 1:
            label = label.to(run.device)
            right.append((features.classify(x) == label)[label >= 0].cpu())
    known = torch.cat(right)
    return torch.cat(real), torch.cat(reconstructed), float(known.double().mean()) if len(known) else None
