"""The step that cost.py measures, and how: processor time, and what torch's allocator gives out."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import genssl
from genssl import views
from genssl.datasets import Items
from genssl.fit.batches import Batches
from genssl.fit.build import build, find_class
from genssl.fit.optimiser import make_optimiser
from genssl.fit.step import Stepper

BASE = {"groups": 64, "views": 4, "dim": 64, "particles": 1}
GENERATIVE, GUIDE_ONLY = ("SimVAE", "VAE"), ("SimCLR", "VICReg", "MoCo")
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"shape": (1, 28, 28), "views": views.mnist, "hidden": (500, 500, 2000), "head": 256},
    "small": {"shape": (1, 8, 8), "views": views.digits, "hidden": (64, 64), "head": 64},
}
IMAGES = 20000
MEGABYTE = 1e6


class Step:
    """Takes the next training step, as genssl.fit takes it."""

    def __init__(self, method: str, network: str, **values: int) -> None:
        at, kind, device = BASE | values, NETWORKS[network], torch.device("cpu")
        example = genssl.Groups(torch.zeros(2, at["views"], *kind["shape"]))
        example.total = IMAGES  # so that a queue has its full length
        settings: dict[str, Any] = {"dim": at["dim"], "hidden": kind["hidden"]}
        if method in GUIDE_ONLY:
            settings["head"] = (kind["head"], at["dim"])
        made = build(find_class(method), example, 0, settings)
        made.objective.num_particles = at["particles"]
        images = torch.randint(0, 256, (IMAGES, *kind["shape"]), dtype=torch.uint8)
        batches = Batches(Items(images), kind["views"](), at["views"], at["groups"], 0, device)
        module = made.objective(made.model, made.guide).train()
        self.optimiser = make_optimiser("adam", module.parameters(), 1e-3)
        self.stepper = Stepper(
            module, self.optimiser, batches, {"seed": 0, "clip": None, "lr": 1e-3, "steps": 10**6}, "constant"
        )
        self.stream = batches.run(0, 10**6)

    def __call__(self) -> None:
        self.stepper(*next(self.stream))


def milliseconds(step: Step, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        step()
    return 1e3 * (time.process_time() - began) / count


def allocated(step: Step) -> float:
    """Megabytes by which what torch has given out rises within a step, above weights, moments and the last views.

    Of two steps the second: of blocks that came before it a profile does not know how large they are when they go.
    """
    peak = 0
    for _ in range(2):
        step.optimiser.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            step()
        held = peak = 0
        events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
    return peak / MEGABYTE
