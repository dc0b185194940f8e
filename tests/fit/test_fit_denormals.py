"""Moments of Adam that vanish are cleared before they become denormal, and nothing else is touched."""

from __future__ import annotations

import torch

from genssl.fit.optimiser import CLEAR_EVERY, clear_vanished, make_optimiser


def trained(clearing):
    """A weight whose gradient stops after the first step, and one that goes on learning."""
    generator = torch.Generator().manual_seed(0)
    dead, alive = (torch.nn.Parameter(torch.randn(50, generator=generator)) for _ in range(2))
    optimiser = make_optimiser("adam", [dead, alive], 1e-3)
    for step in range(1200):
        optimiser.zero_grad()
        (alive.square().sum() + (dead.sum() if step == 0 else 0.0 * dead.sum())).backward()
        optimiser.step()
        if clearing and step % CLEAR_EVERY == 0:
            clear_vanished(optimiser)
    return dead, alive, optimiser


def denormals(optimiser):
    moments = [m for state in optimiser.state.values() for m in (state["exp_avg"], state["exp_avg_sq"])]
    return sum(int(((m != 0) & (m.abs() < torch.finfo(torch.float32).tiny)).sum()) for m in moments)


def test_vanished_moments_are_cleared_and_the_rest_is_untouched():
    dead, alive, plain = trained(clearing=False)
    assert denormals(plain) > 0  # what is to be prevented
    dead_cleared, alive_cleared, cleared = trained(clearing=True)
    assert denormals(cleared) == 0
    assert torch.equal(alive, alive_cleared)
    assert torch.equal(dead, dead_cleared)
