"""A decoder for methods without one, fitted to frozen representations: what of x they still hold."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from genssl.errors import NonFiniteError, SettingsError
from genssl.evaluation.inputs import SPLITS
from genssl.evaluation.items import batches, count, several_modalities
from genssl.evaluation.measuring import measuring
from genssl.fit.randomness import generators_kept, seed_weights, stream_seed
from genssl.networks import default_network, make_decoder

BATCH, RATE, PATIENCE = 128, 3e-3, 5
FEWEST_EPOCHS, FEWEST_ITEMS = 3, 1000
WORK = 8e12
"""Floating-point operations of a fit, gradients included; about a minute of two processor cores."""
Pair = tuple[Tensor, Tensor]  # z [N, D] and x [N, *event]


class Standardised(nn.Module):
    """(z - mean) / std of the representations it was made from [N, D]; a dimension that is constant there becomes 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        mean, std = z.double().mean(0), z.double().std(0, correction=0)
        dead = std <= 1e-6 * (1e-6 + mean.abs())  # the rounding of float32
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", torch.where(dead, 0.0, 1 / torch.where(dead, 1.0, std)).float())

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.mean) * self.scale


def adhoc_decoder(
    run: Any, epochs: int = 15, limit: int = 10000, seed: int | None = None
) -> tuple[nn.Module | None, dict[str, Any]]:
    r"""Fit the default decoder of this event shape to frozen representations, E[x | z] ~ d(z); the method is not touched.

        minimise over d    mean_n ||d(z_n) - x_n||^2,    z_n the mean of encode(x_n) of clean training items

    (Bizeul et al. 2024, arXiv:2402.01399, A.7.6, for SimCLR and VICReg: the decoders of Tables 3b and 4b, squared error, frozen encoder,
    Adam, 10 to 80 epochs to the least validation error; their rate is not known.) Here Adam with cosine decay from 3e-3 to 0 over `epochs`,
    batches of 128 (smaller where training has fewer than 80 of them), z standardised in front of the decoder; it stops after 5
    epochs without a better validation error, and the best weights are kept. (FashionMNIST: lower in 15 epochs than at a constant
    1e-3 in 40.) At most `limit` drawn items of training and test, a quarter of it of validation. A convolutional decoder of large images
    gets fewer epochs (3 at least), then fewer training items (1000 at least), so that a fit takes no more than WORK operations, the same
    on every machine; the figures tell both.

    Returns (decoder z [N, D] -> [N, *event], in eval mode, on the run's device; figures):

        mse             mean squared error per value on test; images are in [0, 1]
        baseline_mse    the same of predicting the training mean for every item: about what a collapsed z gives
        log_likelihood  mean over test items of log N(x; d(z), s^2 I), nats, s^2 the error on validation (likelihood_scale is s)
        validation_mse, epochs (to the best), epochs_planned, items {train, validation, test}

    or (None, {"reason": ...}) where items have no shape to decode to. The mse is no bound on what z holds: d is limited, and of few
    items it learns less than a decoder that was trained with the encoder; features far from the order of 1 fit slowly. The density
    is of grey values as real numbers, so it may be positive. The same seed (default: the run's) gives the same figures; run and
    torch's generators are left bit-identical.

    Raises SettingsError (epochs, limit), NonFiniteError (representations, or a decoder that diverged).
    """
    if epochs < 1 or limit < 8:
        raise SettingsError(f"adhoc_decoder: epochs = {epochs}, limit = {limit}, expected at least 1 epoch and 8 items")
    splits = {name: getattr(run.data, name) for name in SPLITS}
    if reason := _no_items(splits):
        return None, {"reason": reason}
    sizes = {"train": limit, "validation": limit // 4, "test": limit}
    with measuring(run.method):
        train, validation, test = (_represented(run, name, splits[name], sizes[name]) for name in SPLITS)
    seed = stream_seed(int(run.config.get("seed") or 0) if seed is None else seed, "adhoc_decoder")
    shape = tuple(train[1].shape[1:])
    decoder = new_decoder(train[0], shape, seed)
    epochs, items = affordable(decoder, train[0], epochs)
    if items < len(train[0]):
        drawn = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))[:items].to(train[0].device)
        train = (train[0][drawn], train[1][drawn])
    best, epoch = _fit(decoder, train, validation, epochs, seed)
    if not math.isfinite(best):
        raise NonFiniteError(
            "adhoc_decoder: the decoder diverged; bring the items to the order of 1, expected for features"
        )
    mse, variance = _mse(decoder, test), max(best, torch.finfo(torch.float32).eps ** 2)
    return decoder, {
        "mse": mse,
        "baseline_mse": float((test[1].double() - train[1].double().mean(0)).square().mean()),
        "log_likelihood": -0.5 * math.prod(shape) * (math.log(2 * math.pi * variance) + mse / variance),
        "likelihood_scale": math.sqrt(variance),
        "validation_mse": best,
        "epochs": epoch,
        "epochs_planned": epochs,
        "items": {name: len(z) for name, (z, _) in zip(SPLITS, (train, validation, test), strict=True)},
    }


def new_decoder(z: Tensor, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """The default decoder of an event shape behind the standardisation of representations z [N, D], on their device."""
    with generators_kept():
        network = make_decoder(default_network(shape), z.shape[1], shape, sigmoid=len(shape) == 3)
        seed_weights(network, seed, "adhoc_decoder")
    return nn.Sequential(Standardised(z), network).to(z.device)


def affordable(decoder: nn.Module, z: Tensor, epochs: int, work: float = WORK) -> tuple[int, int]:
    """(epochs, training items) of a fit to z [N, D] that takes at most `work` operations, where not the least of both takes more."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(z[:BATCH])
    each = 3 * counter.get_total_flops() / len(z[:BATCH])  # forward, gradients of inputs and of weights
    fitting = work / (each * len(z)) if each else math.inf
    epochs = min(epochs, max(FEWEST_EPOCHS, int(min(fitting, epochs))))
    return epochs, min(len(z), max(FEWEST_ITEMS, int(len(z) * min(1.0, fitting / epochs))))


def _no_items(splits: dict[str, Any]) -> str:
    """Why there is nothing to fit to, or nothing."""
    if any(several_modalities(split) for split in splits.values()):
        return "the views are of several modalities, and one decoder gives one"
    if empty := [name for name, split in splits.items() if count(split) == 0]:
        return f"the data have no {' and no '.join(empty)} items"
    x, _ = next(batches(splits["train"], 1))
    return "" if x.is_floating_point() else "the items are ids, which have no squared error"


def _represented(run: Any, name: str, split: Any, limit: int) -> Pair:
    parts = [(run.represent(x).flatten(1), x) for x, _ in batches(split, limit)]
    z, x = torch.cat([z for z, _ in parts]), torch.cat([x for _, x in parts])
    if not bool(torch.isfinite(z).all()):
        bad = int((~torch.isfinite(z).all(1)).sum())
        raise NonFiniteError(
            f"adhoc_decoder: {bad} of {len(z)} {name} representations are not finite; the run has diverged, lower lr"
        )
    return z.float(), x.to(z.device).float()


def _fit(decoder: nn.Module, train: Pair, validation: Pair, epochs: int, seed: int) -> tuple[float, int]:
    """Train to the least validation error and leave the decoder there, in eval mode; (that error, its epoch)."""
    z, x = train
    batch = max(16, min(BATCH, len(z) // 80))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(z) / batch))
    best, at, weights = math.inf, 0, copy.deepcopy(decoder.state_dict())
    for epoch in range(1, epochs + 1):
        decoder.train()
        for place in torch.randperm(len(z), generator=generator).to(z.device).split(batch):
            with torch.enable_grad():
                loss = (decoder(z[place]) - x[place]).square().mean()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            schedule.step()
        if (error := _mse(decoder, validation)) < best:
            best, at, weights = error, epoch, copy.deepcopy(decoder.state_dict())
        elif epoch - at >= PATIENCE:
            break
    decoder.load_state_dict(weights)
    decoder.eval()
    return best, at


@torch.no_grad()
def _mse(decoder: nn.Module, pair: Pair) -> float:
    decoder.eval()
    total = torch.zeros((), dtype=torch.float64, device=pair[0].device)
    for z, x in zip(pair[0].split(1024), pair[1].split(1024), strict=True):
        total += (decoder(z) - x).double().square().sum()
    return float(total) / pair[1].numel()
