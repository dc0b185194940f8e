"""One GPU, one command, aimed at under ten minutes: is the graph the step, and how fast is it. results/gpu.json and results/gpu.md.

    python benchmarks/gpu.py                  # checks, then the steps of all sides in turn
    python benchmarks/gpu.py --device cpu     # a rehearsal without a GPU, small, with the tests' graph: that it runs, and no figure

1. Graph = eager, TF32 off: two fits of one method from the same weights, steps by the graph and steps one by one. Slots of the first step
   within 1e-6, of step 200 within 1e-3, relative to the largest.
2. Milliseconds a step, median over rounds with the sides in turn, the same views from images on the device, the same networks, Adam:
   SVI + Trace_ELBO + pyro.optim.Adam (Pyro's checks off) | genssl, steps one by one | genssl, graph | hand-written, one by one |
   hand-written, graph. The paper's MLP and its convolutions, 120 views a step (12 groups of 10, the paper's) and 1280.
3. What the paper's MNIST run would take: 400 epochs of 60000 groups, 12 a step.

Asked for: at 120 views the graph at least 10 times as fast as SVI, and at least 0.9 of the hand-written graph.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from genssl.models import SimVAE
from step import HandWritten, library

import genssl
from genssl import models, views
from genssl.files import write_bytes, write_json
from genssl.fit.graph import cuda_graph, graphed
from genssl.fit.optimiser import make_optimiser
from genssl.fit.randomness import generators_kept

RESULTS = Path(__file__).parent.parent / "results"
SCALES = {"view_scale": math.sqrt(0.15), "likelihood_scale": math.sqrt(0.02)}
CHECKED = ("SimVAE", "VAE", "SimCLR", "MoCo", "VICReg", "BYOL", "DINO", "SwAV", "LDM")
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"shape": (1, 28, 28), "hidden": (500, 500, 2000), "dim": 10},
    "conv": {"shape": (3, 32, 32), "network": "conv", "dim": 64},
}


def images(shape: tuple[int, ...], device: torch.device, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator).to(device)


def method_for(
    name: str, shape: tuple[int, ...], num_views: int, total: int, device: torch.device, **settings: Any
) -> Any:
    torch.manual_seed(0)
    example = genssl.Groups(torch.rand(4, num_views, *shape))
    example.total = total
    return getattr(models, name).build(example, **settings).to(device)


def check(name: str, device: torch.device, record: Any, steps: int, **small: Any) -> dict[str, float]:
    """Largest relative difference of the slots at the first and the last step."""
    data = images((1, 28, 28), device, 2560)
    one = method_for(name, (1, 28, 28), 2, len(data), device, **small)
    other = copy.deepcopy(one)
    seen = []
    for method, wanted in ((one, False), (other, True)):
        optimiser = make_optimiser("adam", method.objective(method.model, method.guide).parameters(), 1e-4)
        _, stepper = library(method, optimiser, data, views.mnist(), 128, 2, "32")
        if wanted:
            stepper, because = graphed(stepper, method, record)
            assert because is None, f"{name}: {because}"
        slots = []
        for _ in stepper.run(0, steps):
            terms = stepper.module.terms
            slots.append(torch.stack([terms.reconstruction, terms.entropy, terms.prior]).clone())
        stepper.check()
        assert not wanted or stepper.replay is not None, f"{name}: the graph was stopped"
        seen.append(slots)

    def apart(step: int) -> float:
        a, b = seen[0][step], seen[1][step]
        return float(((a - b).abs().amax(1) / a.abs().amax(1).clamp(min=1e-6)).max())

    return {"first": apart(0), "last": apart(-1)}


def sides(
    kind: str, groups: int, device: torch.device, record: Any, count: int, **small: Any
) -> dict[str, Callable[[int], None]]:
    """step(number) of every side, warm."""
    given = NETWORKS[kind] | small
    shape, settings = given["shape"], {key: value for key, value in given.items() if key != "shape"} | SCALES
    data, transform, num_views = images(shape, device, count), views.mnist(), 10
    build = lambda: method_for("SimVAE", shape, num_views, count, device, **settings)  # noqa: E731

    def ours(graph: bool) -> Callable[[int], None]:
        method = build()
        optimiser = make_optimiser("adam", method.objective(method.model, method.guide).parameters(), 8e-5)
        step, stepper = library(method, optimiser, data, transform, groups, num_views, "32")
        if not graph:
            return step
        stepper, because = graphed(stepper, method, record)
        assert because is None, because
        stream = stepper.run(1, 10**9)
        return lambda _: (next(stream), None)[1]

    def by_hand(graph: bool) -> Callable[[int], None]:
        method = build()
        optimiser = torch.optim.Adam(method.parameters(), lr=8e-5, fused=True, capturable=graph)
        step = HandWritten(
            method.encoder, method.decoder, optimiser, data, transform, groups, num_views, "32", *SCALES.values()
        )
        for number in range(3):
            step(number)
        if not graph:
            return step
        replay = record(step.body, step.generator)

        def replayed(number: int) -> None:
            step.prepare(number)
            replay()

        return replayed

    def svi() -> Callable[[int], None]:
        method: SimVAE = build()
        _, stepper = library(
            method, torch.optim.SGD(method.parameters(), lr=0.0), data, transform, groups, num_views, "32"
        )
        stream = stepper.batches.run(0, 10**9)

        def guide(batch: Any) -> None:
            pyro.module("method", method)
            method.guide(batch)

        steps = pyro.infer.SVI(method.model, guide, pyro.optim.Adam({"lr": 8e-5}), pyro.infer.Trace_ELBO())
        return lambda _: (steps.step(next(stream)[1]), None)[1]

    return {
        "SVI, Trace_ELBO": svi(), "genssl": ours(False), "genssl, graph": ours(True), "hand-written": by_hand(False),
        "hand-written, graph": by_hand(True),
    }  # fmt: skip


def milliseconds(
    steps: dict[str, Callable[[int], None]], device: torch.device, rounds: int, seconds: float
) -> dict[str, float]:
    """Median over rounds, the sides in turn; as many steps a round as fill `seconds`."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    times: dict[str, list[float]] = {name: [] for name in steps}
    counts: dict[str, int] = {}
    for name, step in steps.items():
        for number in range(5):
            step(number)
        wait()
        began = time.perf_counter()
        for number in range(5):
            step(number)
        wait()
        counts[name] = max(5, int(seconds * 5 / (time.perf_counter() - began)))
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            for number in range(counts[name]):
                step(number)
            wait()
            times[name].append(1e3 * (time.perf_counter() - began) / counts[name])
    return {name: statistics.median(each) for name, each in times.items()}


def document(result: dict[str, Any]) -> str:
    lines = ["# Steps on a GPU", "", (__doc__ or "").split("\n\n", 2)[2].strip(), "", "## Graph = eager", ""]
    lines += ["| method | first step | last step |", "|---|---|---|"]
    lines += [
        f"| {name} | {each['first']:.1e} | {each['last']:.1e} |" for name, each in result["graph = eager"].items()
    ]
    lines += ["", "## Milliseconds a step", ""]
    names = list(next(iter(result["milliseconds"].values())))
    lines += [
        f"| | {' | '.join(names)} | graph against SVI | against the hand-written graph |",
        "|---|" + "---|" * (len(names) + 2),
    ]
    for setting, each in result["milliseconds"].items():
        mine = each["genssl, graph"]
        ratios = f"{each['SVI, Trace_ELBO'] / mine:.1f} | {each['hand-written, graph'] / mine:.2f}"
        lines.append(f"| {setting} | {' | '.join(f'{each[name]:.3f}' for name in names)} | {ratios} |")
    lines += [
        "",
        f"The paper's MNIST run, 400 epochs: {result['minutes of the MNIST run']:.0f} minutes by the graph.",
        "",
    ]
    return "\n".join([*lines, f"{result['device']}, torch {result['torch']}.", ""])


def tape() -> Any:
    """The tests' graph for a CPU."""
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "fit"))
    return importlib.import_module("tape").tape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="where gpu.json and gpu.md go; a rehearsal writes none"
    )
    args = parser.parse_args()
    rehearsal = args.device == "cpu"
    if not rehearsal and not torch.cuda.is_available():
        raise SystemExit("gpu.py: this torch sees no GPU; --device cpu rehearses it without one")
    device = torch.device("cpu") if rehearsal else torch.device("cuda", 0)
    record = tape() if rehearsal else cuda_graph
    small = {"hidden": (16,)} if rehearsal else {}
    rounds, seconds, last, count = (1, 0.1, 4, 1300) if rehearsal else (7, 1.0, 200, 60000)
    torch.backends.cudnn.allow_tf32 = False
    with pyro.validation_enabled(False), generators_kept():
        equal = {name: check(name, device, record, last, hidden=(64,)) for name in CHECKED}
        print(json.dumps(equal, indent=2), flush=True)
        torch.backends.cudnn.allow_tf32 = True
        found = {}
        for kind in ("mlp",) if rehearsal else NETWORKS:
            for groups in (12, 128):
                steps = sides(kind, groups, device, record, count, **small)
                found[f"{kind}, {10 * groups} views"] = milliseconds(steps, device, rounds, seconds)
                print(kind, groups, found[f"{kind}, {10 * groups} views"], flush=True)
    result = {
        "graph = eager": equal,
        "milliseconds": found,
        "minutes of the MNIST run": found["mlp, 120 views"]["genssl, graph"] * 400 * (60000 // 12) / 60e3,
        "device": "rehearsal" if rehearsal else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
    }
    print(document(result))
    if not rehearsal:
        write_json(args.out / "gpu.json", result)
        write_bytes(args.out / "gpu.md", document(result).encode())
    bad = [name for name, each in equal.items() if each["first"] > 1e-6 or each["last"] > 1e-3]
    if bad:
        raise SystemExit(f"gpu.py: graph and eager differ for {', '.join(bad)}")


if __name__ == "__main__":
    main()
