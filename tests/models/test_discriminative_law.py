"""-mean(elbo) = c * published loss, for every discriminative method, against naive loops written from the papers' equations."""

from __future__ import annotations

import itertools

import genssl.models as gallery
import published
import pyro
import pytest
import torch
from torch import nn

from genssl import Groups

G, D = 7, 5
RAGGED = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool()


def groups_of(views=2, mask=None, size=G):
    generator = torch.Generator().manual_seed(views + size)
    x = torch.rand(size, views, D, generator=generator)
    return Groups(x, mask=mask, label=torch.arange(size) % 3)


def linear(outputs=D, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(D, outputs)


def measure(method, groups):
    """(-mean of the elbo, the guide's sites)."""
    method.train()
    torch.manual_seed(1)
    loss = -method.objective.terms(method.model, method.guide, groups).elbo.mean()
    torch.manual_seed(1)
    with pyro.poutine.trace() as trace, torch.no_grad():
        method.guide(groups)
    sites = {name: node["value"] for name, node in trace.trace.nodes.items() if node["type"] == "sample"}
    return loss, sites


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.fixture(autouse=True)
def double(float64):
    """All of this file in float64."""


# ---------------------------------------------------------------------- contrastive


@pytest.mark.parametrize(("views", "temperature"), list(itertools.product((2, 3, 4), (0.1, 0.5, 0.7))))
def test_simclr(views, temperature):
    groups = groups_of(views)
    loss, sites = measure(gallery.SimCLR(linear(), temperature=temperature), groups)
    close(loss, views * published.nt_xent(sites["z"], temperature))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr_ragged(temperature):
    groups = groups_of(3, RAGGED)
    loss, sites = measure(gallery.SimCLR(linear(), temperature=temperature), groups)
    anchors = sum(int(row.sum()) for row in RAGGED if row.sum() > 1)
    close(loss, anchors / G * published.nt_xent(sites["z"], temperature, RAGGED))


def test_simclr_of_one_group():
    loss, sites = measure(gallery.SimCLR(linear(), temperature=0.5), groups_of(3, size=1))
    close(loss, 3 * published.nt_xent(sites["z"], 0.5))


@pytest.mark.parametrize(
    ("views", "queue", "temperature", "mask"),
    [(2, 5, 0.2, None), (3, 40, 0.07, None), (3, 40, 0.07, RAGGED)],
    ids=["two", "three", "ragged"],
)
def test_moco(views, queue, temperature, mask):
    groups = groups_of(views, mask)
    method = gallery.MoCo(linear(), temperature=temperature, momentum=0.9, queue_size=queue)
    method.encoder = linear(seed=4)  # no longer what the target is a copy of
    loss, sites = measure(method, groups)
    expected = published.moco(sites["z"], sites["z_target"], method.objective.reconstruction.queue, temperature, mask)
    anchors = G * views if mask is None else sum(int(row.sum()) for row in mask if row.sum() > 1)
    close(loss, anchors / G * expected)


@pytest.mark.parametrize("views", [2, 3])
def test_infonce(views):
    groups = groups_of(views)
    predictor = nn.Linear(D, D, bias=False)
    loss, sites = measure(gallery.InfoNCE(linear(), predictor=predictor), groups)
    z, ordered = sites["z"], list(itertools.permutations(range(views), 2))
    losses = [published.infonce_cpc(z[:, i], z[:, j], predictor.weight) for i, j in ordered]
    close(loss, views * sum(losses) / len(ordered))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_clip(temperature):
    one, two = torch.rand(G, D), torch.rand(G, 3)
    method = gallery.CLIP((linear(4), nn.Linear(3, 4)), temperature=temperature)
    loss, sites = measure(method, Groups((one, two)))
    close(loss, 2 * published.clip(sites["z"], 1 / temperature))
    z = torch.stack([method.encode(one, view=0).mean, method.encode(two, view=1).mean], 1)
    close(loss, 2 * published.clip(z, 1 / temperature))


@pytest.mark.parametrize("samples", [1, 4])
def test_mcinfonce(samples):
    """With the draws that the term made: replayed from the same generator state."""
    method = gallery.MCInfoNCE(linear(4), concentration=8.0, num_samples=samples)
    groups = groups_of(2)
    drawn = []
    original = method.family.rsample

    def recorded(self, sample_shape=()):
        draws = original(self, sample_shape)
        if tuple(sample_shape) == (samples,):
            drawn.append(draws)
        return draws

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method.family, "rsample", recorded)
        loss, _ = measure(method, groups)
    z = drawn[0]
    close(loss, published.mcinfonce(z, 8.0) + published.mcinfonce(z.flip(2), 8.0))
    # Its separated form is a lower bound at the same single draw (Jensen), and equal to it.
    if samples == 1:
        bound = gallery.MCInfoNCE(linear(4), concentration=8.0, num_samples=1, separated=True)
        terms = bound.objective.terms(None, lambda g: fixed(g, z[0]), groups)
        close(-terms.elbo.mean(), loss)


def fixed(groups, z):
    with groups.plate:
        pyro.sample("z", pyro.distributions.Delta(z).to_event(2))


@pytest.mark.parametrize("mask", [None, RAGGED], ids=["full", "ragged"])
def test_vi_simsiam_is_its_cross_term(mask):
    """Against the pieces: the density of each direction under the other view's predicted law; entropies cancel."""
    method = gallery.VISimSiam(linear(4), predictor=nn.Linear(3, 3))
    groups = groups_of(3, mask)
    loss, sites = measure(method, groups)
    total = torch.zeros(())
    for g, row in enumerate(groups.valid):
        there = row.nonzero()[:, 0].tolist()
        for i in there:
            others = [j for j in there if j != i]
            for j in others:
                predicted = sites["z_predicted"][g, j]
                kappa = predicted.norm()
                direction = method.encode(groups.x[g, i]).mean
                direction = direction / direction.norm()
                total = total + published.power_spherical(direction, predicted / kappa, kappa) / len(others)
    close(loss, -total / G)


# ---------------------------------------------------------------------- spread


@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (3.0, 0.5, 7.0)])
def test_vicreg(views, weights):
    names = dict(zip(("invariance", "variance", "covariance"), weights, strict=True))
    loss, sites = measure(gallery.VICReg(linear(), **names), groups_of(views))
    close(loss, published.vicreg(sites["z"], *weights))


@pytest.mark.parametrize(("views", "weight"), [(2, 0.0051), (3, 0.2)])
def test_barlow_twins(views, weight):
    loss, sites = measure(gallery.BarlowTwins(linear(), off_diagonal=weight), groups_of(views))
    close(loss, published.barlow_twins(sites["z"], weight))


@pytest.mark.parametrize(("views", "shrinkage"), [(2, 0.0), (3, 0.01)])
def test_wmse(views, shrinkage):
    loss, sites = measure(gallery.WMSE(linear(3), shrinkage=shrinkage), groups_of(views))
    close(loss, published.wmse(sites["z"], shrinkage))


# ---------------------------------------------------------------------- no repulsion


@pytest.mark.parametrize("mask", [None, RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize("cls", [gallery.SimSiam, gallery.BYOL])
def test_simsiam_and_byol(cls, mask):
    method = cls(linear(), predictor=linear(seed=3))
    if cls is gallery.BYOL:
        method.encoder = linear(seed=4)
    loss, sites = measure(method, groups_of(3, mask))
    paired = 1.0 if mask is None else (mask.sum(1) > 1).double().mean()
    if cls is gallery.SimSiam:
        expected = published.simsiam(sites["z_predicted"], sites["z"], mask)
    else:
        expected = published.byol(sites["z_predicted"], sites["z_target"], mask)
    close(loss, paired * expected)


@pytest.mark.parametrize("mask", [None, RAGGED], ids=["full", "ragged"])
def test_dino(mask):
    method = gallery.DINO(linear(6), student_temperature=0.2, teacher_temperature=0.05, center_momentum=0.8)
    method.encoder = linear(6, seed=4)
    method.centring.centre.normal_()
    groups = groups_of(3, mask)
    loss, sites = measure(method, groups)
    teacher = method.target(groups.x)
    expected = published.dino(sites["z"], teacher, method.centring.centre, 0.2, 0.05, valid=mask)
    paired = 1.0 if mask is None else (mask.sum(1) > 1).double().mean()
    close(loss, paired * expected)
    module = method.objective(method.model, method.guide)
    module(groups)
    centre = published.dino_centre(teacher, method.centring.centre, 0.8, mask)
    module.update()
    close(method.centring.centre, centre)


@pytest.mark.parametrize("mask", [None, RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize(("temperature", "epsilon", "steps"), [(0.1, 0.05, 3), (0.5, 0.3, 1)])
def test_swav(temperature, epsilon, steps, mask):
    method = gallery.SwAV(
        linear(), num_prototypes=4, temperature=temperature, sinkhorn_epsilon=epsilon, sinkhorn_steps=steps
    )
    loss, sites = measure(method, groups_of(3, mask))
    scores = published.swav_scores(sites["z"], method.prototypes.weight, mask)
    paired = 1.0 if mask is None else (mask.sum(1) > 1).double().mean()
    close(loss, paired * published.swav(scores, temperature, epsilon, steps, valid=mask))


# ---------------------------------------------------------------------- classes


@pytest.mark.parametrize("bank", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_instance_discrimination(bank, temperature):
    method = gallery.InstanceDiscrimination(linear(), num_instances=9, temperature=temperature, bank=bank)
    groups = groups_of(2)
    groups.total, groups.rows = 9, torch.tensor([8, 1, 0, 3, 6, 5, 4])
    loss, sites = measure(method, groups)
    weight = method.objective.prior.classes.weight
    if bank:
        expected = published.instance_discrimination(sites["z"], groups.rows, weight, temperature)
    else:
        unit = nn.functional.normalize
        expected = published.classify(unit(sites["z"], dim=-1) / temperature, groups.rows, unit(weight, dim=-1))
    close(loss, 2 * expected)


def test_deep_cluster():
    method = gallery.DeepCluster(linear(), num_groups=G, num_clusters=3, temperature=0.3)
    groups = groups_of(2)
    loss, sites = measure(method, groups)
    clusters = method.objective.prior.classes
    z = nn.functional.normalize(sites["z"], dim=-1) / 0.3
    close(loss, 2 * published.classify(z, clusters.assignment, clusters.centroids))


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_variational_classification(weight):
    method = gallery.VariationalClassification(linear(), num_classes=3, density_weight=weight)
    classes = method.objective.reconstruction.classes
    with torch.no_grad():
        classes.log_scale.normal_()
        classes.logits.normal_()
    groups = groups_of(2)
    loss, sites = measure(method, groups)
    expected = published.variational_classification(
        sites["z"].flatten(0, 1),
        groups.label.repeat_interleave(2),
        classes.mean,
        (2 * classes.log_scale).exp() + classes.floor**2,
        weight,
        classes.logits.log_softmax(0),
    )
    close(loss, 2 * expected)


# ---------------------------------------------------------------------- latent distribution matching


@pytest.mark.parametrize("mi_weight", [0.0, 1.0])
def test_ldm_on_the_plane(mi_weight):
    from genssl.terms import LogDeterminantEntropy

    method = gallery.LDM(
        linear(3),
        view_scale=0.4,
        content_scale=1.3,
        reconstruction=LogDeterminantEntropy(mi_weight, shrinkage=0.0),
    )
    loss, sites = measure(method, groups_of(2, size=20))
    z = sites["z"]
    prior = torch.stack([published.group_normal(group, 0.4, 1.3) for group in z]).mean()
    entropy = (
        sum(published.log_det_entropy(z[:, j]) for j in (0, 1))
        if mi_weight
        else published.log_det_entropy(z.flatten(1))
    )
    close(-loss, prior + entropy)


@pytest.mark.parametrize("mi_weight", [0.0, 1.0])
def test_ldm_on_the_sphere(mi_weight):
    """Up to the constants of the kernel, which published.py leaves out."""
    from genssl.estimators.von_mises_fisher import log_kernel_integral
    from genssl.terms import CosineAttraction, SphericalEntropy

    method = gallery.LDM(
        linear(3), reconstruction=SphericalEntropy(mi_weight, temperature=0.4), prior=CosineAttraction(2 / 5.0)
    )
    loss, sites = measure(method, groups_of(2))
    expected = published.ldm_sphere(sites["z"], 5.0, 1 / 0.4, mutual_information=bool(mi_weight))
    constant = 2 * (log_kernel_integral(3, 1 / 0.4) + 1 / 0.4)
    close(-loss, expected + constant)


def test_simclr_is_a_cell_of_ldm():
    """Alignment 2 / tau, kernel 1 / tau, the positive among the others: the same gradient."""
    groups, tau = groups_of(2), 0.3
    simclr = gallery.SimCLR(linear(), temperature=tau)
    z = simclr.views(groups).detach().requires_grad_()
    theirs = torch.autograd.grad(published.ldm_sphere(z, 2 / tau, 1 / tau, pooled=True), z)[0]
    ours = torch.autograd.grad(-2 * published.nt_xent(z, tau), z)[0]
    close(ours, theirs)
