"""Quantities of a whole batch beside groups that lack views: to whom they are given, and what follows for the optimum."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from genssl.models import LDM, VICReg
from torch import nn

from genssl import Groups, Objective, estimators, terms
from genssl.errors import DataError
from genssl.terms.batch import whiten
from genssl.training_set import training_place


def values(term, z, mask):
    """The term at z [G, J, D], beside constants."""
    groups = Groups(z, mask)

    def guide(groups):
        with groups.plate:
            pyro.sample("z", dist.Delta(groups.x).to_event(2))

    objective = Objective(**{slot: term if slot == term.slots[0] else terms.Constant() for slot in terms.SLOTS})
    return getattr(objective.terms(None, guide, groups), term.slots[0])


def cut(groups=40, views=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(groups, views, 2, dtype=torch.float64, generator=generator)
    mask = torch.rand(groups, views, generator=generator) < 0.6
    mask[:, 1] |= ~mask.any(1)
    return z, mask


def test_a_group_has_the_joint_entropy_of_as_many_views_as_it_has(float64):
    z, mask = cut()
    seen = values(terms.LogDeterminantEntropy(shrinkage=0.1), z, mask)
    shifted = [row[valid] for row, valid in zip(z, mask, strict=True)]
    for group, own in zip(seen, shifted, strict=True):
        n = len(own)
        rows = torch.stack([other[:n].flatten() for other in shifted if len(other) >= n])
        torch.testing.assert_close(group, estimators.logdet_entropy(rows, 0.1))


def test_a_group_has_the_marginal_entropies_of_the_views_that_it_has(float64):
    z, mask = cut()
    seen = values(terms.LogDeterminantEntropy(mi_weight=1.0, shrinkage=0.1), z, mask)
    marginal = torch.stack([estimators.logdet_entropy(z[mask[:, j], j], 0.1) for j in range(3)])
    torch.testing.assert_close(seen, (mask * marginal).sum(1))


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_joint_optimum_does_not_depend_on_how_many_groups_are_whole(share, float64):
    """E (z - z')^2 = 2 view_scale^2 and var z = content_scale^2 + view_scale^2 with single views among the pairs."""
    torch.manual_seed(0)
    network = nn.Linear(2, 1, bias=False)
    network.weight.data = torch.tensor([[0.7, 0.4]])
    method = LDM(
        network,
        view_scale=0.5,
        content_scale=1.0,
        reconstruction=terms.LogDeterminantEntropy(shrinkage=0.0),
    )
    x = torch.stack([torch.randn(1000, 1).expand(1000, 2), torch.randn(1000, 2)], -1)
    mask = torch.ones(1000, 2, dtype=torch.bool)
    mask[int(share * 1000) :, 1] = False
    groups, loss = Groups(x, mask), method.objective(method.model, method.guide)
    optimiser = torch.optim.Adam(method.parameters(), 0.02)
    for _ in range(400):
        optimiser.zero_grad()
        loss(groups).backward()
        optimiser.step()
    z = network(x)[..., 0].detach()
    assert float((z[:, 0] - z[:, 1]).square().mean()) == pytest.approx(0.5, rel=0.1)
    assert float(z.var()) == pytest.approx(1.25, rel=0.1)


@pytest.mark.parametrize(
    "term",
    [terms.VarianceCovariance(), terms.OffDiagonalCorrelation(), terms.DiagonalCorrelation(), terms.Uniformity()],
)
def test_what_is_of_the_batch_goes_to_groups_with_a_pair(term, float64):
    z, mask = cut()
    seen, paired = values(term, z, mask), mask.sum(1) > 1
    assert bool((seen[~paired] == 0).all())
    assert bool((~paired).any())
    assert float(seen[paired].std()) == 0
    assert float(seen[paired][0]) != 0


def test_vicreg_keeps_the_ratio_of_its_parts_when_pairs_are_few(float64):
    """Invariance : variance is that of the pairs alone, and both are scaled by their share."""
    torch.manual_seed(0)
    network = nn.Linear(2, 3)
    method = VICReg(network)
    z, _ = cut()
    mask = torch.ones(40, 3, dtype=torch.bool)
    mask[20:, 1:] = False
    network.requires_grad_(False)
    term = method.objective.terms(None, method.guide, Groups(z, mask))
    pairs = method.objective.terms(None, method.guide, Groups(z[:20]))
    assert float(term.prior.mean()) == pytest.approx(0.5 * float(pairs.prior.mean()))
    variance = -method.objective.reconstruction.parts[0][1](
        method.objective.run(None, method.guide, Groups(z, mask))[1]
    )["z"]
    assert float(variance[20:].abs().max()) == 0
    assert float(term.reconstruction.mean()) == pytest.approx(-0.5 * float(variance[0]))


def test_whitening_without_shrinkage_holds_every_direction(float64):
    z = torch.randn(200, 2, 1) * torch.ones(4) + 1e-4 * torch.randn(200, 2, 4)  # nearly one direction
    valid = torch.ones(200, 2, dtype=torch.bool)
    eye = torch.eye(4).expand(2, 4, 4)
    torch.testing.assert_close(terms.batch.covariances(whiten(z, valid, 0.0), valid), eye, atol=1e-6, rtol=0)
    dropped = terms.batch.covariances(whiten(z, valid, 1e-3), valid).diagonal(dim1=1, dim2=2)
    assert float(dropped[:, 1:].max()) < 0.01
    flat = torch.zeros(200, 2, 4)
    assert bool(whiten(flat, valid, 0.0).isnan().all())  # and no half of a factor
    with pytest.raises(DataError, match="4 groups in a batch and 4 dimensions"):
        values(terms.WhitenedAttraction(), z[:4], None)


def test_a_whole_shuffled_batch_is_known_by_its_index():
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    groups = Groups(torch.rand(6, 2, 3), index=order)
    assert torch.equal(training_place(groups, 6, True), order)
    assert torch.equal(training_place(groups, 6, False), torch.full((6,), -1))
    again = Groups(torch.rand(6, 2, 3))[order]
    assert torch.equal(training_place(again, 6, True), order)
    groups.rows = torch.arange(6)
    assert torch.equal(training_place(groups, 6, False), torch.arange(6))
