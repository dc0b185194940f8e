"""What a guide loses that does not see its group, in the case with a closed form: results/group_guides.json and results/group_guides.md.

    python benchmarks/group_guides.py           # about 5 minutes on one thread, then writes both

One latent dimension: y ~ N(0, 1), z_j ~ N(y, 0.15), x_j ~ N(z_j, 0.02), the model known, only the guide is fitted: a linear map from x_j to
mean and log scale of z_j, among which the best amortised factorised guide is, and what the group-aware guides add to it; 2000 steps of
1024 fresh groups. The gap of the bound to log p(x_1..x_J) is then KL(q || p(z | x)) of two normals, computed exactly for each of 20 000
fresh groups; for the best factorised guide its mean is a formula. Calibration: ranks of the truth among 199 draws for 2000
groups drawn from the model, 20 bins, z of the first view (genssl.posterior.calibrate).
"""

from __future__ import annotations

import math
import platform
import time
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from genssl.models import SimVAE
from genssl.models.group_guides import ProductOfExperts, SetGuide
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform

from genssl.distributions import GroupPosterior
from genssl.files import read_json, write_bytes, write_json
from genssl.groups import Groups
from genssl.objective import Objective
from genssl.posterior import calibrate
from genssl.terms import LogPrior

RESULTS = Path(__file__).parent.parent / "results"
VIEW, CONTENT, NOISE = 0.15, 1.0, 0.02  # variances
STEPS, BATCH, TEST = 2000, 1024, 20_000
VIEWS, SEEDS = (2, 10), (0, 1, 2)
GUIDES = {"factorised": lambda: None, "product": lambda: ProductOfExperts(start=0.0), "set": lambda: SetGuide(1, 64)}


def precision_of(views: int) -> tuple[Tensor, Tensor]:
    """Precision [J, J] of p(z | x), and the covariance of x_1..x_J."""
    eye = torch.eye(views, dtype=torch.float64)
    prior = VIEW * eye + CONTENT
    return torch.linalg.inv(prior) + eye / NOISE, prior + NOISE * eye


def best_factorised(views: int) -> dict[str, float]:
    """The best q(z_j | x_j) = N(a x_j, s^2): its gap, and how often its central 90 % interval holds z_j."""
    precision, covariance = precision_of(views)
    slope = float(covariance.trace() / NOISE / (precision @ covariance).trace())
    variance = float(1 / precision[0, 0])
    away = slope * torch.eye(views, dtype=torch.float64) - torch.linalg.inv(precision) / NOISE
    quadratic = (precision @ away @ covariance @ away.T).trace()
    kl = 0.5 * (variance * precision.trace() - views + quadratic - precision.logdet() - views * math.log(variance))
    spread = (VIEW + CONTENT) * (1 - slope) ** 2 + slope**2 * NOISE
    coverage = 2 * norm.cdf(norm.ppf(0.95) * math.sqrt(variance / spread)) - 1
    return {"gap": float(kl), "slope": slope, "scale": math.sqrt(variance), "coverage_90": float(coverage)}


def fresh(groups: int, views: int) -> Groups:
    y = CONTENT**0.5 * torch.randn(groups, 1, 1)
    z = y + VIEW**0.5 * torch.randn(groups, views, 1)
    return Groups(z + NOISE**0.5 * torch.randn_like(z))


def make(encoder: nn.Module, guide: nn.Module | None) -> SimVAE:
    return SimVAE(
        encoder, nn.Identity(), VIEW**0.5, NOISE**0.5, CONTENT**0.5, dim=1, group_guide=guide,
        objective=Objective(prior=LogPrior(analytic=True)),
    )  # fmt: skip


def fit(kind: str, views: int, seed: int) -> SimVAE:
    torch.manual_seed(seed)
    encoder = nn.Linear(1, 2)
    nn.init.zeros_(encoder.weight)
    method = make(encoder, GUIDES[kind]())
    loss = method.objective(method.model, method.guide)
    # Gradients are hundreds of times larger while the scale is wide: a longer memory of their squares would hold the steps back.
    optimiser = torch.optim.Adam(method.parameters(), 1e-2, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(fresh(BATCH, views)).backward()
        optimiser.step()
        schedule.step()
    return method.eval()


@torch.no_grad()
def gaps(method: SimVAE, views: int) -> Tensor:
    """[TEST] KL(q(z | x) || p(z | x)) in nats, of dense normals in float64."""
    torch.manual_seed(12345)
    groups = fresh(TEST, views)
    law = method.joint(groups)
    mean = law.mean[..., 0].double()
    seen = isinstance(law, GroupPosterior)
    covariance = law.covariance[..., 0, :, :].double() if seen else law.variance[..., 0].double().diag_embed()
    precision, _ = precision_of(views)
    exact = groups.x[..., 0].double() @ torch.linalg.inv(precision) / NOISE
    away = mean - exact
    trace = (precision * covariance).sum((-1, -2))
    quadratic = torch.einsum("gi,ij,gj->g", away, precision, away)
    return 0.5 * (trace - views + quadratic - precision.logdet() - torch.linalg.slogdet(covariance)[1])


class Expert(nn.Module):
    """The likelihood itself as a message about z_j; scale times `factor`."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.full_like(x, math.log(self.factor * NOISE**0.5))], -1)


class Halved(ProductOfExperts):
    """The exact posterior, its deviations from the mean halved."""

    def forward(self, views: Any, groups: Groups, prior: Any) -> Any:
        exact = super().forward(views, groups, prior)
        return dist.TransformedDistribution(exact, [AffineTransform(0.5 * exact.mean, 0.5, event_dim=2)])


def calibration(method: SimVAE, views: int) -> dict[str, float]:
    found = calibrate(method, fresh(2, views), groups=2000, samples=199, bins=20)["z"]
    return {"p_value": found.p_value, "coverage_90": found.coverage[0.9]}


def measure() -> dict[str, Any]:
    began = time.perf_counter()
    result: dict[str, Any] = {"best": {views: best_factorised(views) for views in VIEWS}, "gap": {}, "calibration": {}}
    for views in VIEWS:
        shown = {"exact": make(Expert(), ProductOfExperts(start=0.0)), "exact, scales halved": make(Expert(), Halved())}
        for kind in GUIDES:
            fitted = [fit(kind, views, seed) for seed in SEEDS]
            result["gap"][f"{kind}, J = {views}"] = [float(gaps(method, views).mean()) for method in fitted]
            shown[kind] = fitted[0]
            print(kind, views, result["gap"][f"{kind}, J = {views}"], flush=True)
        for name, method in shown.items():
            result["calibration"][f"{name}, J = {views}"] = calibration(method, views)
            print(name, views, result["calibration"][f"{name}, J = {views}"], flush=True)
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return result | {
        "seeds": SEEDS,
        "steps": STEPS,
        "seconds": round(time.perf_counter() - began),
        "versions": versions,
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "# Guides that see their group, and guides that do not",
        "",
        (__doc__ or "").strip().split("\n\n")[-1].replace("\n", " "),
        "",
    ]
    lines += [
        "| guide | views | gap, nats a group: mean of seeds (range) | best factorised | closed of it |",
        "|---|---|---|---|---|",
    ]
    for name, found in result["gap"].items():
        kind, views = name.split(", J = ")
        best, mean = result["best"][views]["gap"], sum(found) / len(found)
        closed = "" if kind == "factorised" else f"{100 * (1 - mean / best):.1f} %"
        lines.append(
            f"| {kind} | {views} | {mean:.4f} ({min(found):.4f} to {max(found):.4f}) | {best:.4f} | {closed} |"
        )
    lines += [
        "",
        "| posterior | views | p of uniform ranks | coverage of nominal 90 % | predicted |",
        "|---|---|---|---|---|",
    ]
    for name, found in result["calibration"].items():
        kind, views = name.split(", J = ")
        said = {"factorised": result["best"][views]["coverage_90"], "exact": 0.9}.get(kind)
        told = "" if said is None else f"{100 * said:.1f} %"
        lines.append(f"| {kind} | {views} | {found['p_value']:.2g} | {100 * found['coverage_90']:.1f} % | {told} |")
    lines += [
        "",
        f"torch {result['versions']['torch']}, CPU, one thread, seeds {', '.join(map(str, result['seeds']))}; calibration: seed 0.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_json(RESULTS / "group_guides.json", measure())
    write_bytes(RESULTS / "group_guides.md", table(read_json(RESULTS / "group_guides.json")).encode())
