r"""Do fitted posteriors recover the true ones? results/recovery.json and results/recovery.md.

    python benchmarks/recovery.py --check       # only the exact posteriors against quadrature, importance sampling and moments
    python benchmarks/recovery.py [--budget 90] [--seeds 0 1 2] [--only TEXT]
    python benchmarks/recovery.py --table       # results/recovery.md from results/recovery.json

A. Linear-Gaussian groups: y ~ N(0, I), z_j ~ N(y, 0.5^2 I), x_j = W z_j + n_j e_j; D = 4, 10 features, J = 4, n_j log-uniform in
   [0.3, 2] and visible as an eleventh input. The exact p(y, z_1..z_J | x_1..x_J) and p(z_j | x_j) are dense normals. SimVAE gets
   the true scales, an MLP encoder and a linear decoder, and ("known noise") the likelihood N(x_j; decoder(z_j), n_j^2 I); without it
   one learned scale for all items. z is identified up to a rotation: Procrustes from posterior means of other groups. Error of log
   det: mean absolute difference over mean absolute value; Spearman of sqrt(trace covariance) an item; KL(q || exact), mean an item.
B. MCInfoNCE's protocol (Kirchhof, Kasneci, Oh 2023, arXiv:2302.02865): sphere in R^10, p(z | x) = vMF(mu(x), kappa(x)), k = 20,
   kappa in [16, 32]. Ours: mu uniform, kappa log-uniform, and x is mu * kappa / sqrt(16 * 32) through an invertible MLP (three
   square leaky-ReLU layers), so that marginals are uniform as their theorem asks. Pairs: z uniform; z+ "vmf", density e^{k z.z+}
   as in the theorem, or "accepted", s / (1 + s), s = e^{k z.z+} / mean, as the released sampler accepts candidates. RMSE of mu after
   Procrustes; cosines of all pairs of items, and kappa: mean absolute error, Pearson, Spearman. VISimSiam's kappa is that of the vMF
   with the resultant of its power-spherical law, SimVAE's 1 / mean s^2 of its Normal (with the true mean noise for scales).
   MCInfoNCE's negatives: "averaged" is the library's and the released code's e^+ / (e^+ + mean e^-), "summed" ours, with their sum.
   "True locations": mu is given, and log kappa = level + slope * (true - middle) + middle is fitted; the truth is 0 and 1.
C. MCInfoNCE's objective at the truth, at kappas off by a factor, and with all directions in a cone, mu -> e + a mu, kappa 1e4.

A cell's budget is CPU seconds on one thread, turned into steps by a timed warm-up; a cell done with at least that budget is skipped, one
done with less is done again. Adam, cosine schedule, fresh groups every step; encoders' last layers start with outputs of mean 0 (B).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from genssl.models import MCInfoNCE, SimVAE, VISimSiam
from scipy.stats import pearsonr, spearmanr
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn.functional import leaky_relu, normalize

from genssl.distributions import GroupPosterior, VonMisesFisher
from genssl.files import write_json
from genssl.fit.config import environment
from genssl.fit.optimiser import learning_rate, make_optimiser
from genssl.groups import Groups
from genssl.networks.mlp import mlp_encoder
from genssl.objective import Objective
from genssl.terms import Constant, MonteCarloContrast

RESULTS = Path(__file__).parent.parent / "results"
LATENT, FEATURES, VIEWS, VIEW, CONTENT, NOISE = 4, 10, 4, 0.5, 1.0, (0.3, 2.0)
DIM, POSITIVE, KAPPA, SAMPLES = 10, 20.0, (16.0, 32.0), 16
MIDDLE = 0.5 * math.log(KAPPA[0] * KAPPA[1])
SIZES = (33, 64, 128)  # groups a batch; 33: 32 negatives, as in the source
TEST = 1500

# ------------------------------------------------------------------ A: linear-Gaussian groups


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


# ------------------------------------------------------------------ B: the vMF protocol


class Generator:
    """An invertible MLP R^10 -> R^10, of the best conditioned matrices of many, with its outputs standardised."""

    def __init__(self):
        self.layers = []
        for _ in range(3):
            drawn = normalize(torch.randn(300, DIM, DIM), dim=1)
            self.layers.append((drawn[torch.linalg.cond(drawn).argmin()], 0.2 * torch.randn(DIM)))
        self.mean, self.scale = torch.zeros(DIM), torch.ones(DIM)
        x = self(*self.items(normalize(torch.randn(10_000, DIM), dim=-1)))
        self.mean, self.scale = x.mean(0), x.std(0)

    def items(self, z):
        """mu, log kappa of items whose latent is z: by symmetry mu is vMF around z."""
        log_kappa = math.log(KAPPA[0]) + math.log(KAPPA[1] / KAPPA[0]) * torch.rand(z.shape[:-1])
        return VonMisesFisher(z, log_kappa.exp()).sample(), log_kappa

    def __call__(self, mu, log_kappa):
        x = mu * (log_kappa - MIDDLE).exp().unsqueeze(-1)
        for i, (weight, bias) in enumerate(self.layers):
            x = (leaky_relu(x, 0.2) if i else x) @ weight.T + bias
        return (x - self.mean) / self.scale

    def inverse(self, x):
        x = x * self.scale + self.mean
        for i, (weight, bias) in reversed(list(enumerate(self.layers))):
            x = torch.linalg.solve(weight, (x - bias).mT).mT
            x = leaky_relu(x, 5.0) if i else x
        return normalize(x, dim=-1), x.norm(dim=-1).log() + MIDDLE


def positives(z, kind):
    """z+ given z [..., D]."""
    if kind == "vmf":
        return VonMisesFisher(z, POSITIVE).sample()
    t = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    log_mean = VonMisesFisher(torch.eye(DIM)[0].double(), POSITIVE)
    log_mean = POSITIVE * log_mean.resultant_length - log_mean.kl_to_uniform()  # log of the mean of e^{k cos}
    mass = (torch.sigmoid(POSITIVE * t - log_mean) * (1 - t * t).clamp(min=0) ** ((DIM - 3) / 2)).cumsum(0)
    place = torch.searchsorted(mass / mass[-1], torch.rand(z.shape[:-1], dtype=torch.float64))
    cos, noise = t[place].float().unsqueeze(-1), torch.randn_like(z)
    return cos * z + (1 - cos**2).sqrt() * normalize(noise - (noise * z).sum(-1, keepdim=True) * z, dim=-1)


def draw_pairs(generator, groups, kind):
    """x [G, 2, 10], and mu, log kappa of every view."""
    z = normalize(torch.randn(groups, DIM), dim=-1)
    mu, log_kappa = generator.items(torch.stack([z, positives(z, kind)], 1))
    return generator(mu, log_kappa), mu, log_kappa


class TrueLocations(nn.Module):
    """x -> true mu, level + slope * (true log kappa - middle) + middle: two parameters."""

    def __init__(self, generator, level=0.0, slope=1.0, cone=None):
        super().__init__()
        self.level, self.slope = (nn.Parameter(torch.tensor(float(value))) for value in (level, slope))
        self.generator, self.cone = generator, cone

    def forward(self, x):
        mu, log_kappa = self.generator.inverse(x)
        if self.cone is not None:
            mu = torch.eye(DIM)[0] + self.cone * mu
        return torch.cat([mu, (self.level + MIDDLE + self.slope * (log_kappa - MIDDLE)).unsqueeze(-1)], -1)


class SummedContrast(MonteCarloContrast):
    """MonteCarloContrast for two views with the sum of the negatives in place of their mean."""

    def forward(self, traces):
        draws = traces.guide["z"].fn.rsample((self.num_samples,))
        scores = self.concentration * torch.einsum("sgd,shd->sgh", *draws.unbind(2))
        each = [(scores.diagonal(dim1=1, dim2=2) - scores.logsumexp(dim)).logsumexp(0) for dim in (1, 2)]
        return {"z": sum(each) - 2 * math.log(self.num_samples)}


def contrastive(encoder, cell, start):
    method = MCInfoNCE(encoder, concentration=POSITIVE, num_samples=cell["samples"], concentration_start=start)
    if cell["negatives"] == "summed":
        method.objective = Objective(SummedContrast(POSITIVE, cell["samples"]), Constant(), Constant())
    return method


def spread(encoder, x):
    """Let the last layer's outputs start with mean 0, deviation 1 (the last one, of log kappa, 0.1): directions all over the sphere."""
    with torch.no_grad():
        last, hidden = encoder[-1], encoder[:-1](x)
        last.weight.div_((hidden @ last.weight.T).std(0).unsqueeze(1))
        last.weight[DIM:] *= 0.1
        last.bias.copy_(-(hidden @ last.weight.T).mean(0))
    return encoder


def seen(method, x):
    """Directions and concentrations that the method gives for x."""
    if isinstance(method, SimVAE):
        law = method.encode(x)
        return normalize(law.mean, dim=-1), 1 / law.variance.mean(-1)
    law = method.views_posterior(Groups(x.unsqueeze(1)))
    grid = torch.logspace(-2, 5, 4001, dtype=torch.float64)
    resultant = VonMisesFisher(torch.eye(DIM)[0].double(), grid).resultant_length
    kappa = np.interp(law.resultant_length.double(), resultant, grid)
    return law.loc.squeeze(1), torch.as_tensor(kappa).squeeze(1)


def agreement(found, truth):
    out = {"mae": float((found - truth).abs().mean())}
    if found.std() > 1e-6 * found.abs().mean():
        out |= {"pearson": float(pearsonr(found, truth)[0]), "spearman": float(spearmanr(found, truth)[0])}
    return out


def spherical_cell(cell, budget):
    torch.manual_seed(cell["seed"])
    generator = Generator()
    sets = [[part[:, 0] for part in draw_pairs(generator, TEST, "vmf")] for _ in range(2)]
    example, name = Groups(sets[0][0].unsqueeze(1)), cell["method"]
    if cell["true_mu"]:
        network = TrueLocations(generator)
        method = contrastive(network, cell, 1.0) if name == "MCInfoNCE" else VISimSiam(network, concentration_start=1.0)
    elif name == "SimVAE":
        z = normalize(torch.randn(500, 1, DIM), dim=-1).expand(-1, 64, -1)
        noise = float(generator(*generator.items(z)).var(1).mean().sqrt())
        scales = {"view_scale": (2 * POSITIVE) ** -0.5, "content_scale": DIM**-0.5, "likelihood_scale": noise}
        method = SimVAE.build(example, dim=DIM, hidden=(128,) * 3, **scales)
    elif name == "VISimSiam":
        method = VISimSiam.build(example, dim=DIM, hidden=(128,) * 3, head=cell["head"])
        if not cell["head"]:
            spread(method.encoder, sets[0][0])
    else:
        method = contrastive(spread(mlp_encoder((DIM,), DIM + 1, (128,) * 3), sets[0][0]), cell, 16.0)
    lr = 5e-2 if cell["true_mu"] else 2e-3
    run = fit(method, lambda: draw_pairs(generator, cell["groups"], cell["positives"])[0], budget, cell, lr)
    with torch.no_grad():
        mu, kappa = seen(method.eval(), sets[1][0])
        turn = rotation(seen(method, sets[0][0])[0], sets[0][1]).float()
    true_mu, true_kappa = sets[1][1], sets[1][2].exp()
    upper = torch.triu_indices(TEST, TEST, 1).unbind()
    figures = {
        "rmse": float((mu @ turn - true_mu).square().sum(-1).mean().sqrt()),
        "cosines": agreement((mu @ mu.T)[upper], (true_mu @ true_mu.T)[upper]),
        "kappa": agreement(kappa.double(), true_kappa.double()) | {"median": float(kappa.median())},
    }
    if cell["true_mu"]:
        figures |= {"level": network.level.item(), "slope": network.slope.item()}
    return run | {"figures": figures}


def value_cell(cell, _):
    """The objective at given posteriors, nats a group, mean of 12 batches."""
    torch.manual_seed(cell["seed"])
    generator, out = Generator(), {}
    batches = [Groups(draw_pairs(generator, cell["groups"], cell["positives"])[0]) for _ in range(12)]
    places = {f"kappa x {c:g}": {"level": math.log(c)} for c in (1, 0.5, 2, 3, 5, 10)}
    places |= {f"cone {a:g}": {"level": math.log(1e4) - MIDDLE, "slope": 0.0, "cone": a} for a in (0, 0.3, 0.5)}
    for name, settings in places.items():
        method = contrastive(TrueLocations(generator, **settings), cell, 1.0)
        with torch.no_grad(), pyro.validation_enabled(False):
            loss = method.objective(None, method.guide)
            out[name] = -sum(float(loss(groups)) for groups in batches) / len(batches)
    return {"steps": 0, "seconds": 0.0, "figures": out}


# ------------------------------------------------------------------ fitting, checking, telling


def fit(method, draw, budget, cell, lr):
    """Plain Adam on the method's own objective; steps: what the budget holds by the time of 20."""
    if not budget or cell.get("untrained"):
        return {"steps": 0, "seconds": 0.0}

    def steps(method, count):
        module = method.train().objective(method.model, method.guide)
        optimiser = make_optimiser("adam", module.parameters(), lr)
        for step in range(count):
            torch.manual_seed(1_000_003 * (cell["seed"] + 1) + step)
            optimiser.param_groups[0]["lr"] = learning_rate("cosine", lr, step, count)
            optimiser.zero_grad(set_to_none=True)
            module(Groups(draw())).backward()
            optimiser.step()
            module.update()

    with pyro.validation_enabled(False):
        trial = copy.deepcopy(method)
        steps(trial, 3)
        began = time.process_time()
        steps(trial, 20)
        count = max(100, int(20 * budget / (time.process_time() - began)))
        began = time.process_time()
        steps(method, count)
    return {"steps": count, "seconds": round(time.process_time() - began, 1)}


def check():
    """The truths against computations that share nothing with them."""
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
    generator = Generator()
    x, mu, log_kappa = draw_pairs(generator, 200_000, "vmf")
    torch.testing.assert_close(generator.inverse(x), (mu, log_kappa), atol=1e-3, rtol=0)
    rho = VonMisesFisher(mu[:, 0], log_kappa.exp().T).resultant_length.prod(0)
    rho = rho * VonMisesFisher(mu[0, 0], POSITIVE).resultant_length  # E mu.mu+ of the chain mu - z - z+ - mu+
    gap = (mu[:, 0] * mu[:, 1]).sum(-1) - rho
    assert gap.mean().abs() < 4 * gap.std() / len(gap) ** 0.5, gap.mean()
    z = normalize(torch.randn(1_000_000, DIM), dim=-1)  # p(z | x) from a uniform z and the density of mu given z
    weights = VonMisesFisher(z, log_kappa[0, 0].exp()).log_prob(mu[0, 0]).double().softmax(0)
    resultant = VonMisesFisher(mu[0, 0], log_kappa[0, 0].exp()).mean.double()
    torch.testing.assert_close(weights @ z.double(), resultant, atol=6 * float(weights.square().sum()) ** 0.5, rtol=0)


def cells(seed):
    linear = {"part": "A", "seed": seed, "guide": None, "likelihood": "known noise", "method": "SimVAE"}
    yield linear | {"method": "best factorised", "untrained": True}
    yield linear | {"untrained": True}
    for guide in (None, "product", "set"):
        yield linear | {"guide": guide}
    yield linear | {"likelihood": "one learned scale"}
    common = {"seed": seed, "positives": "vmf", "samples": SAMPLES, "groups": SIZES[1], "negatives": "averaged"}
    ball = common | {"part": "B", "true_mu": False, "head": None, "method": "MCInfoNCE"}
    for negatives in ("averaged", "summed"):
        for kind in ("vmf", "accepted"):
            yield common | {"part": "C", "positives": kind, "negatives": negatives, "samples": 64}
    yield ball | {"untrained": True}
    true = ball | {"true_mu": True}
    for more in ({"negatives": "summed"}, {}, {"positives": "accepted"}, {"method": "VISimSiam"}):
        yield true | {"samples": 64} | more
    for groups in (SIZES[1], SIZES[0], SIZES[2]):
        for more in ({"negatives": "summed"}, {}, {"method": "VISimSiam"}, {"method": "SimVAE"}):
            yield ball | {"groups": groups} | more
    yield ball | {"method": "VISimSiam", "head": [128, DIM]}


def table(heads, body):
    shown = [[f"{v:.3g}" if isinstance(v, float) else "" if v is None else str(v) for v in row] for row in body]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *shown])


def label(cell):
    name, last = cell.get("method", "MCInfoNCE"), ", untrained" * bool(cell.get("untrained"))
    if name == "best factorised":
        return "the best factorised q(z_j given x_j), not fitted"
    if cell["part"] == "A":
        return f"{name}, {cell['guide'] or 'factorised'}, {cell['likelihood']}{last}"
    name += f", {cell['negatives']} negatives" * (name == "MCInfoNCE") + ", head" * bool(cell.get("head"))
    return name + f", {cell['positives']} positives" * (cell["part"] == "C" or cell["true_mu"]) + last


def report(rows):
    linear, ball, true, values, first = [], [], [], [], rows[0]
    names = {"view": "z_j of x_j", "group": "z of the group", "content": "y of the group"}
    for row in rows:
        cell, figures, told = row["cell"], row["figures"], [row["cell"]["seed"], row["steps"], row["seconds"]]
        if cell["part"] == "A":
            linear += [[label(cell), names[kind], *law.values(), *told] for kind, law in figures.items()]
        elif cell["part"] == "C":
            values.append([label(cell), *figures.values()])
        else:
            kappa, cosines = (
                [figures[name].get(key) for key in ("mae", "pearson", "spearman")] for name in ("kappa", "cosines")
            )
            kappa = [figures["kappa"]["median"], *kappa]
            if cell["true_mu"]:
                true.append([label(cell), cell["samples"], figures["level"], figures["slope"], *kappa[:2], *told])
            else:
                ball.append([label(cell), cell["groups"], figures["rmse"], *cosines, *kappa, *told])
    ran, three = ["seed", "steps", "CPU s"], ["MAE", "Pearson", "Spearman"]
    heads = [row["figures"] for row in rows if row["cell"]["part"] == "C"]
    return f"""# Recovery of true posteriors

Made by `benchmarks/recovery.py`, which says what everything is. {first["machine"]}, one thread, beside other fits on two cores;
torch {first["versions"]["torch"]}, genssl {first["versions"]["genssl"]}. The source of MCInfoNCE takes 100 000 steps of 512 pairs.

## A. Linear-Gaussian groups, D = {LATENT}, J = {VIEWS}, 256 groups a batch

{table(["guide, likelihood", "law", "R2 of means", "error of log det", "Spearman of scale", "KL, nats", *ran], linear)}

## B. Sphere in R^{DIM}, kappa in [{KAPPA[0]:g}, {KAPPA[1]:g}], pairs

{table(["method", "groups", "RMSE of mu", "cosines: MAE", *three[1:], "kappa: median", *three, *ran], ball)}

True locations, two parameters of kappa (the truth: level 0, slope 1), {SIZES[1]} groups a batch:

{table(["method", "draws", "level", "slope", "kappa: median", "MAE", *ran], true)}

## C. MCInfoNCE's objective, {SIZES[1]} groups, 64 draws, nats a group; cone 0 is collapse, the greatest value is what it wants

{table(["objective", *(heads[0] if heads else ())], values)}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only make the table from the stored figures")
    parser.add_argument("--check", action="store_true", help="only check the exact posteriors")
    parser.add_argument("--budget", type=float, default=90, help="CPU seconds of a cell's fit (default 90)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--only", default="", help="cells whose settings, as written in the file, contain this")
    args = parser.parse_args()
    out = RESULTS / "recovery.json"
    rows = json.loads(out.read_text()) if out.exists() else []
    torch.set_num_threads(1)
    if not args.table:
        check()
        print("exact posteriors: quadrature, importance sampling and moments agree", flush=True)
    for cell in [] if args.check or args.table else [cell for seed in args.seeds for cell in cells(seed)]:
        budget = args.budget / 3 if cell.get("true_mu") else args.budget
        fixed = cell["part"] == "C" or cell.get("untrained")
        done = any(cell == row["cell"] and (fixed or row["budget"] >= budget) for row in rows)
        if done or args.only not in json.dumps(cell):
            continue
        measured = {"A": linear_cell, "B": spherical_cell, "C": value_cell}[cell["part"]](cell, budget)
        rows = [row for row in rows if row["cell"] != cell]
        rows.append({"cell": cell, "budget": budget, **measured, **environment(torch.device("cpu"))})
        write_json(out, rows)
        print(json.dumps(cell), measured["steps"], measured["figures"], flush=True)
    if rows and not args.check:
        (RESULTS / "recovery.md").write_text(report(rows))


if __name__ == "__main__":
    main()
