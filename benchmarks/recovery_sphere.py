"""Parts B and C of benchmarks/recovery.py: MCInfoNCE's protocol on the sphere, and its objective at given posteriors."""

from __future__ import annotations

import math

import numpy as np
import pyro
import torch
from genssl.models import MCInfoNCE, SimVAE, VISimSiam
from recovery_fit import fit
from recovery_linear import rotation
from scipy.stats import pearsonr, spearmanr
from torch import nn
from torch.nn.functional import leaky_relu, normalize

from genssl.distributions import VonMisesFisher
from genssl.groups import Groups
from genssl.networks.mlp import mlp_encoder
from genssl.objective import Objective
from genssl.terms import Constant, MonteCarloContrast

DIM, POSITIVE, KAPPA, SAMPLES = 10, 20.0, (16.0, 32.0), 16
MIDDLE = 0.5 * math.log(KAPPA[0] * KAPPA[1])
SIZES = (33, 64, 128)  # groups a batch; 33: 32 negatives, as in the source
TEST = 1500


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
            spread(method.encoder[0], sets[0][0])
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


def check():
    """Inverse, mean cosine of positives and p(z | x) against moments and importance sampling."""
    torch.manual_seed(0)
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
