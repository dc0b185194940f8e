"""Two processes are one: loss, gradient and state of every gallery method, over halves of a batch against the whole."""

from __future__ import annotations

import json
import traceback

import genssl.models
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from genssl import Groups
from genssl.fit.build import gallery

GROUPS, VIEWS, STEPS = 32, 3, 2
SETTINGS = {
    "CLIP": {"head": (6, 4)},
    "DeepCluster": {"num_clusters": 3, "period": 1},
    "InstanceDiscrimination": {"bank": True},
    "LDM": {"head": (6, 2), "shrinkage": 0.1},
    "MCInfoNCE": {"num_samples": 3},
    "MoCo": {"queue_size": 100},
    "SwAV": {"num_prototypes": 4},
    "WMSE": {"head": (6, 2)},
}
MORE = {
    "MCInfoNCE separated": {"num_samples": 2, "separated": True},
    "SimVAE set": {"group_guide": "set"},
    "SimVAE product": {"group_guide": "product"},
    "SimCLR DDP": {},  # in torch's own wrapper, which takes the mean of gradients itself
}
TERMS = (
    "KernelDensityEntropy", "NearestNeighbourEntropy:k=2", "SphericalEntropy:mi_weight=0.5", "Uniformity",
    "LogDeterminantEntropy:shrinkage=0.1",
)  # fmt: skip
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5}


def build(name, groups):
    from genssl.fit.slots import parse_term

    name, _, term = name.partition("/")
    cls = gallery()[name.split()[0]]
    settings = {"hidden": (8,), "dim": 3, **SETTINGS.get(name, {}), **MORE.get(name, {})}
    if not issubclass(cls, genssl.models.GenerativeMethod) and name != "CLIP":
        settings.setdefault("head", (6, 4))
    torch.manual_seed(0)
    method = cls.build(groups, **settings)
    return method.swap(reconstruction=parse_term(term)) if term else method


def batch(name, ragged, step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(GROUPS, 2 if name == "CLIP" else VIEWS, 1, 4, 4, generator=generator)
    mask = torch.rand(x.shape[:2], generator=generator) < 0.7 if ragged else None
    if mask is not None:
        mask[:, 0] = True
        mask[1] = mask[2] = mask[5] = True
    groups = Groups(x, mask=mask, label=torch.arange(GROUPS) % 3, source=x[:, 0])
    groups.total, groups.rows = 2 * GROUPS, (torch.arange(GROUPS) * 3 + step) % (2 * GROUPS)
    return groups


def steps(name, ragged, part):
    """Losses, gradients of each step, and the state after, on this part of the groups."""
    method = build(name, batch(name, ragged, 0))
    module = method.objective(method.model, method.guide)
    module.train()
    forward = DistributedDataParallel(module) if name.endswith("DDP") and dist.is_initialized() else module
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-2)
    found = []
    for step in range(STEPS):
        whole = batch(name, ragged, step)
        groups = whole[part]
        groups.total, groups.rows = whole.total, whole.rows[part]
        torch.manual_seed(step)
        optimiser.zero_grad()
        loss = forward(groups)
        loss.backward()
        values = [loss.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]
        genssl.distributed.average(values)
        found.append([value.clone() for value in values])
        optimiser.step()
        module.update()
    return found, {key: value for key, value in method.state_dict().items() if isinstance(value, torch.Tensor)}


def cases():
    for name in [*gallery(), *MORE]:
        yield name, False
        if name != "CLIP":
            yield name, True
    for term in TERMS:
        yield f"SimVAE/{term}", False


def difference(one, other):
    """Largest difference, relative to the largest number."""
    pairs = list(zip(one, other, strict=True))
    scale = max((float(a.abs().max()) for a, _ in pairs if a.numel()), default=0.0)
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0) / max(scale, 1e-30)


def compare(rank, store, answers):
    """One of two processes: every case on its half, then (the process group gone) on the whole."""
    torch.set_num_threads(1)
    found = {}
    try:
        half = slice(rank * GROUPS // 2, (rank + 1) * GROUPS // 2)
        for dtype in BOUNDS:
            torch.set_default_dtype(dtype)
            dist.init_process_group("gloo", store=dist.FileStore(f"{store}-{dtype}", 2), rank=rank, world_size=2)
            parts = {case: steps(*case, half) for case in cases()}
            dist.destroy_process_group()
            for case in cases():
                ours, state = parts[case]
                theirs, expected = steps(*case, slice(None))
                gradients = max(difference(a[1:], b[1:]) for a, b in zip(ours, theirs, strict=True))
                losses = max(difference(a[:1], b[:1]) for a, b in zip(ours, theirs, strict=True))
                floats = [key for key in expected if expected[key].is_floating_point()]
                found[f"{dtype} {case}"] = {
                    "dtype": str(dtype), "loss": losses, "gradient": gradients,
                    "state": difference([state[k].double() for k in floats], [expected[k].double() for k in floats]),
                    "whole numbers": all(torch.equal(state[k], expected[k]) for k in expected if k not in floats),
                }  # fmt: skip
    except BaseException:
        found["error"] = traceback.format_exc()
    with open(f"{answers}-{rank}", "w") as file:
        json.dump(found, file)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch.distributed has no gloo here")
    place = tmp_path_factory.mktemp("processes")
    mp.spawn(compare, args=(str(place / "store"), str(place / "answers")), nprocs=2)
    return [json.loads((place / f"answers-{rank}").read_text()) for rank in range(2)]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_two_processes_are_one(found, rank, dtype):
    assert "error" not in found[rank], found[rank]["error"]
    mine = {case: figures for case, figures in found[rank].items() if figures["dtype"] == str(dtype)}
    assert len(mine) == len(list(cases()))
    wrong = {
        case: figures
        for case, figures in mine.items()
        if max(figures["loss"], figures["gradient"], figures["state"]) > BOUNDS[dtype] or not figures["whole numbers"]
    }
    assert not wrong, "\n".join(f"{case}: {figures}" for case, figures in wrong.items())
