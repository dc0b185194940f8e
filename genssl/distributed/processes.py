"""The processes of a fit: rank and world, a group from torchrun's variables, what the first decides, one message in the end."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from genssl.errors import GensslError, ProcessError, SettingsError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
"""How long a process waits for another: more than any look, evaluation of neighbours or checkpoint that the first takes alone."""


def world() -> int:
    """The number of processes; 1 where torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """0 .. world - 1: which of the processes this is."""
    return dist.get_rank() if world() > 1 else 0


def local_rank() -> int:
    """Which of the processes of this machine this is, as torchrun says; the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def is_first() -> bool:
    """Whether this process writes the run folder and speaks."""
    return rank() == 0


def part_of(rows: Tensor) -> Tensor:
    """[n, *] -> [n / world, *], this process's slice of what all of them hold."""
    size = len(rows) // world()
    return rows[rank() * size : (rank() + 1) * size]


def program() -> list[str]:
    """The words in front of a command's arguments, by which processes like these are started again (on one machine)."""
    if world() == 1:
        return ["genssl"]
    return ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", str(world())), "-m", "genssl"]


@contextmanager
def started(device: torch.device | str | None = None, timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """The process group of torchrun's variables (RANK, WORLD_SIZE, ...), ended with the block; a group that is there is left alone.

    gloo, and NCCL for tensors on a GPU. A process that cannot reach the others raises ProcessError.
    """
    given = int(os.environ.get("WORLD_SIZE", 1)) > 1 and {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    begins = given and dist.is_available() and not dist.is_initialized()
    if not begins and world() == 1:
        yield
        return
    if begins:
        gpu = str(device or "auto").partition(":")[0] != "cpu" and torch.cuda.is_available()
        if gpu:
            _check_gpus()
            torch.cuda.set_device(local_rank())
        with _told():
            backend, (store, number, size) = "cpu:gloo,cuda:nccl" if gpu else "gloo", _fresh_store(timeout)
            dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=timeout)
    try:
        with _told():
            yield
    finally:
        if begins and dist.is_initialized():
            with suppress(RuntimeError):  # the others may have gone
                dist.destroy_process_group()


_met: list[Any] = []
_starts = itertools.count()


def _fresh_store(timeout: timedelta) -> tuple[Any, int, int]:
    """The store of torchrun's variables, rank and world; what an earlier group left in it is under another name."""
    if not _met:
        _met.extend(next(dist.rendezvous("env://", timeout=timeout)))
    store, number, size = _met
    return dist.PrefixStore(f"genssl/{next(_starts)}", store), number, size


def _check_gpus() -> None:
    count = torch.cuda.device_count()
    if local_rank() >= count:
        raise SettingsError(
            f"process {local_rank()} of this machine has no GPU: there are {count}; give --nproc-per-node {count}, or --device cpu"
        )


@contextmanager
def _told() -> Iterator[None]:
    """What torch.distributed raises where a peer has gone, in our words."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        lost = isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text
        if isinstance(error, GensslError) or not lost:
            raise
        reason = text.rpartition("] ")[2].partition(". ")[0]
        raise ProcessError(
            f"process {os.environ.get('RANK', rank())} of {os.environ.get('WORLD_SIZE', world())} lost another one ({reason}); if that "
            "said nothing it was killed: look at memory, then go on with --resume"
        ) from error


@contextmanager
def one_voice() -> Iterator[None]:
    """Of the errors that end the processes, the first is raised; the others' processes leave with its status and no word.

    An error of one process closes its connections, so that the others fail too, each waiting for it: those messages would hide the first.
    """
    try:
        yield
    except BaseException as error:
        if world() > 1 and not isinstance(error, SystemExit) and not _first_to_tell():
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from error
        raise


def _first_to_tell() -> bool:
    try:
        return dist.distributed_c10d._get_default_store().add("genssl/told", 1) == 1
    except RuntimeError:  # the process that kept the store has gone
        return True


# ---------------------------------------------------------------------- what the processes agree on


def agreed(value: T) -> T:
    """The first process's value."""
    if world() == 1:
        return value
    box: list[Any] = [value if is_first() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def by_first(function: Callable[[], T]) -> T:
    """function() as the first process finds it: what reads or writes the run folder is done once. Its GensslError is raised by all."""
    if world() == 1:
        return function()
    result: Any = None
    if is_first():
        try:
            result = True, function()
        except (GensslError, OSError) as error:
            result = False, error
    fine, found = agreed(result)
    if not fine:
        raise found
    return found


def some(value: T | None) -> T | None:
    """The first process's value that is not None, by rank: an error that one of them found, so that all raise it."""
    if world() == 1:
        return value
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return next((each for each in found if each is not None), None)


def anywhere(flag: bool) -> bool:
    """Whether any process says so."""
    if world() == 1:
        return flag
    seen = torch.tensor([float(flag)], device=_plain_device())
    dist.all_reduce(seen)
    return bool(seen > 0)


def wait() -> None:
    """Until all processes are here."""
    anywhere(False)


@contextmanager
def first_of_machine() -> Iterator[None]:
    """The first process of every machine goes first, the others follow: a download is made once."""
    if local_rank() != 0:
        wait()
    yield
    if local_rank() == 0:
        wait()


@torch.no_grad()
def same_tensors(tensors: Iterable[Tensor]) -> None:
    """Give these tensors the first process's values, in place."""
    if world() == 1:
        return
    for tensor in tensors:
        sent = tensor.detach().contiguous()
        if sent.device.type == "cpu":
            sent = sent.to(_plain_device())
        dist.broadcast(sent, src=0)
        tensor.copy_(sent)


def _plain_device() -> torch.device:
    """Where numbers of the host travel: the CPU, but for a user's group of NCCL alone."""
    return (
        torch.device("cpu")
        if "gloo" in str(dist.get_backend_config())
        else torch.device("cuda", torch.cuda.current_device())
    )
