"""The loops of `published` against dense torch functions, closed forms and each other; nothing of the library is used here."""

from __future__ import annotations

import math

import published
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close as close

pytestmark = pytest.mark.usefixtures("float64")
G, J, D, K = 6, 3, 4, 5
MASK = torch.tensor(
    [[True] * 3, [True, False, True], [True, False, False], [True] * 3, [False, True, True], [False] * 3]
)


def cosines(a, b):
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def softmax_of(*shape):
    return torch.randn(*shape).softmax(-1)


def losses(z, valid=None):
    """Every loss that takes views of groups, with all further inputs functions of z alone."""
    matrix = torch.linspace(-1, 1, K * D).reshape(K, D).cos()
    with_views = {} if valid is None else {"valid": valid}
    logits, other = z @ matrix.T, z.roll(1, -1)
    scores = published.swav_scores(z, matrix, valid)
    return {
        "nt_xent": published.nt_xent(z, 0.5, **with_views),
        "moco": published.moco(z, other, matrix, 0.2, **with_views),
        "vicreg": published.vicreg(z, **with_views),
        "barlow_twins": published.barlow_twins(z, **with_views),
        "wmse": published.wmse(z, eps=0.1, **with_views),
        "wmse pooled": published.wmse(z, eps=0.1, pooled=True, **with_views),
        "simsiam": published.simsiam(other, z, **with_views),
        "byol": published.byol(other, z, **with_views),
        "dino": published.dino(logits, logits.flip(-1), matrix.sum(1), **with_views),
        "dino centre": published.dino_centre(logits, matrix.sum(1), **with_views).square().sum(),
        "swav": published.swav(scores, **with_views),
    }


# ---------------------------------------------------------------------- groups and views


def test_order_of_groups_and_of_views_does_not_matter():
    z = torch.randn(G, J, D)
    reference = losses(z)
    for permuted in (losses(z[torch.randperm(G)]), losses(z[:, [2, 0, 1]])):
        for name, value in permuted.items():
            close(value, reference[name], msg=name)


@pytest.mark.parametrize("filler", [0.0, math.nan, 1e30])
def test_a_padded_view_is_no_view(filler):
    z = torch.randn(G, 2, D)
    padded = torch.cat([z, torch.full((G, 1, D), filler)], 1)
    valid = torch.tensor([True, True, False]).expand(G, 3)
    for name, value in losses(padded, valid).items():
        close(value, losses(z)[name], msg=name)


def test_ragged_groups_are_the_mean_of_their_pairs():
    """Pair losses over groups of 3, 2, 1, 3, 2 and 0 views: those with a pair count alike, whatever stands in the rest."""
    p, z = torch.randn(G, J, D), torch.randn(G, J, D).masked_fill(~MASK[..., None], math.nan)
    alone = [published.byol(p[g : g + 1, MASK[g]], z[g : g + 1, MASK[g]]) for g in (0, 1, 3, 4)]
    close(published.byol(p, z, valid=MASK), torch.stack(alone).mean())
    close(published.simsiam(p, z, valid=MASK), torch.stack(alone).mean() / 4 - 1)


def test_float64_and_finite_gradients_with_padding():
    z = torch.randn(G, J, D).masked_fill(~MASK[..., None], 0.0).requires_grad_()
    for name, value in losses(z, MASK).items():
        assert value.dtype == torch.float64
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, z, retain_graph=True)
            assert gradient.isfinite().all(), name
            assert gradient[~MASK].abs().max() == 0, name


# ---------------------------------------------------------------------- contrastive


def test_nt_xent_of_pairs_is_a_cross_entropy():
    z = torch.randn(G, 2, D)
    logits = cosines(z.flatten(0, 1), z.flatten(0, 1)) / 0.3
    logits.fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(logits, torch.arange(2 * G) ^ 1)
    close(published.nt_xent(z, 0.3), expected)
    close(published.nt_xent(z, 0.3, per_group=True), 2 * expected)


@pytest.mark.parametrize("mask", [torch.ones(G, J, dtype=torch.bool), MASK], ids=["full", "ragged"])
def test_nt_xent_of_groups_is_the_supervised_contrastive_loss(mask):
    z = torch.randn(G, J, D)
    group, flat = torch.arange(G)[:, None].expand(G, J)[mask], z[mask]
    own = torch.eye(len(flat), dtype=torch.bool)
    log_p = (cosines(flat, flat) / 0.3).masked_fill(own, -torch.inf).log_softmax(1)
    positive = (group[:, None] == group) & ~own
    anchors = positive.any(1)
    per_anchor = -log_p.masked_fill(~positive, 0.0).sum(1)[anchors] / positive.sum(1)[anchors]
    close(published.nt_xent(z, 0.3, mask), per_anchor.mean())
    close(published.nt_xent(z, 0.3, mask, per_group=True), per_anchor.sum() / G)


def test_nt_xent_of_identical_views_on_an_orthonormal_basis():
    z, temperature = 3.0 * torch.eye(D)[:, None].expand(D, J, D), 0.5
    expected = math.log((J - 1) * math.exp(1 / temperature) + (D - 1) * J) - 1 / temperature
    assert float(published.nt_xent(z, temperature)) == pytest.approx(expected, rel=1e-12)


def test_moco_is_a_cross_entropy_over_one_positive_and_the_queue():
    q, k, queue = torch.randn(G, J, D), torch.randn(G, J, D), torch.randn(K, D)
    expected = []
    for i in range(J):
        for j in range(J):
            if i != j:
                positive = F.cosine_similarity(q[:, i], k[:, j])[:, None]
                logits = torch.cat([positive, cosines(q[:, i], queue)], 1) / 0.07
                expected.append(F.cross_entropy(logits, torch.zeros(G, dtype=torch.long)))
    close(published.moco(q, k, queue, 0.07), torch.stack(expected).mean())
    close(published.moco(q, k, queue, 0.07, per_group=True), J * torch.stack(expected).mean())


def test_keys_queues_and_banks_are_fixed():
    z, stored = torch.randn(G, 2, D, requires_grad=True), torch.randn(G, D, requires_grad=True)
    keys = z.detach().clone().requires_grad_()
    for value in (published.moco(z, keys, stored, 0.2), published.instance_discrimination(z, torch.arange(G), stored)):
        gradients = torch.autograd.grad(value, (z, keys, stored), allow_unused=True)
        assert gradients[0].abs().max() > 0
        assert gradients[1:] == (None, None)


def test_cpc_is_a_cross_entropy_and_clip_the_mean_of_two():
    context, target, weight = torch.randn(G, D), torch.randn(G, K), torch.randn(K, D)
    logits = context @ weight.T @ target.T
    close(published.infonce_cpc(context, target, weight), F.cross_entropy(logits, torch.arange(G)))
    z = torch.randn(G, 2, D)
    logits = 7.0 * cosines(z[:, 0], z[:, 1])
    expected = (F.cross_entropy(logits, torch.arange(G)) + F.cross_entropy(logits.T, torch.arange(G))) / 2
    close(published.clip(z, 7.0), expected)


def test_cpc_with_the_exact_critic_bounds_the_information_of_gaussian_pairs():
    """z = y + e, z' = y + e', D = 3, var y = 1, var e = 0.15: log k - loss is below log k and below I[z; z'] = 2.117 nats."""
    rho, total, estimates = 1 / 1.15, 1.15, []
    information = -1.5 * math.log(1 - rho**2)
    cross, square = rho / ((1 - rho**2) * total), rho**2 / (2 * (1 - rho**2) * total)
    # The pointwise mutual information up to terms of the context alone: a bilinear form of [z, 1] and [z', |z'|^2].
    weight = torch.diag(torch.tensor([cross, cross, cross, -square]))
    joint = torch.distributions.MultivariateNormal(torch.zeros(2), torch.tensor([[total, 1.0], [1.0, total]]))
    single = torch.distributions.Normal(0.0, total**0.5)
    for _ in range(100):
        z, other = joint.sample((8, 3)).unbind(-1)
        pairs = torch.stack(torch.broadcast_tensors(z[:, None], other), -1)
        critic = (joint.log_prob(pairs) - single.log_prob(z)[:, None] - single.log_prob(other)).sum(-1)
        context = torch.cat([z, torch.ones(8, 1)], 1)
        target = torch.cat([other, other.square().sum(1, keepdim=True)], 1)
        loss = published.infonce_cpc(context, target, weight)
        close(loss, F.cross_entropy(critic, torch.arange(8)))
        estimates.append(math.log(8) - loss)
    estimate = torch.stack(estimates)
    assert estimate.max() <= math.log(8)
    assert 1.2 < estimate.mean() < 1.6 < information  # 1.401 (0.004) by 50 000 draws; standard error here 0.033


def test_mcinfonce_averages_probabilities():
    samples = F.normalize(torch.randn(7, G, 2, D), dim=-1)
    per_sample = torch.stack([published.mcinfonce(samples[s : s + 1], 3.0) for s in range(7)])
    several = published.mcinfonce(samples, 3.0)
    assert several < per_sample.mean()  # Jensen: -log of a mean against the mean of -log
    repeated = samples[:1].expand(4, -1, -1, -1)
    close(published.mcinfonce(repeated, 3.0), per_sample[0])
    scores = 3.0 * samples[:, :, 0] @ samples[:, :, 1].mT
    positive = scores.diagonal(dim1=1, dim2=2).exp()
    others = (scores.exp().sum(2) - positive) / (G - 1)
    close(several, -(positive / (positive + others)).mean(0).log().mean())
    neighbour = [[(g - 1) % G] for g in range(G)]
    other = scores.roll(1, 2).diagonal(dim1=1, dim2=2).exp()
    expected = -(positive / (positive + other)).mean(0).log().mean()
    close(published.mcinfonce(samples, 3.0, neighbour), expected)


# ---------------------------------------------------------------------- statistics of the batch


def test_vicreg_is_its_einsum():
    z = 0.8 * torch.randn(7, 2, D)
    variance, squares = 0.0, 0.0
    for x in z.unbind(1):
        centred = x - x.mean(0)
        covariance = torch.einsum("na,nb->ab", centred, centred) / 6
        variance = variance + F.relu(1 - (covariance.diagonal() + 1e-4).sqrt()).mean() / 2
        squares = squares + (covariance.square().sum() - covariance.diagonal().square().sum()) / D
    expected = 25 * F.mse_loss(z[:, 0], z[:, 1]) + 25 * variance + squares
    close(published.vicreg(z), expected)
    assert variance > 0
    more = torch.cat([z, torch.randn(7, 1, D)], 1)
    pairs = [published.vicreg(more[:, [i, j]], 2.0, 3.0, 0.5) for i, j in ((0, 1), (0, 2), (1, 2))]
    close(published.vicreg(more, 2.0, 3.0, 0.5), torch.stack(pairs).mean())


def test_statistics_of_ragged_groups_use_complete_pairs():
    z = torch.randn(8, 2, D)
    valid = torch.ones(8, 2, dtype=torch.bool)
    valid[2, 0] = valid[5, 1] = False
    complete = z[valid.all(1)]
    for loss in (published.vicreg, published.barlow_twins):
        close(loss(z, valid=valid), loss(complete))


def test_vicreg_vanishes_on_whitened_identical_views():
    z = 1.1 * published.whiten(torch.randn(9, D))[:, None].expand(9, J, D)
    assert float(published.vicreg(z)) == pytest.approx(0.0, abs=1e-12)
    assert float(published.vicreg(torch.ones(9, 2, D))) == pytest.approx(
        25 * 0.99, rel=1e-12
    )  # collapse: sqrt(1e-4) = 0.01


def test_barlow_twins_is_batch_norm_and_a_correlation():
    z = torch.randn(7, 2, D)
    one, two = (F.batch_norm(x, None, None, training=True) for x in z.unbind(1))
    correlation = one.T @ two / 7
    expected = (1 - correlation.diagonal()).square().sum()
    expected = expected + 0.0051 * (correlation.square().sum() - correlation.diagonal().square().sum())
    close(published.barlow_twins(z), expected)
    exact = torch.corrcoef(torch.cat([z[:, 0], z[:, 1]], 1).T)[:D, D:]  # Eq. 2
    off = exact.square().sum() - exact.diagonal().square().sum()
    expected = (1 - exact.diagonal()).square().sum() + 0.2 * off
    close(published.barlow_twins(z, 0.2, eps=0.0), expected)
    expected = (1 - exact.diagonal() * 6 / 7).square().sum() + 0.2 * off * (6 / 7) ** 2
    close(published.barlow_twins(z, 0.2, eps=0.0, unbiased=True), expected)


def test_whitened_views_have_unit_covariance_and_the_loss_its_cosines():
    x = torch.randn(9, D) @ torch.randn(D, D) + 3.0
    close(torch.cov(published.whiten(x).T), torch.eye(D))
    close(published.whiten(x).mean(0), torch.zeros(D), atol=1e-12, rtol=0)
    z = torch.randn(9, 2, D)
    white = [
        torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(v.T)), (v - v.mean(0)).T, upper=False).T
        for v in z.unbind(1)
    ]
    close(published.wmse(z), (2 - 2 * F.cosine_similarity(*white)).mean())
    assert not torch.isclose(published.wmse(z), published.wmse(z, pooled=True))
    same = z[:, :1].expand(-1, J, -1)
    for pooled in (False, True):
        assert float(published.wmse(same, pooled=pooled)) == pytest.approx(0.0, abs=1e-12)


def test_wmse_does_not_see_triangular_maps_of_a_view():
    z = torch.randn(9, 2, D)
    lower = torch.randn(D, D).tril(-1) + torch.diag(torch.rand(D) + 0.5)
    moved = torch.stack([z[:, 0] @ lower.T - 2.0, z[:, 1]], 1)
    close(published.wmse(moved), published.wmse(z))
    turned = torch.stack([z[:, 0] @ torch.linalg.qr(torch.randn(D, D)).Q, z[:, 1]], 1)
    assert not torch.isclose(published.wmse(turned), published.wmse(z))  # Cholesky is not free of rotations


# ---------------------------------------------------------------------- predictors and teachers


def test_simsiam_and_byol_are_affine_in_the_same_cosines():
    p, z = torch.randn(G, J, D, requires_grad=True), torch.randn(G, J, D, requires_grad=True)
    cosine = [F.cosine_similarity(p[:, i], z[:, j]).mean() for i in range(J) for j in range(J) if i != j]
    cosine = torch.stack(cosine).mean()
    close(published.simsiam(p, z), -cosine)
    close(published.byol(p, z), 2 * (2 - 2 * cosine))
    for loss in (published.simsiam, published.byol):
        gradients = torch.autograd.grad(loss(p, z), (p, z), allow_unused=True)
        assert gradients[0].abs().max() > 0
        assert gradients[1] is None
        assert loss(p.detach(), p.detach()[:, :1].expand(-1, J, -1)).isfinite()
    same = z[:, :1].expand(-1, J, -1)
    assert float(published.simsiam(2 * same, same).detach()) == pytest.approx(-1.0)
    assert float(published.byol(-same, same).detach()) == pytest.approx(8.0)


def test_dino_is_a_cross_entropy_with_soft_targets():
    student, teacher = torch.randn(G, J, K, requires_grad=True), torch.randn(G, J, K, requires_grad=True)
    centre = torch.randn(K)
    target = ((teacher - centre) / 0.05).softmax(-1).detach()
    terms = [F.cross_entropy(student[:, j] / 0.2, target[:, i]) for i in range(J) for j in range(J) if i != j]
    released = torch.stack(terms).mean()
    close(published.dino(student, teacher, centre, 0.2, 0.05, halve=True), released)
    close(published.dino(student, teacher, centre, 0.2, 0.05), 2 * released)
    gradients = torch.autograd.grad(published.dino(student, teacher, centre), (student, teacher), allow_unused=True)
    assert gradients[0].abs().max() > 0
    assert gradients[1] is None


def test_dino_is_least_at_the_teacher():
    teacher, centre = torch.randn(G, 1, K).expand(G, 2, K), torch.randn(K)
    student = ((teacher - centre) / 0.5 * 0.1).clone().requires_grad_()
    loss = published.dino(student, teacher, centre, 0.1, 0.5, halve=True)
    entropy = torch.distributions.Categorical(logits=(teacher[:, 0] - centre) / 0.5).entropy().mean()
    close(loss, entropy)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-12


def test_dino_centre_follows_the_teacher():
    teacher, centre = torch.randn(G, J, K), torch.randn(K)
    close(published.dino_centre(teacher, centre, 0.9), 0.9 * centre + 0.1 * teacher.mean((0, 1)))
    close(published.dino_centre(teacher, centre, 0.0, MASK), teacher[MASK].mean(0))


def test_sinkhorn_reaches_both_marginals_along_its_exponential_family():
    scores = cosines(torch.randn(9, D), torch.randn(K, D))
    for steps in (1, 3, 300):
        close(published.sinkhorn(scores, 0.1, steps).sum(1), torch.ones(9))
    codes = published.sinkhorn(scores, 0.1, 300)
    close(codes.sum(0), torch.full((K,), 9 / K))
    exponents = published.sinkhorn(scores, 0.1, 3).log() - scores / 0.1  # log u + log v: without interaction
    centred = exponents - exponents.mean(0) - exponents.mean(1, keepdim=True) + exponents.mean()
    assert centred.abs().max() < 1e-10
    close(published.sinkhorn(torch.zeros(9, K)), torch.full((9, K), 1 / K))


def test_sinkhorn_in_the_released_order():
    scores = cosines(torch.randn(9, D), torch.randn(K, D))
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / K
        q = q / q.sum(0, keepdim=True) / 9
    close(published.sinkhorn(scores), (9 * q).T)


def test_swav_predicts_the_code_of_the_other_view():
    z, prototypes = torch.randn(G, J, D), torch.randn(K, D, requires_grad=True)
    scores = published.swav_scores(z, prototypes)
    close(scores, torch.stack([cosines(view, prototypes) for view in z.unbind(1)], 1))
    codes = [published.sinkhorn(scores[:, j]) for j in range(J)]
    assert not any(code.requires_grad for code in codes)
    terms = [F.cross_entropy(scores[:, i] / 0.1, codes[j]) for i in range(J) for j in range(J) if i != j]
    close(published.swav(scores, halve=True), torch.stack(terms).mean())
    close(published.swav(scores), 2 * torch.stack(terms).mean())
    assert torch.autograd.grad(published.swav(scores), prototypes)[0].abs().max() > 0


# ---------------------------------------------------------------------- classes


def test_classifiers_are_cross_entropies():
    z, weight, bias = torch.randn(G, J, D), torch.randn(K, D), torch.randn(K)
    label = torch.randint(K, (G, J))
    expected = F.cross_entropy((z @ weight.T + bias).flatten(0, 1), label.flatten())
    close(published.classify(z, label, weight, bias), expected)
    per_group = label[:, 0]
    expected = F.cross_entropy((z @ weight.T)[MASK], per_group[:, None].expand(G, J)[MASK])
    close(published.classify(z, per_group, weight, valid=MASK), expected)
    index, bank = torch.randperm(9)[:G], torch.randn(9, D)
    logits = cosines(z.flatten(0, 1), bank) / 0.07
    expected = F.cross_entropy(logits, index.repeat_interleave(J))
    close(published.instance_discrimination(z, index, bank), expected)


def test_variational_classification_is_bayes_rule_and_a_density():
    z, label, loc = torch.randn(9, D), torch.randint(3, (9,)), torch.randn(3, D)
    variance, log_prior = torch.rand(3, D) + 0.2, softmax_of(3).log()
    density = torch.distributions.MultivariateNormal(loc, torch.diag_embed(variance)).log_prob(z[:, None])
    own = density[torch.arange(9), label].mean()
    expected = F.cross_entropy(density, label) - 0.1 * own
    close(published.variational_classification(z, label, loc, variance, 0.1), expected)
    expected = F.cross_entropy(density + log_prior, label) - 0.1 * own
    ours = published.variational_classification(z, label, loc, variance, 0.1, log_prior)
    close(ours, expected)


# ---------------------------------------------------------------------- VI-SimSiam


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_power_spherical_is_a_density_with_its_entropy(dim):
    """Quadrature over t = mu.z: the sphere's slice at t = cos a has area area(dim - 1) sin(a)^(dim - 2)."""
    kappa, mu = torch.tensor(2.5), torch.eye(dim)[0]
    angle = (torch.arange(20_000) + 0.5) * math.pi / 20_000
    slices = 2 * math.pi ** ((dim - 1) / 2) / math.gamma((dim - 1) / 2) * angle.sin() ** (dim - 2) * math.pi / 20_000
    values = torch.stack([published.power_spherical(mu * t, mu, kappa) for t in angle.cos()[::100]])  # t alone enters
    dense = values[0] + kappa * (torch.log1p(angle.cos()) - torch.log1p(angle[0].cos()))
    close(dense[::100], values)
    assert float((slices * dense.exp()).sum()) == pytest.approx(1.0, abs=1e-6)
    b = torch.tensor((dim - 1) / 2)
    log_mean = math.log(2) + torch.digamma(b + kappa) - torch.digamma(2 * b + kappa)  # E log(1 + mu.z)
    entropy = -published.power_spherical(torch.zeros(dim), mu, kappa) - kappa * log_mean
    assert float(-(slices * dense.exp() * dense).sum()) == pytest.approx(float(entropy), abs=1e-5)


def power_spherical_draws(num, mu, kappa):
    """De Cao, Aziz 2020: t = 2 Beta(a, b) - 1 along the first axis, turned onto mu [..., D] by a reflection."""
    b = torch.tensor((mu.shape[-1] - 1) / 2)
    t = 2 * torch.distributions.Beta(b + kappa, b).sample((num,))[..., None] - 1
    around = F.normalize(torch.randn(num, *mu.shape[:-1], mu.shape[-1] - 1), dim=-1)
    z = torch.cat([t, (1 - t**2).sqrt() * around], -1)
    axis = F.normalize(torch.eye(mu.shape[-1])[0] - mu, dim=-1)
    return z - 2 * (z * axis).sum(-1, keepdim=True) * axis


def test_vi_simsiam_of_one_view_has_the_closed_kl_and_entropy():
    mu, kappa = F.normalize(torch.randn(3, 1, D), dim=-1), torch.tensor([[0.5], [3.0], [20.0]])
    samples = power_spherical_draws(300, mu, kappa)
    uniform_density = float(published.power_spherical(mu[0, 0], mu[0, 0], torch.tensor(0.0)))
    assert uniform_density == pytest.approx(-math.log(2 * math.pi**2))  # the area of the sphere in R^4
    b = torch.tensor((D - 1) / 2)
    log_mean = math.log(2) + torch.digamma(b + kappa) - torch.digamma(2 * b + kappa)
    for g in range(3):
        negative_entropy = kappa[g] * log_mean[g] + published.power_spherical(torch.zeros(D), mu[g, 0], kappa[g, 0])
        parts = [torch.stack(published.vi_simsiam(mu[[g]], kappa[[g]], draw[None, [g]])) for draw in samples]
        align, uniform, kl = torch.stack(parts).unbind(1)
        error = 5 * float(align.std()) / len(samples) ** 0.5
        assert float(align.mean()) == pytest.approx(float(negative_entropy), abs=error)
        close(uniform, -align)  # one group, one view: p(z) is p(z | x)
        close(-kl, align - uniform_density)
    together = published.vi_simsiam(mu, kappa, samples[:20])
    assert 0 < together[0] + together[1] < math.log(3)  # E log p(z | x) / p(z): the information on which of 3 groups


def test_vi_simsiam_without_concentration_is_silent():
    mu, samples = F.normalize(torch.randn(2, G, J, D), dim=-1)
    align, uniform, kl = published.vi_simsiam(mu, torch.zeros(G, J), samples[None])
    close(align, torch.tensor(-J * math.log(2 * math.pi**2)))
    close(uniform, -align)
    assert abs(float(kl)) < 1e-12


# ---------------------------------------------------------------------- latent distribution matching


@pytest.mark.parametrize("content_scale", [0.7, None])
@pytest.mark.parametrize("num_views", [1, 2, 4])
def test_group_normal_is_its_integral(num_views, content_scale):
    z = torch.randn(num_views, D)
    y = torch.linspace(-12, 12, 4001)[:, None]
    density = torch.stack([torch.distributions.Normal(y, 0.3).log_prob(x).sum(1) for x in z.T], 1)
    if content_scale is not None:
        density = density + torch.distributions.Normal(0.0, content_scale).log_prob(y)
    expected = (density.logsumexp(0) + math.log(24 / 4000)).sum()
    close(published.group_normal(z, 0.3, content_scale), expected)
    wide = published.group_normal(z, 0.3, 1e3) + D / 2 * math.log(2 * math.pi * 1e6)
    close(published.group_normal(z, 0.3), wide, atol=1e-4, rtol=0)


def test_log_det_entropy_is_exact_for_a_gaussian():
    x = torch.randn(9, D) @ torch.randn(D, D)
    gaussian = torch.distributions.MultivariateNormal(torch.zeros(D), torch.cov(x.T))
    close(published.log_det_entropy(x), gaussian.entropy())
    close(published.log_det_entropy(3 * x + 1), published.log_det_entropy(x) + D * math.log(3))


def test_simclr_is_the_information_cell_of_latent_distribution_matching():
    """F_MI = -2 NT-Xent + constant where the alignment has concentration 2 / tau and the kernel 1 / tau, not with 1 / tau for both."""
    z, tau = torch.randn(G, 2, D, requires_grad=True), 0.4
    nt_xent = published.nt_xent(z, tau)
    cell = published.ldm_sphere(z, 2 / tau, 1 / tau, pooled=True)
    close(cell, -2 * nt_xent + 2 * math.log(2 * G - 1))
    other = published.ldm_sphere(z, 1 / tau, 1 / tau, pooled=True)
    gradients = [torch.autograd.grad(value, z)[0].flatten() for value in (-nt_xent, cell, other)]
    assert float(F.cosine_similarity(*gradients[:2], dim=0)) == pytest.approx(1.0, abs=1e-12)
    assert float(F.cosine_similarity(*gradients[::2], dim=0)) < 0.99


@pytest.mark.parametrize("own", [False, True])
def test_sphere_objectives_are_their_log_mean_exps(own):
    z = torch.randn(G, 2, D)
    unit = F.normalize(z, dim=-1)
    one, two = (3.0 * unit[:, v] @ unit[:, v].T for v in (0, 1))
    hidden = torch.zeros(G, G, dtype=torch.bool) if own else torch.eye(G, dtype=torch.bool)

    def entropy(scores):
        return -(scores.masked_fill(hidden, -torch.inf).logsumexp(1) - math.log(G - (not own))).mean()

    align = 5.0 * (unit[:, 0] * unit[:, 1]).sum(1).mean()
    close(published.ldm_sphere(z, 5.0, 3.0, own=own), align + entropy(one) + entropy(two))
    joint = published.ldm_sphere(z, 5.0, 3.0, mutual_information=False, own=own)
    close(joint, align + entropy(one + two))


def test_plane_objectives_are_their_determinants():
    z = torch.randn(12, 2, D)
    align = -(z[:, 0] - z[:, 1]).square().sum(1).mean() / (2 * 0.3**2)
    single = sum(published.log_det_entropy(view) for view in z.unbind(1)) - D * (1 + math.log(2 * math.pi))
    close(published.ldm_plane(z, 0.3), align + single)
    joint = torch.logdet(torch.cov(z.flatten(1).T)) / 2
    close(published.ldm_plane(z, 0.3, mutual_information=False), align + joint)


def test_exact_matching_keeps_the_spread_of_pairs_and_information_removes_it():
    """z' = z + sqrt(v) e with exact moments: F_LDM is greatest at v = s^2 (12 / 11 for moments over N), F_MI at v = 0."""
    white = published.whiten(torch.randn(12, 2))
    z, noise = white[:, :1], white[:, 1:]
    spreads = torch.linspace(0.02, 0.6, 30)
    pairs = [torch.stack([z, z + v.sqrt() * noise], 1) for v in spreads]
    matching = torch.stack([published.ldm_plane(pair, 0.2**0.5, mutual_information=False) for pair in pairs])
    best = 0.2 * 12 / 11
    exact = [-(11 / 12) * float(v) / 0.4 + 0.5 * math.log(float(v)) for v in spreads]
    close(matching, torch.tensor(exact))
    assert abs(float(spreads[matching.argmax()]) - best) <= 0.02
    fixed = [
        torch.stack([z, (z + v.sqrt() * noise) / (1 + v).sqrt()], 1) for v in spreads
    ]  # unit variance of both views
    information = torch.stack([published.ldm_plane(pair, 0.2**0.5) for pair in fixed])
    assert (information.diff() < 0).all()


def test_categorical_objective_of_certain_balanced_codes():
    codes = torch.eye(K)[:, None].expand(K, 2, K)
    assert float(published.ldm_categorical(codes, 3.0)) == pytest.approx(3.0 + math.log(K))
    assert float(published.ldm_categorical(codes, 3.0, mutual_information=True)) == pytest.approx(3.0 + 2 * math.log(K))
    probs = softmax_of(7, 2, K)
    joint = torch.distributions.Categorical(torch.einsum("na,nb->ab", *probs.unbind(1)).flatten() / 7)
    agreement = (probs[:, 0] * probs[:, 1]).sum(1).mean()
    close(published.ldm_categorical(probs, 2.0), 2.0 * agreement + joint.entropy())
    marginals = sum(torch.distributions.Categorical(view.mean(0)).entropy() for view in probs.unbind(1))
    close(published.ldm_categorical(probs, 2.0, True), 2.0 * agreement + marginals)
