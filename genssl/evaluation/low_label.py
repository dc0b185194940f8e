"""How far a handful of labels goes: a linear probe from one, five, ten labels a class, over several draws of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from genssl.errors import SettingsError
from genssl.evaluation.inputs import Labelled, labelled, standardised
from genssl.evaluation.probes import minimise, threads_for, zero_layer

PER_CLASS = (1, 5, 10)
PENALTY = 0.3


def low_label_probe(
    train_z: Tensor,
    train_y: Tensor,
    validation_z: Tensor,
    validation_y: Tensor,
    test_z: Tensor,
    test_y: Tensor,
    per_class: Iterable[int] = PER_CLASS,
    draws: int = 5,
    seed: int = 0,
) -> dict[str, dict[str, float | int]]:
    r"""The linear probe of few labels: k training rows a class, drawn at random, `draws` times; its accuracy on test.

        minimise over W, b    sum_n cross_entropy(W z_n + b, y_n) + (penalty / 2) ||W||^2,    n over the drawn rows

    The penalty is fixed at 0.3: scikit-learn's C = 1 / 0.3, `linear_probe` at l2 = 0.3 / rows. To choose it on the
    validation split would use many more labels than the probe has, and of one row a class none can be left out; so
    validation is taken only for being called like the other probes, and changes nothing. Against the best of 0.03 to 30
    on test, with 1, 5 and 10 labels a class, on raw digits and on 10-dimensional z of SimVAE (digits, FashionMNIST),
    SimCLR (MNIST) and fresh weights, 0.3 lost 1.3 points of accuracy on average and 5 at most; 1, scikit-learn's
    default, 1.7 and 7. z is standardised by all training rows that have a label, few of which the probe sees.

    z [N, D], y [N] integers. A draw is a random order of the training rows; its k rows are the first k of each class,
    so that the rows of 5 contain those of 1, and figures do not depend on which other k are asked for. A class with
    fewer than k rows gives all it has. Returns for every k, under its decimal string:

        test, std, lowest, highest   accuracy on test, in [0, 1]: mean over draws, standard deviation (over draws - 1; 0
                                     for one draw), least and largest. The spread is that of the draw of labels, not of
                                     another fit of the method
        labels, short                rows that the probe sees, and how many classes gave fewer than k
        draws

    The same seed gives the same figures; torch's default generator is neither read nor moved.

    Raises SettingsError (per_class, draws), ShapeError, DataError, NonFiniteError on bad tensors.
    """
    sizes = sorted(set(per_class))
    if not sizes or sizes[0] < 1 or draws < 1:
        raise SettingsError(
            f"low_label_probe: per_class = {sizes}, draws = {draws}, expected at least one number of labels and one"
            " draw, all at least 1; such as (1, 5, 10) and 5"
        )
    parts, classes = labelled("low_label_probe", train_z, train_y, validation_z, validation_y, test_z, test_y)
    train_points, test_points = standardised([parts[0].z, parts[2].z])
    train, test = Labelled(train_points, parts[0].y), Labelled(test_points, parts[2].y)
    number = train.y.bincount(minlength=classes)
    scores: dict[int, list[float]] = {k: [] for k in sizes}
    with threads_for(train.z):
        for order, rank in _draws(train.y, number, draws, seed):
            for k in sizes:
                rows = order[rank < k]
                scores[k].append(_accuracy(Labelled(train.z[rows], train.y[rows]), test, classes))
    return {
        str(k): {
            **_over_draws(scores[k]),
            "labels": int(number.clamp(max=k).sum()),
            "short": int((number < k).sum()),
            "draws": draws,
        }
        for k in sizes
    }


def _draws(y: Tensor, number: Tensor, draws: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each draw the rows of y [N] class by class, in random order within each, and their rank there, from 0."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.cat([torch.arange(size, device=y.device) for size in number.tolist()])
    for _ in range(draws):
        order = torch.randperm(len(y), generator=generator).to(y.device)
        yield order[y[order].argsort(stable=True)], rank


def _accuracy(train: Labelled, test: Labelled, classes: int) -> float:
    layer = zero_layer(train.z, classes)
    minimise(layer, train, PENALTY / len(train.y))
    with torch.no_grad():
        return float((layer(test.z).argmax(-1) == test.y).double().mean())


def _over_draws(scores: list[float]) -> dict[str, float]:
    values = torch.tensor(scores, dtype=torch.float64)
    return {
        "test": float(values.mean()),
        "std": float(values.std()) if len(scores) > 1 else 0.0,
        "lowest": min(scores),
        "highest": max(scores),
    }
