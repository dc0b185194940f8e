"""Several processes that fit one method: who they are, and what they tell each other.

Rank r holds slice r of the groups of every batch, in equal numbers. A quantity of one group is computed where the group is. What couples
groups is computed by every process on the gathered representations, and each keeps its own groups' values: the mean of the processes'
losses is the loss of the whole batch, and the mean of their gradients its gradient, since `gather` passes gradients back.

    processes    rank and world; a group started from torchrun's variables; results of the first process; one message for all
    gathering    `together`: on in a training forward and in `update`, off while one process measures; gather, own, over_all, summed
    batch_norm   batch statistics of all processes' rows
    noise        draws of the whole batch, of which each process takes its groups', and a stream of its own for all else

With one process, or without torch.distributed, all of it is the identity.
"""

from genssl.distributed.gathering import average, gather, is_together, over_all, own, summed, together
from genssl.distributed.noise import drawn_for_all, of_a_part, own_streams, shared_stream
from genssl.distributed.processes import (
    agreed,
    anywhere,
    by_first,
    first_of_machine,
    is_first,
    local_rank,
    one_voice,
    part_of,
    program,
    rank,
    same_tensors,
    some,
    started,
    wait,
    world,
)

__all__ = [
    "agreed",
    "anywhere",
    "average",
    "by_first",
    "drawn_for_all",
    "first_of_machine",
    "gather",
    "is_first",
    "is_together",
    "local_rank",
    "of_a_part",
    "one_voice",
    "over_all",
    "own",
    "own_streams",
    "part_of",
    "program",
    "rank",
    "same_tensors",
    "shared_stream",
    "some",
    "started",
    "summed",
    "together",
    "wait",
    "world",
]
