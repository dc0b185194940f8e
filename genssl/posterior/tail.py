"""How heavy the tail of importance weights is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEAST_DRAWS = 25
"""The fewest weights whose largest fifth is a tail of five, to which a Pareto can be fitted."""
WIDEST = 700.0


def pareto_k(log_weight: Tensor) -> Tensor:
    """[G] ArviZ's k-hat of log_weight [S, G], nats. inf: the largest fifth spans more than 700 nats; -inf: a quarter of it is one number.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry 2024 (arXiv:1507.02646), section 2.2. Its own noise is about .1 at 200 draws.
    """
    from arviz_stats.base import array_stats

    found = []
    for row in log_weight.double().cpu().numpy().T:
        tail = int(min(len(row) / 5, 3 * len(row) ** 0.5))
        top = np.sort(row - row.max())[-tail - 1 :]
        weights = np.exp(top)
        # ArviZ divides by what the quarter of the tail has above the rest; where that is 0 it may give its prior, 0.25.
        if top[0] < -WIDEST:
            found.append(np.inf)
        elif weights[int(tail / 4 + 0.5)] == weights[0] or top[1] == 0:
            found.append(-np.inf)
        else:
            found.append(float(array_stats.psislw(-row, r_eff=1.0, axis=-1)[1]))
    return torch.tensor(found, dtype=torch.float64)
