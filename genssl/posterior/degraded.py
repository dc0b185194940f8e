"""How sure a method is of inputs that are made worse: posterior scales against the strength of a degradation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genssl.errors import SettingsError
from genssl.evaluation.measuring import measuring
from genssl.fit.precision import networks_in
from genssl.fit.randomness import stream_seed
from genssl.posterior.strangeness import log_spread
from genssl.views import CorruptFeatures, Erase, GaussianBlur, Geometric, Noise

NOISE = (0.0, 0.05, 0.1, 0.2, 0.4)
BLUR = (0.0, 0.02, 0.04, 0.08, 0.16)  # of the shorter side
LOST = (0.0, 0.1, 0.25, 0.5, 0.75)

Curves = dict[str, list[tuple[float, float]]]
"""{degradation, with the unit of its strength: [(strength, value)]}, strength 0 first"""


def degradations(event_shape: Sequence[int]) -> dict[str, Mapping[float, Any]]:
    """{name: {strength: transform}}, None at strength 0: of images noise, blur, erasing and a crop, else corrupted features."""
    if len(event_shape) != 3 or event_shape[0] not in (1, 3):
        return {"share of features corrupted": {rate: CorruptFeatures(rate) if rate else None for rate in LOST}}
    side = min(event_shape[1:])
    widest = 2 * ((side - 1) // 2) - 1
    found: dict[str, Mapping[float, Any]] = {
        "noise, standard deviation": {s: Noise((s, s)) if s else None for s in NOISE},
        "share erased": {s: Erase((s, s), (1.0, 1.0), probability=1.0) if s else None for s in LOST},
        "share cropped away": {s: Geometric(crop_scale=(1 - s, 1 - s)) if s else None for s in LOST},
    }
    if widest >= 3:
        # Four standard deviations each way, as far as the image goes.
        kernel = {s: min(widest, 2 * int(4 * s * side + 1) + 1) for s in BLUR}
        blur = {s: GaussianBlur(kernel[s], (s * side, s * side)) if s else None for s in BLUR}
        found["blur, standard deviation in sides"] = blur
    return found


@torch.no_grad()
def degraded_scales(run: Any, x: Tensor) -> Curves:
    r"""Mean of log posterior scale over items and dimensions, at every strength of every degradation, less that of the clean items.

        value(s) = mean_i,d [ log scale_d(q(z | t_s(x_i))) - log scale_d(q(z | x_i)) ]

    The scale is the standard deviation of a Normal; of a spherical posterior concentration^(-1/2). A guide that knows what it has
    lost rises from 0. One that was never shown the degradation often falls: blurred and cropped images look easy to it, and nothing
    in an ELBO asks for more. x [B, *event] clean items in [0, 1]. Drawn from a stream of the run's seed.

    Raises SettingsError for a deterministic guide.
    """
    generator = torch.Generator().manual_seed(stream_seed(int(run.config.get("seed") or 0), "degraded"))
    with measuring(run.method), networks_in(run.config.get("precision", "32"), run.method, run.device):
        clean = log_scale(run.method, x.to(run.device))
        curves: Curves = {}
        for name, strengths in degradations(tuple(x.shape[1:])).items():
            curves[name] = []
            for strength, transform in strengths.items():
                worse = x if transform is None else transform(x, None, generator)
                worse = worse[0] if isinstance(worse, tuple) else worse
                value = log_scale(run.method, worse.to(run.device)) - clean
                curves[name].append((strength, float(value.mean())))
    return curves


def log_scale(method: Any, x: Tensor) -> Tensor:
    """[B] mean log scale of q(z | x) over dimensions (`log_spread`).

    Raises SettingsError for a deterministic guide.
    """
    spread = log_spread(method.encode(x))
    if spread is None:
        raise SettingsError(
            f"posterior scale: the guide of {type(method).__name__} is deterministic; take a method with a stochastic guide"
        )
    return spread.reshape(len(x), -1).mean(1).cpu()
