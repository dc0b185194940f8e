"""Steps in one CUDA graph: the device repeats what it was shown once, without Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from genssl.datasets import Items
from genssl.distributed import world
from genssl.fit.build import is_own
from genssl.fit.randomness import generators_kept, stream_seed
from genssl.fit.snapshot import Snapshot, attributes
from genssl.fit.step import Stepper, parts_of, undone
from genssl.groups import Groups
from genssl.host_sync import HostSyncError, NoHostSync

Recorder = Callable[[Callable[[], None], torch.Generator], Callable[[], None]]
"""(body, generator) -> replay: what body made the device do, done again at every call. A recorder may or may not do it once."""

WARM = 3
"""Steps before the recording: libraries choose their kernels and take their workspaces in the first."""
LOOKS = (1, 10, 100)
"""The steps after a recording that are repeated without the graph; the first step of every epoch is, too."""
TERMS, CHANGE = 1e-4, 1e-2
"""Largest relative difference, between graph and repetition, of the slots of a group and of what a step changes."""


def cuda_graph(body: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """Record the body in a CUDA graph. Draws of the default generator and of this one go on from the seeds that they have at a replay."""
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        body()
    return graph.replay


def graphed(stepper: Stepper, method: nn.Module, record: Recorder = cuda_graph) -> tuple[Stepper, str | None]:
    """A stepper with these steps in one graph; or the same one, and why not. Changes no parameter, buffer or moment."""
    because = eager_because(stepper, method)
    if because is not None:
        return stepper, because
    graph = GraphStepper(stepper, record)
    because = graph.start_graph()
    return (graph, None) if because is None else (stepper, because)


def eager_because(stepper: Stepper, method: nn.Module) -> str | None:
    """Why the steps of a fit cannot be recorded; None where that can be tried."""
    split, views = stepper.batches.split, stepper.batches.views
    parts = [part for module in parts_of(stepper.module) for part in module.modules()]
    keeps = next((type(part).__name__ for part in parts if getattr(part, "capturable", None) is False), None)
    if world() > 1:
        return "several processes talk to each other in every step"
    if not isinstance(split, (Items, Groups)):
        return "the data are read from disk while it trains"
    if not (isinstance(split, Groups) or views is None or hasattr(views, "style_names")):
        return "views is a callable of your own"
    if not stepper.masks:
        return "the optimiser is not Adam in one kernel"
    if keeps is not None:
        return f"{keeps} keeps state in Python (capturable = False)"
    cls = type(method)
    # A class of the user says so itself: what it inherits was said of another guide, model and update.
    if not (vars(cls).get("capturable", False) if is_own(cls) else getattr(cls, "capturable", False)):
        return f"{cls.__name__} does not say that it can be recorded (capturable = True)"
    return None


class GraphStepper(Stepper):
    """A Stepper whose steps are one graph: gather, views, guide, model, terms, gradient, guard, optimiser, update.

    Python runs when the graph is recorded, and no more. Before a replay the host writes which groups, the learning rate and two seeds; what
    else a step depends on must be on the device and changed in place. So a method says that it keeps no state in Python (`capturable`), and
    steps on trial find numbers of modules that change, and under NoHostSync what the host would read. Steps 1, 10, 100 and the first of
    every epoch are repeated without the graph from the same state: slots that differ by 1e-4, or a change of parameters, buffers or moments
    that differs by 1e-2, relative to the largest, stop the graph with a warning. The run then goes on without it, from the repetition; the
    steps before that one, back to the repetition before it, were the graph's.
    """

    def __init__(self, stepper: Stepper, record: Recorder = cuda_graph) -> None:
        config = {"seed": stepper.seed, "clip": stepper.clip, "steps": stepper.steps}
        super().__init__(stepper.module, stepper.optimiser, stepper.batches, config, stepper.schedule)
        self.record, self.replays = record, 0
        self.replay: Callable[[], None] | None = None
        self.index = torch.arange(self.batches.batch_size, device=self.device)
        self.generator = torch.Generator(self.device)

    def start_graph(self) -> str | None:
        """Record; or why that failed, and steps will be taken one by one. Changes no parameter, buffer or moment."""
        for group in self.optimiser.param_groups:
            group.update(capturable=True, lr=torch.full((), float(group["lr"]), device=self.device))
        self._make_moments()
        try:
            with undone(self):
                for _ in range(WARM):
                    before = self._numbers()
                    self._eager(0)
                changed = next((key[1] for key, value in self._numbers().items() if before.get(key) != value), None)
                if changed is not None:
                    raise HostSyncError(f"{changed} changes in a step and is no tensor: a replay would not see it")
                with NoHostSync():
                    self._eager(0)
                self.prepare(0)
                self.replay = self.record(self._body, self.generator)
                self.recorded = self.module.terms
        except (HostSyncError, RuntimeError) as error:
            self.replay = None
            for group in self.optimiser.param_groups:
                group.update(capturable=False, lr=float(group["lr"]))
            return " ".join(str(error).split())[:300]
        return None

    def start(self) -> None:
        super().start()
        self.replays = 0

    def run(self, first: int, last: int) -> Iterator[int]:
        for step, index in self.batches.places(first, last):
            if self.replay is None:
                yield from super().run(step, last)
                return
            self.index.copy_(index)
            if self.replays in LOOKS or step % self.batches.steps_per_epoch == 0:
                self._repeat(step)
            else:
                self._replay(step)
            self.replays += 1
            yield step

    def set_rate(self, group: dict[str, Any], rate: float) -> None:
        group["lr"].fill_(rate)

    def prepare(self, step: int) -> None:
        super().prepare(step)
        self.generator.manual_seed(stream_seed(self.seed, "views", step))

    def _body(self) -> None:
        self.take(self.batches.made_of(self.index, self.generator))

    def _eager(self, step: int) -> None:
        self.prepare(step)
        self._body()

    def _make_moments(self) -> None:
        """Have the optimiser make its state, which a graph would make anew in every replay: a step that its guard masks."""
        tensors = Snapshot(parts_of(self.module), plain=True)
        self.good.fill_(False)
        with generators_kept():
            self._eager(0)
        tensors.restore()
        self.start()

    def _replay(self, step: int) -> None:
        assert self.replay is not None
        self.prepare(step)
        self.replay()
        self.module.terms = self.recorded

    # ------------------------------------------------------------------ graph = eager

    def _repeat(self, step: int) -> None:
        """A step by the graph, then from the same state without it, which stays."""
        state = self._state()
        before = [value.clone() for value in state]
        self._replay(step)
        graph, slots = [value.clone() for value in state], _slots(self.recorded)
        with torch.no_grad():
            torch._foreach_copy_(state, before)
        self._eager(step)
        told = _difference(slots, _slots(self.module.terms), graph, self._state(), before)
        if told is not None and bool(self.good):
            self.replay = None
            warnings.warn(
                f"step {step}: the CUDA graph differs from the step without it: {told}; the run goes on without the graph. Does the "
                "method keep state in Python (capturable = False), or is it random beyond torch's generators?",
                stacklevel=2,
            )

    def _numbers(self) -> dict[tuple[int, str], Any]:
        """The numbers and words that modules hold, by place and name."""
        parts = [part for module in parts_of(self.module) for part in module.modules()]
        return {
            (i, f"{type(part).__name__}.{name}"): value
            for i, part in enumerate(parts)
            for name, value in attributes(part).items()
            if not isinstance(value, Tensor)
        }

    def _state(self) -> list[Tensor]:
        """Every tensor that a step may change."""
        parts = [part for module in parts_of(self.module) for part in module.modules()]
        found: list[Any] = [v for part in parts for table in (part._parameters, part._buffers) for v in table.values()]
        found += [value for part in parts for value in attributes(part).values()]
        found += [value for state in self.optimiser.state.values() for value in state.values()]
        found += [self.good, self.count, self.sums]
        return list({id(value): value for value in found if isinstance(value, Tensor)}.values())


def _slots(terms: Any) -> Tensor:
    """[3, G], a copy."""
    return torch.stack([terms.reconstruction, terms.entropy, terms.prior]).detach().clone()


def _difference(
    slots: Tensor, repeated: Tensor, graph: list[Tensor], eager: list[Tensor], before: list[Tensor]
) -> str | None:
    """What differs by more than it may, told; None if nothing does."""
    largest = repeated.abs().amax(1).clamp(min=1e-6)
    apart = float(((slots - repeated).abs().amax(1) / largest).max())
    if not apart <= TERMS:
        return f"its slots by {apart:.1e} relative to the largest"
    for a, b, start in zip(graph, eager, before, strict=True):
        change, error = (b.double() - start.double()).norm(), (a.double() - b.double()).norm()
        if not bool(error <= CHANGE * change + 1e-6 * b.double().norm()):
            return (
                f"what it changes in a tensor of shape {list(b.shape)} by {float(error / change.clamp(min=1e-300)):.1e}"
            )
    return None
