"""Clustering without labels: a Gaussian mixture on representations, and how far its clusters are the classes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from genssl.errors import DataError, SettingsError, ShapeError
from genssl.evaluation.expectation_maximisation import RIDGE, Mixtures, expectation_maximisation
from genssl.evaluation.inputs import checked, labelled, standardised
from genssl.evaluation.probes import threads_for

RESTARTS, TOLERANCE, ITERATIONS = 20, 1e-3, 200


class GaussianMixture(NamedTuple):
    """p(z) = sum_k w_k N(z; m_k, S_k): weights [K], means [K, D], covariances [K, D, D], in units of z^2; float64.

    log_likelihood is the mean log p of the rows it was fitted to, nats a row; converged: before the limit of
    iterations.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    log_likelihood: float
    iterations: int
    converged: bool

    def log_prob(self, z: Tensor) -> Tensor:
        """[M] log p(z) of z [M, D], nats. Raises ShapeError, DataError, NonFiniteError."""
        return self._joint(z).logsumexp(1)

    def predict(self, z: Tensor) -> Tensor:
        """[M] the most probable component of each row of z [M, D]. Raises ShapeError, DataError, NonFiniteError."""
        return self._joint(z).argmax(1)

    @torch.no_grad()
    def _joint(self, z: Tensor) -> Tensor:
        """[M, K] log w_k + log N(z; m_k, S_k), by Cholesky factors."""
        points = checked("GaussianMixture", "test", z, self.means.shape[1]).to(self.means)
        factor = torch.linalg.cholesky(self.covariances)
        constant = self.weights.log() - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = constant - 0.5 * points.shape[1] * math.log(2 * math.pi)
        out = []
        for block in points.split(4096):
            white = torch.linalg.solve_triangular(factor, (block - self.means[:, None]).mT, upper=False)  # [K, D, B]
            out.append((constant[:, None] - 0.5 * white.square().sum(1)).T)
        return torch.cat(out)


@torch.no_grad()
def gaussian_mixture(
    z: Tensor,
    components: int,
    restarts: int = RESTARTS,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    max_iterations: int = ITERATIONS,
    start: GaussianMixture | None = None,
) -> GaussianMixture:
    r"""A Gaussian mixture with full covariances by expectation maximisation, the likeliest of `restarts`; z [N, D].

        r_nk = w_k N(z_n; m_k, S_k) / sum_l w_l N(z_n; m_l, S_l),    n_k = sum_n r_nk
        w_k = n_k / N,    m_k = sum_n r_nk z_n / n_k,    S_k = sum_n r_nk (z_n - m_k)(z_n - m_k)^T / n_k + ridge

    (Dempster, Laird, Rubin 1977.) The steps, the stopping rule (the mean log-likelihood moved by less than tolerance,
    nats a row) and the ridge (1e-6) of scikit-learn's GaussianMixture, all restarts at once as matrix products in
    float64. Two things differ. z is standardised first, per dimension, and the result translated back: without the
    ridge a mixture does not depend on that, but 1e-6 in units of z^2 would drown representations that are small. And a
    restart begins at rows spread as k-means++ does (Arthur and Vassilvitskii 2007), with equal weights and the
    covariance of all rows, where scikit-learn begins at a run of k-means. start: one mixture to begin from, in place of
    all restarts.

    Time grows with N, restarts, components and D^2: 20 restarts at K = 10 took 13 s for 54 000 rows of D = 10 on one
    thread of a CPU, 4 s an iteration and so some 3 minutes for 45 000 of D = 64, where fewer restarts are the remedy.
    All run to their end on all rows: to begin on a quarter of them, or to go on with the best 4 after 10 steps, missed
    the likeliest in about half of the cases, by more than 1 and by 0.2 nats a row at D = 32.

    The likelihood has no maximum: a component may shrink onto equal rows or onto a flat set as far as the ridge lets
    it. A dimension that is constant has the ridge as its variance and adds the same to every row. If z is one point so
    are all components, and predict gives one cluster. Other seeds give other local maxima. torch's default generator is
    left alone.

    Raises SettingsError, ShapeError, DataError (fewer rows than components), NonFiniteError.
    """
    if min(components, restarts, max_iterations) < 1 or not tolerance >= 0:
        raise SettingsError(
            f"gaussian_mixture: components = {components}, restarts = {restarts}, max_iterations = {max_iterations} and"
            f" tolerance = {tolerance}, expected at least 1, 1, 1 and 0; such as 10, 20, 200 and 1e-3"
        )
    given = checked("gaussian_mixture", "train", z, z.shape[-1] if z.dim() else 0)
    if len(given) < components:
        raise DataError(
            f"gaussian_mixture: {len(given)} rows for components = {components}, expected at least as many rows;"
            " ask for fewer components"
        )
    (points,) = standardised([given])
    mean, scale = given.mean(0), given.std(0, correction=0)
    scale = torch.where((points == 0).all(0), 1.0, scale)
    if start is None:
        begun = _spread(points, components, restarts, torch.Generator().manual_seed(seed))
    else:
        if tuple(start.means.shape) != (components, points.shape[1]):
            raise ShapeError(
                f"gaussian_mixture: the means of start have shape {list(start.means.shape)}, expected"
                f" [{components}, {points.shape[1]}], components and dimensions; begin from a mixture of that size"
            )
        own = start.weights, (start.means - mean) / scale, start.covariances / scale[:, None] / scale
        begun = Mixtures(*(value[None] for value in own))
    with threads_for(points):
        found, level, iterations, converged = expectation_maximisation(points, begun, tolerance, max_iterations)
    best = int(level.argmax())
    weights, means, covariances = (value[best] for value in found)
    fitted = weights, mean + scale * means, covariances * scale[:, None] * scale
    mixture = GaussianMixture(*fitted, math.nan, int(iterations[best]), bool(converged[best]))
    return mixture._replace(log_likelihood=float(mixture.log_prob(given).mean()))


@torch.no_grad()
def clustering_scores(
    train_z: Tensor,
    train_y: Tensor,
    validation_z: Tensor,
    validation_y: Tensor,
    test_z: Tensor,
    test_y: Tensor,
    components: int | None = None,
    restarts: int = RESTARTS,
    seed: int = 0,
) -> dict[str, float | int | bool]:
    """How far the clusters of a `gaussian_mixture` are the classes: fitted to training rows, no labels, scored on test.

    z [N, D], y [N] integers. components: the number of classes in training, where not given. Validation chooses nothing
    and is taken only for being called like the probes; the best restart is the likeliest on training rows.

        accuracy                     `hungarian_accuracy` on test: the test labels themselves match clusters with
                                     classes, as the literature does; optimistic by the choice of a matching
        accuracy_assigned_on_train   the honest one: the best matching on training rows, applied to test rows
        nmi, ari                     normalised mutual information (over the mean of both entropies) and adjusted Rand
                                     index on test, by scikit-learn; no matching; 0 for one cluster, about 0 by chance
        log_likelihood               mean log p(z) of test rows, nats a row, z in its own units: it changes with the
                                     scale of z and does not compare methods. train_log_likelihood: of training rows
        components, restarts, converged

    Paper (Bizeul et al. 2024, A.7.5 and A.8): scikit-learn's mixture, full covariance, 200 initialisations, as many
    components as classes; it does not say on which rows it is fitted and scored, nor how clusters become classes.
    Released code: 20 initialisations, the Hungarian matching, NMI and ARI, all defined and never called.

    Raises what `gaussian_mixture` raises.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score  # takes a second

    parts, classes = labelled("clustering_scores", train_z, train_y, validation_z, validation_y, test_z, test_y)
    (train, train_class), _, (test, test_class) = parts
    test_y = test_y[test_y >= 0]  # as labelled leaves them out
    mixture = gaussian_mixture(train, classes if components is None else components, restarts, seed)
    clusters, number = mixture.predict(test), len(mixture.weights)
    of_cluster = torch.full((number,), -2, device=clusters.device)  # a cluster without a class is wrong everywhere
    table = torch.zeros(number, classes, dtype=torch.long, device=clusters.device)
    table.index_put_((mixture.predict(train), train_class), torch.ones_like(train_class), accumulate=True)
    matched, its_class = linear_sum_assignment(table.cpu().numpy(), maximize=True)
    of_cluster[torch.from_numpy(matched).to(clusters.device)] = torch.from_numpy(its_class).to(clusters.device)
    truth = torch.unique(test_y, return_inverse=True)[1].cpu().numpy()  # with the classes that training never showed
    return {
        "accuracy": hungarian_accuracy(clusters, test_y),
        "accuracy_assigned_on_train": float((of_cluster[clusters] == test_class).double().mean()),
        "nmi": float(normalized_mutual_info_score(truth, clusters.cpu().numpy())),
        "ari": float(adjusted_rand_score(truth, clusters.cpu().numpy())),
        "log_likelihood": float(mixture.log_prob(test).mean()),
        "train_log_likelihood": mixture.log_likelihood,
        "components": number,
        "restarts": restarts,
        "converged": mixture.converged,
    }


def hungarian_accuracy(clusters: Tensor, labels: Tensor) -> float:
    """The share of rows whose cluster is matched with their class, by the best one-to-one matching (Kuhn 1955).

    clusters [N], labels [N] integers, any values. With more clusters than classes those left over count as wrong, so
    that cutting a class in two does not pay. It is at least 1 over the number of clusters or of classes, whichever is
    larger; of one cluster it is the share of the largest class.

    Raises ShapeError, DataError (no rows).
    """
    if clusters.dim() != 1 or clusters.shape != labels.shape:
        raise ShapeError(
            f"hungarian_accuracy: clusters have shape {list(clusters.shape)} and labels {list(labels.shape)}, expected"
            " [N] both, one of each a row"
        )
    if len(clusters) == 0:
        raise DataError("hungarian_accuracy: no rows, expected at least one; give some")
    rows, columns = (torch.unique(values.cpu(), return_inverse=True)[1] for values in (clusters, labels))
    table = torch.zeros(int(rows.max()) + 1, int(columns.max()) + 1, dtype=torch.long)
    table.index_put_((rows, columns), torch.ones_like(rows), accumulate=True)
    matched = linear_sum_assignment(table.numpy(), maximize=True)
    return float(table.numpy()[matched].sum()) / len(rows)


def _spread(points: Tensor, components: int, restarts: int, generator: torch.Generator) -> Mixtures:
    """Means at rows of k-means++: each drawn in proportion to its squared distance from the nearest one before."""
    size, dim = points.shape
    means = points[torch.randint(size, (restarts, 1), generator=generator).to(points.device)]
    nearest = points.new_full((restarts, size), math.inf)
    for _ in range(components - 1):
        for row, last in zip(nearest, means[:, -1], strict=True):
            torch.minimum(row, (points - last).square().sum(1), out=row)
        total = nearest.cumsum(1)
        drawn = torch.rand(restarts, 1, generator=generator, dtype=points.dtype).to(points.device) * total[:, -1:]
        place = torch.searchsorted(total, drawn, right=True).clamp(max=size - 1)  # all at distance 0: the last row
        means = torch.cat([means, points[place]], 1)
    spread = points - points.mean(0)
    covariance = spread.T @ spread / size + RIDGE * torch.eye(dim, dtype=points.dtype, device=points.device)
    equal = points.new_full((restarts, components), 1 / components)
    return Mixtures(equal, means, covariance.expand(restarts, components, dim, dim).clone())
