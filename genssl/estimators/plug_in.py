"""The conditional entropy that a stop-gradient estimates: the model's own conditional density plugged in for the true one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from genssl.errors import ShapeError
from genssl.estimators.rows import rows


def stop_gradient_plug_in(
    log_conditional: Callable[[Tensor, Tensor], Tensor], z: Tensor, z_other: Tensor, *, valid: Tensor | None = None
) -> Tensor:
    r"""E log P(SG[z'] | z), z, z' [N, *] -> [], nats: log-likelihood and entropy in one, as BYOL, SimSiam and JEPA have them.

    Its gradient, in the encoder of z and in the parameters of P, is that of

        E log P(z' | z) + H[z' | SG z],   H[z' | SG z] ~ -E log P_{SG}(z' | SG z),

    where SG stops the gradient (latent distribution matching, arXiv:2605.03517, Eq. 35 and 54): the pull of z' towards its prediction
    is what raising the plug-in entropy of z' takes away. H[z' | SG z] = H[z'] - I[z'; SG z], so the entropy of one view is raised in full.

    Right only while P is the true conditional density of the current z, so P has to learn faster than the encoder (targets that are
    moving averages do roughly that). Constant z is a stationary point. The value is minus a cross-entropy: it rises under
    collapse and measures nothing by itself.

    Args:
        log_conditional: (z', z) -> [N], log P(z' | z) in nats, normalised over z' if its scale is learned.
        valid: [N] bool; rows that are False enter no mean.
    """
    return _mean("stop_gradient_plug_in", log_conditional(z_other.detach(), z), valid)


def plug_in_entropy(log_prob: Tensor, log_prob_stopped: Tensor, *, valid: Tensor | None = None) -> Tensor:
    r"""H[z' | SG z] ~ -E log P_{SG}(z' | SG z) from ready values [N] -> [], nats; its gradient reaches z' alone.

    log_prob = log P(z' | z) and log_prob_stopped = log P(SG[z'] | z) are the same numbers with different graphs: in their difference
    the gradients in z and in the parameters of P cancel, and that in z' stays, so nothing has to be known of the parameters
    (dropout and the like must draw the same in both). log_prob.mean() + plug_in_entropy(log_prob, log_prob_stopped) has the gradient
    of stop_gradient_plug_in.

    The value is a cross-entropy: in expectation at least H[z' | z], equal where P is the true conditional density.

    Args: log_prob, log_prob_stopped: [N], nats, finite.  valid: [N] bool; rows that are False enter no mean.
    """
    who = "plug_in_entropy"
    if log_prob.shape != log_prob_stopped.shape:
        shapes = f"{list(log_prob.shape)} and {list(log_prob_stopped.shape)}"
        raise ShapeError(
            f"{who}: log_prob and log_prob_stopped have shapes {shapes}, expected the same; evaluate both on the same rows"
        )
    through_z_other = log_prob - log_prob_stopped
    return -_mean(who, through_z_other + log_prob.detach(), valid)


def _mean(who: str, log_prob: Tensor, valid: Tensor | None) -> Tensor:
    given = rows(who, log_prob, valid, name="the log density", axes="[N]")
    return given.mean(given.z)
