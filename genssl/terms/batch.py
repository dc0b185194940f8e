"""What the terms of representations have in common: the views of a batch, and means over the pairs of a group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genssl.distributions import at_least_float32
from genssl.errors import DataError, ShapeError, SiteError
from genssl.terms.traces import Traces


def views(traces: Traces, site: str) -> Tensor:
    """[G, J, D] the value of a guide site, in at least float32; padded views are whatever the guide left there."""
    found = traces.guide.get(site)
    if found is None:
        raise SiteError(
            f"the objective reads the guide site '{site}', but the guide has only {', '.join(traces.guide)}; sample it there, or "
            "replace the term"
        )
    groups = traces.groups
    if found.value.dim() != 3 or found.value.shape[:2] != (groups.num_groups, groups.num_views):
        raise ShapeError(
            f"guide site '{site}': value of shape {list(found.value.shape)}, expected [{groups.num_groups}, {groups.num_views}, D], a "
            "representation of every view"
        )
    return at_least_float32(found.value)


def unit(z: Tensor) -> Tensor:
    """z / ||z||, with 0 for 0."""
    return F.normalize(z, dim=-1)


def pairs(valid: Tensor) -> Tensor:
    """[G, J, J] bool from [G, J]: ordered pairs of two different views that both exist; DataError for groups of one view only."""
    if valid.shape[1] < 2:
        raise DataError(
            "this objective compares views, but every group has one; give at least two: --views 2 (num_views=2)"
        )
    different = ~torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return valid.unsqueeze(2) & valid.unsqueeze(1) & different


def pair_mean(value: Tensor, valid: Tensor) -> Tensor:
    """Mean of value [G, J, J] over the ordered pairs of each group -> [G]; 0 for a group of one view.

    Both orders of a pair count alike, so for a symmetric value this is the mean over unordered pairs.
    """
    chosen = pairs(valid)
    return torch.where(chosen, value, 0.0).sum((1, 2)) / chosen.sum((1, 2)).clamp(min=1)


def anchor_sum(value: Tensor, valid: Tensor) -> Tensor:
    """Sum over views i of the mean of value [G, i, j] over the other views j -> [G]; a view without another adds 0."""
    chosen = pairs(valid)
    return (torch.where(chosen, value, 0.0).sum(2) / chosen.sum(2).clamp(min=1)).sum(1)


def everywhere(value: Tensor, traces: Traces) -> Tensor:
    """A quantity of the whole batch [] to each of its groups [G], so that the mean over groups is that quantity.

    Of groups with several views to those that have a pair: attractions are means over all groups, in which the others are 0, so that
    both sides of a method keep their ratio however ragged the groups are.
    """
    everyone = value.expand(traces.groups.num_groups)
    if traces.groups.mask is None or traces.groups.num_views == 1:
        return everyone
    return torch.where(traces.groups.count > 1, everyone, 0.0)


def covariances(z: Tensor, valid: Tensor) -> Tensor:
    """[J, D, D] unbiased covariance of every view over the groups that have it; z [G, J, D]."""
    weight = valid.T.unsqueeze(-1).to(z.dtype)  # [J, G, 1]
    count = weight.sum(1, keepdim=True)
    z = torch.where(valid.T.unsqueeze(-1), z.transpose(0, 1), 0.0)
    centred = (z - z.sum(1, keepdim=True) / count.clamp(min=1)) * weight
    return centred.mT @ centred / (count - 1).clamp(min=1)


def whiten(z: Tensor, valid: Tensor, shrinkage: float) -> Tensor:
    """[G, J, D] L^-1 (z - mean) for every view over the groups that have it, L L^T = (1 - shrinkage) Cov + shrinkage I.

    Not a number where that is not positive definite: LAPACK leaves part of a factor, which would whiten to something.
    """
    eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    covariance = (1 - shrinkage) * covariances(z, valid) + shrinkage * eye
    factor, failed = torch.linalg.cholesky_ex(covariance, check_errors=False)  # without waiting for the device
    factor = torch.where(failed[:, None, None] > 0, torch.nan, factor)
    weight = valid.unsqueeze(-1)
    z = torch.where(weight, z, 0.0)
    centred = torch.where(weight, z - z.sum(0) / weight.sum(0).clamp(min=1), 0.0)
    return torch.linalg.solve_triangular(factor, centred.permute(1, 2, 0), upper=False).permute(2, 0, 1)
