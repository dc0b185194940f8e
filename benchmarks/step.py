"""The training step against a hand-written loop of the same mathematics, both in turn in one process.

    python benchmarks/step.py [--setting mnist|digits] [--precision 32|bf16] [--rounds 24] [--steps 5] [--json FILE]

Both sides draw the same views with the same augmentation from images in memory, run the same networks in the same precision, take
the same Adam. The hand-written side has no Pyro, no sites and no terms: it is Algorithm 1 of Bizeul et al. 2024 in ten lines. The
third side is a product of two 2048 x 2048 matrices in the same precision: the step's products (forward, two gradients) are set against its
rate; the fourth is these products alone, in their own sizes, which no loop can beat.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from genssl.models import SimVAE

import genssl
from genssl import views
from genssl.datasets import Items
from genssl.fit.batches import Batches
from genssl.fit.optimiser import make_optimiser
from genssl.fit.precision import networks_in
from genssl.fit.randomness import seed_noise
from genssl.fit.step import Stepper

SETTINGS = {
    "mnist": {"shape": (1, 28, 28), "groups": 128, "views": 10, "hidden": (500, 500, 2000), "transform": views.mnist},
    "digits": {"shape": (1, 8, 8), "groups": 128, "views": 4, "hidden": (256, 256), "transform": views.digits},
}


class HandWritten:
    """A loop that somebody would write without a library. A step is `prepare`, of the host, and `body`, of the device."""

    def __init__(self, encoder, decoder, optimiser, images, transform, groups, num_views, precision, view_scale, scale):
        self.encoder, self.decoder, self.optimiser, self.images = encoder, decoder, optimiser, images
        self.transform, self.groups, self.num_views, self.bf16 = transform, groups, num_views, precision == "bf16"
        self.view_scale, self.scale, self.device = view_scale, scale, images.device
        self.permutation = torch.randperm(len(images), device=self.device)
        self.generator = torch.Generator(self.device)
        self.index = self.permutation[:groups].clone()

    def __call__(self, number: int) -> None:
        self.prepare(number)
        self.body()

    def prepare(self, number: int) -> None:
        start = (number * self.groups) % (len(self.images) - self.groups)
        self.index.copy_(self.permutation[start : start + self.groups])
        self.generator.manual_seed(number)

    def body(self) -> None:
        autocast = lambda: torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)  # noqa: E731
        source = self.images.index_select(0, self.index).float() / 255
        x, _ = self.transform(source.repeat_interleave(self.num_views, 0), None, self.generator)
        with autocast():
            output = self.encoder(x)
        loc, log_scale = output.float().chunk(2, -1)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        with autocast():
            mean = self.decoder(z)
        reconstruction = -(mean.float() - x).square().sum() / (2 * self.scale**2)
        entropy = log_scale.sum()
        grouped = z.unflatten(0, (self.groups, self.num_views))
        prior = -(grouped - grouped.mean(1, keepdim=True)).square().sum() / (2 * self.view_scale**2)
        loss = -(reconstruction + entropy + prior) / self.groups
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


def library(method, optimiser, images, transform, groups, num_views, precision):
    """A step as genssl.fit takes it, and the Stepper."""
    batches = Batches(Items(images), transform, num_views, groups, 0, images.device)
    module = method.objective(method.model, method.guide)
    config = {"seed": 0, "clip": None, "lr": 1e-3, "steps": 10**6}
    stepper, stream = Stepper(module, optimiser, batches, config, "constant"), batches.run(0, 10**6)

    def step(_: int) -> None:
        number, batch = next(stream)
        stepper(number, batch)

    return step, stepper


def peak(precision: str, size: int = 2048) -> Callable[[int], None]:
    """One product of two matrices, the rate of which is what this processor can do."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16 if precision == "bf16" else torch.float32) for _ in range(2))

    def step(_: int) -> None:
        a @ b

    return step


def products(precision: str, rows: int, *networks: torch.nn.Module) -> Callable[[int], None]:
    """The step's own products and nothing else, each in its layout: forward, gradient of inputs, gradient of weights."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layers = [part for network in networks for part in network.modules() if isinstance(part, torch.nn.Linear)]
    made = [
        (torch.randn(rows, w.shape[1], dtype=dtype), w.detach().to(dtype), torch.randn(rows, w.shape[0], dtype=dtype))
        for w in (layer.weight for layer in layers)
    ]

    def step(_: int) -> None:
        for x, w, gradient in made:
            x @ w.t()
            gradient @ w
            gradient.t() @ x

    return step


def operations(*networks: torch.nn.Module, rows: int) -> float:
    """Floating-point operations of a step in the products of linear layers: forward, gradient of inputs, gradient of weights."""
    weights = sum(
        part.weight.numel() for network in networks for part in network.modules() if isinstance(part, torch.nn.Linear)
    )
    return 6.0 * rows * weights


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--setting", choices=SETTINGS, default="mnist")
    parser.add_argument("--precision", choices=("32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    s = SETTINGS[args.setting]
    torch.manual_seed(0)
    images = torch.randint(0, 256, (20000, *s["shape"]), dtype=torch.uint8)
    example = genssl.Groups(torch.zeros(2, s["views"], *s["shape"]))
    transform, view_scale, scale = s["transform"](), math.sqrt(0.15), math.sqrt(0.02)

    ours, theirs = (
        SimVAE.build(example, hidden=s["hidden"], view_scale=view_scale, likelihood_scale=scale) for _ in range(2)
    )
    rest = (images, transform, s["groups"], s["views"], args.precision)
    adam = make_optimiser("adam", theirs.parameters(), 1e-3)
    by_hand = HandWritten(theirs.encoder, theirs.decoder, adam, *rest, view_scale, scale)
    by_genssl, _ = library(ours, make_optimiser("adam", ours.parameters(), 1e-3), *rest)
    seed_noise(0, 0, torch.device("cpu"))

    import pyro

    product, size = peak(args.precision), 2048
    own = products(args.precision, s["groups"] * s["views"], ours.encoder, ours.decoder)
    sides = {"genssl": by_genssl, "hand-written": by_hand, "product": product, "own products": own}
    times: dict[str, list[float]] = {name: [] for name in sides}
    number = 0
    with networks_in(args.precision, ours, torch.device("cpu")), pyro.validation_enabled(False):
        for step in sides.values():
            for k in range(5):
                step(k)
        for k in range(args.rounds):
            first = list(sides)[k % len(sides) :] + list(sides)[: k % len(sides)]  # none always follows the same one
            for name in first:
                step = sides[name]
                began = time.perf_counter()
                for _ in range(args.steps):
                    step(number)
                    number += 1
                times[name].append((time.perf_counter() - began) / args.steps)
    work = operations(ours.encoder, ours.decoder, rows=s["groups"] * s["views"])
    rate = 2.0 * size**3 / statistics.median(times["product"])
    result = {
        "setting": args.setting,
        "precision": args.precision,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        **{f"{name} ms": 1e3 * statistics.median(values) for name, values in times.items()},
        "GFLOP a step": work / 1e9,
        "share of the matrix-product rate": work / statistics.median(times["genssl"]) / rate,
        "share of that by its products alone": work / statistics.median(times["own products"]) / rate,
        "views/s of genssl": s["groups"] * s["views"] / statistics.median(times["genssl"]),
        "speed against hand-written": statistics.median(
            b / a for a, b in zip(times["genssl"], times["hand-written"], strict=True)
        ),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
