"""Terms that raise the aggregate entropy H[z] of representations over the batch, by an estimator of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genssl import estimators
from genssl.errors import DataError, SettingsError
from genssl.estimators.von_mises_fisher import log_kernel_integral
from genssl.host_sync import readable
from genssl.terms.attraction import positive
from genssl.terms.base import Term
from genssl.terms.batch import everywhere, unit, views
from genssl.terms.traces import Traces


class AggregateEntropy(Term):
    r"""(1 - mi_weight) H[z_1..z_J] + mi_weight sum_j H[z_j] over the groups of the batch, one value for all complete ones: {"z": [G]} nats.

    With mi_weight 0 the JOINT entropy of latent distribution matching (arXiv:2605.03517, Eq. 5: log-likelihood of the pair plus this is
    -KL[aggregate || model]); with 1 the sum of the marginals, which adds the mutual information of the views (Eq. 6), and so also rewards
    views that agree exactly. A group with fewer views has the entropies of those that it has (which for the joint one takes views to be
    exchangeable), as its log p(z) covers those. On the plane it needs a proper p(y): with a flat one nothing bounds the scale of
    z, and it diverges.
    """

    slots = ("reconstruction",)
    space = "plane"
    couples = True
    guide_family = "delta"

    def __init__(self, mi_weight: float = 0.0) -> None:
        super().__init__()
        if not 0 <= mi_weight <= 1:
            raise SettingsError(f"{type(self).__name__}: mi_weight = {mi_weight}, expected a number in [0, 1]")
        self.mi_weight = float(mi_weight)

    def marginal(self, z: Tensor, valid: Tensor) -> Tensor:
        """H of one view, z [G, D], valid [G]."""
        raise NotImplementedError

    def joint(self, z: Tensor, valid: Tensor) -> Tensor:
        """H of all views together, z [G, J, D], valid [G]."""
        return self.marginal(z.flatten(1), valid)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        z, valid = views(traces, "z"), traces.groups.valid
        value = z.new_zeros(len(z))
        if self.mi_weight < 1:
            ragged = traces.groups.mask is not None
            joint = self._ragged(z, valid) if ragged else self._checked(z, valid.all(1)).expand(len(z))
            value = value + (1 - self.mi_weight) * joint
        if self.mi_weight > 0:
            each = [torch.where(valid[:, j], self.marginal(z[:, j], valid[:, j]), 0.0) for j in range(z.shape[1])]
            value = value + self.mi_weight * sum(each)
        return {"z": value}

    def _ragged(self, z: Tensor, valid: Tensor) -> Tensor:
        """[G] H of as many views as a group has: of its first n over the groups that have n."""
        order = (~valid).byte().argsort(dim=1, stable=True)
        z, count = z.gather(1, order.unsqueeze(-1).expand_as(z)), valid.sum(1)
        value = z.new_zeros(len(z))
        for n in range(1, z.shape[1] + 1):
            here = count == n
            if readable(here) and not bool(here.any()):
                continue
            enough = count >= n
            # On a device it is not known whether there are such groups: where there are none, something finite is left out below.
            value = torch.where(here, self._checked(z[:, :n], enough | ~enough.any()), value)
        return value

    def _checked(self, z: Tensor, valid: Tensor) -> Tensor:
        if readable(valid) and int(valid.sum()) < 2:
            raise DataError(
                f"{type(self).__name__}: {int(valid.sum())} groups of the batch have {z.shape[1]} views, expected at least 2 for a "
                "joint entropy; give mi_weight=1, or fewer views"
            )
        return self.joint(z, valid)

    def extra_repr(self) -> str:
        return f"mi_weight={self.mi_weight:g}"


class LogDeterminantEntropy(AggregateEntropy):
    r"""The entropy of the Gaussian with the batch's covariance, (D/2)(1 + log 2 pi) + 1/2 log |S| (genssl.estimators.logdet_entropy).

    shrinkage: S is drawn that much towards a multiple of I; a joint covariance has J D dimensions and nearly equal views, so it needs
    clearly more groups than that, or some shrinkage.
    """

    def __init__(self, mi_weight: float = 0.0, shrinkage: float = 1e-3) -> None:
        super().__init__(mi_weight)
        self.shrinkage = float(shrinkage)

    def marginal(self, z: Tensor, valid: Tensor) -> Tensor:
        return estimators.logdet_entropy(z, self.shrinkage, valid=valid)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, shrinkage={self.shrinkage:g}"


class NearestNeighbourEntropy(AggregateEntropy):
    """Kozachenko and Leonenko's estimate from the distance to the k-th neighbour (genssl.estimators.knn_entropy)."""

    def __init__(self, mi_weight: float = 0.0, k: int = 3, clip: float | None = 0.9) -> None:
        super().__init__(mi_weight)
        self.k, self.clip = k, clip

    def marginal(self, z: Tensor, valid: Tensor) -> Tensor:
        return estimators.knn_entropy(z, self.k, self.clip, valid=valid)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k={self.k}, clip={self.clip}"


class KernelDensityEntropy(AggregateEntropy):
    """A kernel estimate with Gaussian kernels of a fixed width (genssl.estimators.kde_entropy).

    Where points are far apart for the kernels, each sees its nearest neighbour alone and the estimate is that distance squared over
    2 bandwidth^2: it grows on, and no longer as an entropy.
    """

    def __init__(self, mi_weight: float = 0.0, bandwidth: float = 1.0) -> None:
        super().__init__(mi_weight)
        self.bandwidth = positive(self, "bandwidth", bandwidth)

    def marginal(self, z: Tensor, valid: Tensor) -> Tensor:
        return estimators.kde_entropy(z, self.bandwidth, valid=valid)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bandwidth={self.bandwidth:g}"


class SphericalEntropy(AggregateEntropy):
    r"""A kernel estimate on the sphere with von Mises-Fisher kernels of concentration 1 / temperature; z is normalised here.

    The joint form takes the product of the views' kernels (arXiv:2605.03517, Eq. 47). With mi_weight 1 and an attraction of
    concentration 2 / temperature it is near SimCLR at two views, whose normaliser is over the views of both (ContrastiveNormaliser), the
    positive among them: the same in the limit of many groups.
    """

    space = "sphere"

    def __init__(self, mi_weight: float = 0.0, temperature: float = 0.5) -> None:
        super().__init__(mi_weight)
        self.temperature = positive(self, "temperature", temperature)

    def marginal(self, z: Tensor, valid: Tensor) -> Tensor:
        return self.joint(z.unsqueeze(1), valid)

    def joint(self, z: Tensor, valid: Tensor) -> Tensor:
        z, views_of_group = unit(z), z.shape[1]
        rows = z.flatten(1)
        allowed = valid & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        scores = ((rows @ rows.T - views_of_group) / self.temperature).masked_fill(~allowed, -torch.inf)
        density = torch.where(valid[:, None], scores, 0.0).logsumexp(1)
        count = valid.sum().clamp(min=2)
        constant = views_of_group * log_kernel_integral(z.shape[-1], 1 / self.temperature) + (count - 1).log()
        return constant - torch.where(valid, density, 0.0).sum() / count

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, temperature={self.temperature:g}"


class Uniformity(Term):
    r"""-weight log mean_{a < b} exp(-t || zhat_a - zhat_b ||^2) over all views of the batch: one value for the batch, {"z": [G]}.

    Source: Wang and Isola 2020 (arXiv:2005.10242), Eq. 6. The logarithm is outside the mean, so by Jensen it is at most the matching
    kernel estimate of H[z] up to constants.
    """

    slots = ("reconstruction",)
    space = "sphere"
    couples = True
    guide_family = "delta"

    def __init__(self, t: float = 2.0, weight: float = 1.0) -> None:
        super().__init__()
        self.t, self.weight = positive(self, "t", t), positive(self, "weight", weight)

    def forward(self, traces: Traces) -> Mapping[str, Tensor]:
        z, valid = unit(views(traces, "z")).flatten(0, 1), traces.groups.valid.flatten()
        return {"z": everywhere(-self.weight * estimators.uniformity(z, self.t, valid=valid), traces)}

    def extra_repr(self) -> str:
        return f"t={self.t:g}, weight={self.weight:g}"
