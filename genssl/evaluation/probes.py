"""Probes: how well a linear and a two-layer classifier read the labels off frozen representations."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genssl.evaluation.inputs import Labelled, labelled, standardised
from genssl.evaluation.reliability import expected_calibration_error

L2 = tuple(10.0**power for power in range(0, -7, -1))
LEARNING_RATES = (1e-2, 2e-3)


def linear_probe(
    train_z: Tensor,
    train_y: Tensor,
    validation_z: Tensor,
    validation_y: Tensor,
    test_z: Tensor,
    test_y: Tensor,
    seed: int = 0,
    l2: Iterable[float] = L2,
) -> dict[str, float]:
    """Multinomial logistic regression on standardised representations, its penalty chosen on validation.

        minimise over W, b    mean_n cross_entropy(W z_n + b, y_n) + (l2 / 2) ||W||^2

    The same optimum as scikit-learn's LogisticRegression at C = 1 / (l2 N), found by L-BFGS on all rows in float64; z
    is standardised by the training mean and standard deviation. The problem is convex and starts from 0, so seed
    changes nothing and is taken only so that both probes are called alike.

    Paper (Bizeul et al. 2024, appendix): one layer, Adam, 200 epochs, batch 128. Released code: Adam 3e-4, batch 64,
    200 epochs, and the MAXIMUM over epochs of the TEST accuracy, with no validation split.

    z: [N, D], y: [N] integers. Returns validation and test: fractions in [0, 1] at the penalty chosen on validation
    (the stronger one on a tie); ece: the expected calibration error of that classifier on test, in [0, 1], 15 bins
    (`expected_calibration_error`); test_best: the best test accuracy over the penalties, optimistic; l2.

    Raises ShapeError, DataError, NonFiniteError on bad tensors.
    """
    parts, classes = labelled("linear_probe", train_z, train_y, validation_z, validation_y, test_z, test_y)
    train, validation, test = _standardised(parts)
    layer = zero_layer(train.z, classes)
    scores = []
    with threads_for(train.z):
        for strength in sorted(l2, reverse=True):  # each start is the optimum of the stronger penalty before it
            minimise(layer, train, strength)
            scores.append({"l2": strength, **_figures(layer, validation, test)})
    return _chosen_on_validation(scores)


def mlp_probe(
    train_z: Tensor,
    train_y: Tensor,
    validation_z: Tensor,
    validation_y: Tensor,
    test_z: Tensor,
    test_y: Tensor,
    seed: int = 0,
    hidden: int = 256,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int = 60,
    patience: int = 12,
) -> dict[str, float]:
    """Two layers with a ReLU between them, D -> hidden -> C, on standardised representations.

    Adam with cosine decay, batches of 1024 (smaller where training has fewer than 32 of them), learning rate and epoch
    chosen on validation accuracy; a rate is given up after `patience` epochs without a better one.

    Paper (Bizeul et al. 2024, appendix): two fully connected layers with a ReLU, width not stated, Adam, 200 epochs,
    batch 128. Released code: D -> D -> C, Adam 3e-4, batch 64, 200 epochs, and the MAXIMUM over epochs of the TEST
    accuracy, with no validation split. hidden = D gives its width.

    z: [N, D], y: [N] integers. Returns validation and test: fractions in [0, 1] at the epoch and rate chosen on
    validation (the first on a tie); ece: the expected calibration error on test of the classifier of that epoch, which
    accuracy chose and not likelihood (`expected_calibration_error`); test_best: the best test accuracy over all epochs
    and rates, optimistic; lr, epoch (counted from 1). The same seed gives the same figures; torch's default generator
    is neither read nor moved.

    Raises ShapeError, DataError, NonFiniteError on bad tensors.
    """
    parts, classes = labelled("mlp_probe", train_z, train_y, validation_z, validation_y, test_z, test_y)
    train, validation, test = (Labelled(z.float(), y) for z, y in _standardised(parts))
    generator = torch.Generator().manual_seed(seed)
    first = _linear(train.z.shape[1], hidden, generator), _linear(hidden, classes, generator)
    scores: list[dict[str, float]] = []
    with threads_for(train.z):
        for rate in learning_rates:
            network = nn.Sequential(copy.deepcopy(first[0]), nn.ReLU(), copy.deepcopy(first[1])).to(train.z)
            optimizer = torch.optim.Adam(network.parameters(), lr=rate)
            best, since = -1.0, 0
            for epoch in range(1, epochs + 1):
                _train_epoch(network, optimizer, train, generator)
                found = _figures(network, validation, test)
                scores.append({"lr": rate, "epoch": epoch, **found})
                best, since = (found["validation"], 0) if found["validation"] > best else (best, since + 1)
                if since >= patience:
                    break
                optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return _chosen_on_validation(scores)


@contextmanager
def threads_for(z: Tensor) -> Iterator[None]:
    """One thread for narrow representations: their products are too small to share, and on a machine that is busy
    otherwise the threads would wait for each other many times longer than they work (measured: 102 s against 5 s)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if z.shape[1] <= 128 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chosen_on_validation(scores: list[dict[str, float]]) -> dict[str, float]:
    """The first of the best on validation; test_best beside it. The test figures choose nothing else."""
    chosen = max(scores, key=lambda score: score["validation"])
    return {**chosen, "test_best": max(score["test"] for score in scores)}


def _standardised(parts: list[Labelled]) -> list[Labelled]:
    points = standardised([part.z for part in parts])
    return [Labelled(z, part.y) for z, part in zip(points, parts, strict=True)]


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """nn.Linear with its usual initial weights, drawn from the given generator in place of torch's default one."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def zero_layer(z: Tensor, classes: int) -> nn.Linear:
    """D -> classes, all 0, in the type and on the device of z [N, D]; no generator is moved."""
    layer = nn.utils.skip_init(nn.Linear, z.shape[1], classes).to(z)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@torch.enable_grad()
def minimise(layer: nn.Linear, train: Labelled, l2: float) -> None:
    """Bring layer, from where it stands, to the optimum of `linear_probe` at this penalty."""
    optimizer = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=200,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(train.z), train.y) + 0.5 * l2 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@torch.enable_grad()
def _train_epoch(network: nn.Module, optimizer: Any, train: Labelled, generator: torch.Generator) -> None:
    batch = max(16, min(1024, len(train.y) // 32))
    order = torch.randperm(len(train.y), generator=generator).to(train.y.device)
    z, y = train.z[order], train.y[order]
    for rows in range(0, len(y), batch):
        optimizer.zero_grad()
        F.cross_entropy(network(z[rows : rows + batch]), y[rows : rows + batch]).backward()
        optimizer.step()


@torch.no_grad()
def _figures(network: nn.Module, validation: Labelled, test: Labelled) -> dict[str, float]:
    """Accuracy on both and calibration error on test, of every candidate: it costs less than to keep the weights."""
    logits = network(test.z)
    # Of test rows very far from training a float32 logit may overflow: nan_to_num leaves the probabilities finite.
    probability = logits.nan_to_num().softmax(-1)
    return {
        "validation": _accuracy(network(validation.z), validation.y),
        "test": _accuracy(logits, test.y),
        "ece": expected_calibration_error(probability, test.y),
    }


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(-1) == y).double().mean())
