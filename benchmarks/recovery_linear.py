"""Part A of benchmarks/recovery.py: linear-Gaussian groups, their exact posteriors, and SimVAE's."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from genssl.models import SimVAE
from recovery_fit import fit
from scipy.stats import spearmanr
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from genssl.distributions import GroupPosterior
from genssl.groups import Groups

LATENT, FEATURES, VIEWS, VIEW, CONTENT, NOISE = 4, 10, 4, 0.5, 1.0, (0.3, 2.0)
TEST = 1500


def draw_linear(weight, groups, views=VIEWS):
    """x with log noise in [-1, 1] appended [G, J, 11], noise [G, J], y [G, D], z [G, J, D]."""
    place = 2 * torch.rand(groups, views) - 1
    noise = noise_of(place)
    y = CONTENT * torch.randn(groups, 1, weight.shape[1])
    z = y + VIEW * torch.randn(groups, views, weight.shape[1])
    x = z @ weight.T + noise.unsqueeze(-1) * torch.randn(groups, views, weight.shape[0])
    return torch.cat([x, place.unsqueeze(-1)], -1), noise, y, z


def noise_of(place):
    return NOISE[0] * (NOISE[1] / NOISE[0]) ** (0.5 + 0.5 * place)


def joint_precision(views, dim):
    """Of (y, z_1..z_J) under the prior, [(J+1)D, (J+1)D]."""
    small = torch.diag(torch.tensor([CONTENT**-2 + views * VIEW**-2] + [VIEW**-2] * views, dtype=torch.float64))
    small[0, 1:] = small[1:, 0] = -(VIEW**-2)
    return torch.kron(small, torch.eye(dim, dtype=torch.float64))


def exact(weight, x, noise):
    """Mean and covariance of (y, z_1..z_J) given x [G, J, X]: [G, (J+1)D], [G, (J+1)D, (J+1)D], float64."""
    weight, x, tau = weight.double(), x.double(), noise.double().square().reciprocal()
    groups, views, dim = *noise.shape, weight.shape[1]
    of_views = torch.block_diag(torch.zeros(dim, dim), *[torch.ones(dim, dim)] * views).double()
    gram = torch.kron(torch.eye(views + 1, dtype=torch.float64), weight.T @ weight) * of_views
    each = torch.cat([tau[:, :1], tau], 1).repeat_interleave(dim, 1)  # y has no evidence of its own
    covariance = torch.linalg.inv(joint_precision(views, dim) + each.unsqueeze(-1) * gram)
    pull = torch.cat([torch.zeros(groups, dim).double(), (tau.unsqueeze(-1) * (x @ weight)).flatten(1)], 1)
    return (covariance @ pull.unsqueeze(-1)).squeeze(-1), covariance


class KnownNoise(SimVAE):
    """p(x_j | z_j) = N(decoder(z_j), n_j^2 I), n_j read off the last input, which is conditioned on."""

    def observation(self, z, groups):
        noise = noise_of(groups.x[..., -1:])
        return dist.Normal(groups.unpack(self.decoder(groups.pack(z))), noise).to_event(1)

    def target(self, groups):
        return groups.x[..., :-1]


def laws(method, x):
    """Means and covariances of z_1..z_J and y of the groups and of every z_j by itself, float64."""
    groups = Groups(x)
    joint, content, view = method.joint(groups), method.content(groups), method.encode(x.flatten(0, 1))
    if isinstance(joint, GroupPosterior):  # dense, from experts and prior
        prior = torch.linalg.inv(joint_precision(VIEWS, LATENT))[LATENT:, LATENT:]
        covariance = torch.linalg.inv(torch.linalg.inv(prior) + torch.diag_embed(joint.scale.double().flatten(1) ** -2))
    else:
        covariance = torch.diag_embed(joint.variance.double().flatten(1))
    seen = {"view": view, "content": content}
    out = {name: (law.mean.double(), torch.diag_embed(law.variance.double())) for name, law in seen.items()}
    return out | {"group": (joint.mean.double().flatten(1), covariance)}


def true_laws(weight, x, noise):
    mean, covariance = exact(weight, x[..., :-1], noise)
    one, single = exact(weight, x[..., :-1].flatten(0, 1).unsqueeze(1), noise.flatten().unsqueeze(1))
    d = LATENT
    return {
        "view": (one[:, d:], single[:, d:, d:]),
        "group": (mean[:, d:], covariance[:, d:, d:]),
        "content": (mean[:, :d], covariance[:, :d, :d]),
    }


def rotation(moving, fixed):
    """The orthogonal R that brings moving @ R nearest to fixed."""
    u, _, v = torch.linalg.svd(moving.double().T @ fixed.double())
    return u @ v


def compare(found, truth, turn):
    """Figures of one kind of law, after the rotation of every block of D."""
    (mean, covariance), (true_mean, true_covariance) = found, truth
    turn = torch.kron(torch.eye(mean.shape[1] // LATENT, dtype=torch.float64), turn)
    mean, covariance = mean @ turn, turn.T @ covariance @ turn
    scale, true_scale = (c.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt() for c in (covariance, true_covariance))
    det, true_det = covariance.logdet(), true_covariance.logdet()
    kl = kl_divergence(MultivariateNormal(mean, covariance), MultivariateNormal(true_mean, true_covariance))
    return {
        "r2": 1 - float((mean - true_mean).square().sum() / (true_mean - true_mean.mean(0)).square().sum()),
        "logdet": float((det - true_det).abs().mean() / true_det.abs().mean()),
        "spearman": float(spearmanr(scale, true_scale)[0]) if scale.std() > 1e-9 else None,
        "kl": float(kl.mean()),
    }


def best_factorised(weight, x, noise):
    """The laws of the best q(z_j | x_j) in the groups' bound: in the axes of W^T W a gain and a scale that depend on n_j."""
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    truth, place = true_laws(weight, x, noise), x[..., -1:].double()
    precision = torch.linalg.inv(truth["group"][1])
    evidence = (x[..., :-1].double() @ u) / s  # of each axis: z + n / s e
    powers = place.unsqueeze(-1) ** torch.arange(6)  # [G, J, 1, 6]
    per = torch.linalg.inv(torch.linalg.inv(joint_precision(VIEWS, 1))[1:, 1:])[0, 0]
    variance = 1 / (s.square() / noise.double().square().unsqueeze(-1) + per)
    # (m - mu)' P (m - mu) is least squares in the coefficients of the gain
    factor = torch.linalg.cholesky(precision).mT
    parts = (evidence.unsqueeze(-1) * powers).unsqueeze(-3) * v.T.unsqueeze(-1)  # [G, J, D(z), D(axis), 6]
    design = factor @ parts.flatten(1, 2).flatten(2)
    aim = (factor @ truth["group"][0].unsqueeze(-1)).squeeze(-1)
    coefficients = torch.linalg.lstsq(design.flatten(0, 1), aim.flatten().unsqueeze(-1)).solution
    mean = (parts.flatten(1, 2).flatten(2) @ coefficients).squeeze(-1)
    each = v.T @ torch.diag_embed(variance) @ v  # [G, J, D, D]
    covariance = torch.stack([torch.block_diag(*blocks) for blocks in each])
    return {"group": (mean, covariance), "view": (mean.reshape(-1, LATENT), each.flatten(0, 1))}


def linear_cell(cell, budget):
    torch.manual_seed(cell["seed"])
    weight = torch.randn(FEATURES, LATENT) / FEATURES**0.5
    sets = [draw_linear(weight, TEST)[:2] for _ in range(2)]
    turn, run = torch.eye(LATENT, dtype=torch.float64), {"steps": 0, "seconds": 0.0}
    if cell["method"] == "best factorised":
        found = best_factorised(weight, *sets[1])
    else:
        known = cell["likelihood"] == "known noise"
        outputs = FEATURES if known else FEATURES + 1
        settings = {"view_scale": VIEW, "content_scale": CONTENT, "group_guide": cell["guide"]}
        settings |= {"hidden": (128, 128), "dim": LATENT, "likelihood_scale": 1.0, "learned_scale": not known}
        method = (KnownNoise if known else SimVAE).build(Groups(sets[0][0]), **settings)
        method.decoder = nn.Linear(LATENT, outputs)
        run = fit(method, lambda: draw_linear(weight, 256)[0], budget, cell, 3e-3)
        with torch.no_grad():
            aligning, truth = laws(method, sets[0][0]), true_laws(weight, *sets[0])
            turn = rotation(*(law["group"][0].reshape(-1, LATENT) for law in (aligning, truth)))
            found = laws(method, sets[1][0])
    truth = true_laws(weight, *sets[1])
    return run | {"figures": {name: compare(law, truth[name], turn) for name, law in found.items()}}


def check():
    """The exact posteriors against quadrature and importance sampling, which share nothing with them."""
    torch.manual_seed(0)
    weight, normal = torch.randn(3, 1), torch.distributions.Normal
    x, noise, *_ = draw_linear(weight, 1, 2)  # quadrature over y and both z, D = 1
    mean, covariance = exact(weight, x[..., :-1], noise)
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
    likely = [normal(grid[:, None] * weight[:, 0], noise[0, j]).log_prob(x[0, j, :-1]).sum(-1) for j in range(2)]
    pairs = [normal(grid[:, None], VIEW).log_prob(grid) + each for each in likely]  # [y, z]
    of_y = (normal(0.0, CONTENT).log_prob(grid) + pairs[0].logsumexp(1) + pairs[1].logsumexp(1)).softmax(0)
    for place, law in enumerate([of_y, *(of_y @ each.softmax(1) for each in pairs)]):
        centre = law @ grid
        torch.testing.assert_close(centre, mean[0, place], atol=1e-5, rtol=0)
        torch.testing.assert_close(law @ (grid - centre) ** 2, covariance[0, place, place], atol=1e-5, rtol=0)
    weight = 0.5 * torch.randn(3, 2)  # importance sampling from the prior, D = 2, J = 3
    x, noise, *_ = draw_linear(weight, 1, 3)
    y = CONTENT * torch.randn(400_000, 1, 2)
    z = y + VIEW * torch.randn(400_000, 3, 2)
    weights = normal(z @ weight.T, noise.unsqueeze(-1)).log_prob(x[..., :-1]).sum((1, 2)).double().softmax(0)
    mean, covariance = exact(weight, x[..., :-1], noise)
    away = torch.cat([y, z], 1).flatten(1).double() - mean
    bound = 6 * float(weights.square().sum()) ** 0.5
    torch.testing.assert_close(weights @ away, torch.zeros(8).double(), atol=bound, rtol=0)
    torch.testing.assert_close(away.T @ (weights.unsqueeze(1) * away), covariance[0], atol=bound, rtol=0)
