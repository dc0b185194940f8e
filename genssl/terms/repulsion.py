"""Terms of the reconstruction slot that hold representations apart over the batch, in place of log p(x | z)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genssl.errors import SettingsError
from genssl.terms.attraction import positive
from genssl.terms.base import Term
from genssl.terms.batch import covariances, everywhere, pairs, unit, views
from genssl.terms.traces import Traces


class ContrastiveNormaliser(Term):
    r"""-sum_i log sum_{a != i} exp(cos(z_i, z_a) / temperature), over all other views a of the batch: {"z": [G]} nats.

    Source: Chen et al. 2020 (SimCLR, arXiv:2002.05709), the denominator of Eq. 1, summed over the anchors i of a group. Views of the
    own group are in it, the positive too. Up to constants a kernel density estimate of the aggregate entropy H[z] on the sphere.
    An anchor without a second view adds 0, but stays a negative of the others. It grows with the batch as -log N.
    """

    slots = ("reconstruction",)
    space = "sphere"
    couples = True
    guide_family = "delta"

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = positive(self, "temperature", temperature)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        z, valid = unit(views(traces, "z")), traces.groups.valid
        rows, exists = z.flatten(0, 1), valid.flatten()
        allowed = exists & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        scores = (rows @ rows.T / self.temperature).masked_fill(~allowed, -torch.inf)
        anchor = pairs(valid).any(-1)  # so there is another view, and the sum below is over something
        normaliser = torch.where(anchor.flatten()[:, None], scores, 0.0).logsumexp(-1).unflatten(0, valid.shape)
        return {"z": -torch.where(anchor, normaliser, 0.0).sum(-1)}

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"


class QueueNormaliser(Term):
    r"""-sum_i mean_{j != i} log[exp(q_i k_j / t) + sum_{n in queue} exp(q_i n / t)]: negatives from the keys of earlier batches.

    q = z and k = z_target, normalised. Source: He et al. 2020 (MoCo, arXiv:1911.05722), the denominator of Eq. 1, summed over the queries
    of a group and averaged over their keys. {"z": [G]} nats. The queue [size, D] starts as random directions and takes in the
    keys of each batch, all views, oldest out first, after the optimiser step (`update`); padded views leave the old entry.
    Keys are stale by as many steps as the queue is batches long, which a slow target network makes up for.
    """

    slots = ("reconstruction",)
    space = "sphere"
    guide_family = "delta"
    needs = frozenset({"target"})

    queue: Tensor
    place: Tensor

    def __init__(self, temperature: float = 0.2, queue_size: int = 4096, dim: int = 64) -> None:
        super().__init__()
        if queue_size < 1 or dim < 1:
            raise SettingsError(f"QueueNormaliser: queue_size = {queue_size} and dim = {dim}, expected at least 1 each")
        self.temperature = positive(self, "temperature", temperature)
        self.register_buffer("queue", torch.empty(queue_size, dim))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))  # where the next key goes
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.queue.copy_(unit(torch.randn_like(self.queue)))

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        query, key = unit(views(traces, "z")), unit(views(traces, "z_target").detach())
        # A copy: the queue is written in place after the step, perhaps before a second backward.
        negatives = (query @ self.queue.clone().to(query.dtype).T / self.temperature).logsumexp(-1)
        both = torch.logaddexp(query @ key.mT / self.temperature, negatives.unsqueeze(-1))
        chosen = pairs(traces.groups.valid)
        mean = torch.where(chosen, both, 0.0).sum(-1) / chosen.sum(-1).clamp(min=1)
        return {"z": -mean.sum(-1)}

    def update(self, traces: Traces) -> None:
        keys = unit(views(traces, "z_target")).flatten(0, 1)[-len(self.queue) :].to(self.queue.dtype)
        exists = traces.groups.valid.flatten()[-len(self.queue) :]
        place = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[place] = torch.where(exists[:, None], keys, self.queue[place])
        self.place.copy_((self.place + len(keys)) % len(self.queue))

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, queue_size={len(self.queue)}, dim={self.queue.shape[1]}"


class VarianceCovariance(Term):
    r"""-[variance (v(Z) + v(Z')) / 2 + covariance (c(Z) + c(Z'))], averaged over pairs of views: {"z": [G]}, one value for the batch.

        v(Z) = mean_d relu(1 - sqrt(Var_d + 1e-4)),   c(Z) = sum_{d != d'} Cov_dd'^2 / D      (unbiased, over the groups of the batch)

    Source: Bardes, Ponce, LeCun 2022 (VICReg, arXiv:2105.04906), Eq. 1 to 4 and 6, with the weights as released (the paper's Eq. 6 gives
    mu (v(Z) + v(Z')), twice the released code's). Bounds the aggregate's spread from below on each axis; not a log-determinant.
    """

    slots = ("reconstruction",)
    space = "plane"
    couples = True
    guide_family = "delta"

    def __init__(self, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        if not (variance >= 0 and covariance >= 0):
            raise SettingsError(
                f"VarianceCovariance: variance = {variance} and covariance = {covariance}, expected at least 0 each"
            )
        self.variance, self.covariance = float(variance), float(covariance)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        z, valid = views(traces, "z"), traces.groups.valid
        covariance = covariances(z, valid)
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        hinge = (1 - (diagonal + 1e-4).sqrt()).relu().mean(-1)
        off = (covariance.square().sum((-2, -1)) - diagonal.square().sum(-1)) / z.shape[-1]
        # Over pairs, each view's part counts alike: half of v and the whole of c, twice.
        seen = valid.sum(0) > 1
        value = torch.where(seen, self.variance * hinge + 2 * self.covariance * off, 0.0).sum() / seen.sum().clamp(
            min=1
        )
        return {"z": everywhere(-value, traces)}

    def extra_repr(self) -> str:
        return f"variance={self.variance:g}, covariance={self.covariance:g}"


class OffDiagonalCorrelation(Term):
    r"""-weight sum_{d != d'} C_dd'^2, C the cross-correlation of two views over the batch, averaged over pairs: one value for the batch.

    Source: Zbontar et al. 2021 (Barlow Twins, arXiv:2103.03230), second part of Eq. 1. {"z": [G]}. Representations are standardised over
    the batch, view by view (biased variance, eps 1e-5, as released). Decorrelates; does not by itself keep scale, which has none.
    """

    slots = ("reconstruction",)
    space = "plane"
    couples = True
    guide_family = "delta"

    def __init__(self, weight: float = 0.0051) -> None:
        super().__init__()
        self.weight = positive(self, "weight", weight)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        standard, both = _standardised(views(traces, "z"), traces.groups.valid)
        correlation = torch.einsum("gid,gje->ijde", standard, standard) / both.clamp(min=1)[..., None, None]
        squares = correlation.square()
        off = squares.sum((-2, -1)) - squares.diagonal(dim1=-2, dim2=-1).sum(-1)
        return {"z": everywhere(-self.weight * _pair_mean(off, both), traces)}

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"


class DiagonalCorrelation(Term):
    r"""-sum_d (1 - C_dd)^2, C as in OffDiagonalCorrelation, one value for the batch: the attraction of Barlow Twins, Eq. 1, first part."""

    slots = ("prior",)
    space = "plane"
    couples = True
    guide_family = "delta"

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        standard, both = _standardised(views(traces, "z"), traces.groups.valid)
        correlation = torch.einsum("gid,gjd->ijd", standard, standard) / both.clamp(min=1)[..., None]
        return {"z": everywhere(-_pair_mean((1 - correlation).square().sum(-1), both), traces)}


def _standardised(z: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """z [G, J, D] with mean 0 and variance 1 in every view over the groups that have it (biased variance + 1e-5), 0 where padded;
    and [J, J] how many groups have view i and view j."""
    weight = valid.unsqueeze(-1).to(z.dtype)
    count = weight.sum(0, keepdim=True).clamp(min=1)
    z = torch.where(valid.unsqueeze(-1), z, 0.0)
    centred = (z - z.sum(0, keepdim=True) / count) * weight
    standard = centred / (centred.square().sum(0, keepdim=True) / count + 1e-5).sqrt()
    return standard, weight[:, :, 0].T @ weight[:, :, 0]


def _pair_mean(value: Tensor, both: Tensor) -> Tensor:
    """Mean of value [J, J] over the pairs of views i < j that some group has."""
    chosen = torch.triu(both > 0, diagonal=1)
    return torch.where(chosen, value, 0.0).sum() / chosen.sum().clamp(min=1)
