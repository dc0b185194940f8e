"""A graph for the CPU: the operations of one call recorded below autograd, and done again on the same tensors.

It has what a CUDA graph has for the one who records: Python does not run in a replay, so a number that Python computed stays what it
was, and a tensor that is not written in place is never read again.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        aliases = [each.alias_info for each in func._schema.returns]
        if any(each is not None and not each.is_write for each in aliases):
            return out  # a view: the same memory in every replay
        writes = any(each.alias_info is not None and each.alias_info.is_write for each in func._schema.arguments)
        results = [] if writes and all(each is not None for each in aliases) else tree_leaves(out)
        self.calls.append((func, args, kwargs or {}, results))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, results in self.calls:
            again = tree_leaves(func(*args, **kwargs)) if results else func(*args, **kwargs)
            for kept, new in zip(results, again if results else (), strict=True):
                if isinstance(kept, torch.Tensor):
                    kept.detach().copy_(new)


def tape(body, generator):
    """What `genssl.fit.graph.cuda_graph` does, with a Tape."""
    recorder = Tape()
    with recorder:
        body()
    return recorder.replay
