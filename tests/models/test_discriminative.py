"""Every guide-only method: finite terms, gradients, no state but through update, save and load, ragged groups, what it says of itself."""

from __future__ import annotations

import copy
import inspect
import io

import genssl.models
import pyro
import pytest
import torch
from genssl.models import (
    BYOL,
    CLIP,
    DINO,
    LDM,
    DeepCluster,
    InstanceDiscrimination,
    Method,
    MoCo,
    SimCLR,
    SwAV,
    VISimSiam,
)
from genssl.models.method import GenerativeMethod
from genssl.models.spherical import LARGEST, SphericalMethod
from genssl.models.vi_simsiam import DirectionNorm
from torch import nn

from genssl import Groups
from genssl.errors import DataError, SettingsError, SiteError
from genssl.networks.momentum import Momentum
from genssl.terms import Clusters, sinkhorn

METHODS = [
    cls
    for cls in vars(genssl.models).values()
    if inspect.isclass(cls)
    and issubclass(cls, Method)
    and not issubclass(cls, GenerativeMethod)
    and cls not in (Method, genssl.models.DiscriminativeMethod)
]
RAGGED = torch.ones(12, 3, dtype=torch.bool)
RAGGED[1, 2] = RAGGED[4, 0] = RAGGED[7, 1] = RAGGED[7, 2] = False


def groups_of(cls, kind="image", size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    views = 2 if cls is CLIP else 3
    event = (1, 4, 4) if kind == "image" or cls is CLIP else (5,)
    mask = RAGGED[:size] if kind == "ragged" else None
    x = torch.rand(size, views, *event, generator=generator)
    return Groups(x, mask=mask, label=torch.arange(size) % 4)


def build(cls, groups, **settings):
    torch.manual_seed(0)
    return cls.build(groups, dim=3, hidden=(8,), head=(6, 4), **settings)


def measure(method, groups, seed=3):
    torch.manual_seed(seed)
    return method.objective.terms(method.model, method.guide, groups)


KINDS = [(cls, kind) for cls in METHODS for kind in ("image", "vector", "ragged") if (cls, kind) != (CLIP, "ragged")]


@pytest.mark.parametrize(("cls", "kind"), KINDS)
def test_finite_terms_and_gradients(cls, kind):
    groups = groups_of(cls, kind)
    method = build(cls, groups)
    module = method.objective(method.model, method.guide)
    module(groups).backward()
    for value in (module.terms.reconstruction, module.terms.entropy, module.terms.prior, module.terms.objective):
        assert value.shape == (12,)
        assert torch.isfinite(value).all()
    assert not [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    encoders = method.encoders if cls is CLIP else method.encoder
    assert all(p.grad.abs().max() > 0 for p in encoders.parameters())


@pytest.mark.parametrize("cls", [cls for cls in METHODS if cls is not CLIP])
def test_padding_changes_nothing(cls):
    groups = groups_of(cls, "ragged")
    method = build(cls, groups)
    module = method.objective(method.model, method.guide)
    found = []
    for filler in (0.0, 7.0):
        x = groups.x.clone()
        x[~RAGGED] = filler
        padded = Groups(x, mask=RAGGED, label=groups.label)
        padded.x = x  # what construction zeroes, put back
        module.zero_grad()
        torch.manual_seed(3)
        loss = module(padded)
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in module.parameters() if p.grad is not None]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize("cls", METHODS)
class TestEveryMethod:
    def test_only_update_changes_state(self, cls):
        groups = groups_of(cls)
        method = build(cls, groups)
        module = method.objective(method.model, method.guide).train()
        before = copy.deepcopy(method.state_dict())
        measure(method, groups)
        kept = {key for key, value in method.state_dict().items() if same(value, before[key])}
        assert kept == before.keys()
        module(groups).backward()
        changed = {key for key, value in method.state_dict().items() if not same(value, before[key])}
        assert all("running" in key or "num_batches" in key for key in changed)  # BatchNorm's, in the training forward
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad and parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        at_step = copy.deepcopy(method.state_dict())
        module.update()
        advanced = {key for key, value in method.state_dict().items() if not same(value, at_step[key])}
        has_state = cls in (MoCo, BYOL, DINO, DeepCluster)  # CLIP's limit on its scale is not reached
        assert bool(advanced) == has_state
        at_update = copy.deepcopy(method.state_dict())
        measure(method, groups)
        assert all(same(value, at_update[key]) for key, value in method.state_dict().items())

    def test_terms_twice_are_the_same(self, cls):
        groups = groups_of(cls)
        method = build(cls, groups)
        first, second = measure(method, groups), measure(method, groups)
        assert torch.equal(first.objective, second.objective)

    def test_save_and_load(self, cls):
        groups = groups_of(cls)
        method, other = build(cls, groups), build(cls, groups)
        module = method.objective(method.model, method.guide)
        module(groups)
        module.update()
        buffer = io.BytesIO()
        torch.save(method.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(measure(method, groups).elbo, measure(other, groups).elbo)

    def test_encode_is_before_the_head_and_project_after(self, cls):
        groups = groups_of(cls, "vector")
        method = build(cls, groups).eval()
        flat = groups.pack(groups.x)
        if cls is CLIP:
            half = flat[..., :2]
            assert method.encode(half, view=1).mean.shape == (len(flat), 3)
            assert method.project(half, view=0).shape == (len(flat), 4)
            assert method.encode(flat).mean.shape == (len(flat), 6)
            with pytest.raises(SettingsError, match="view=0"):
                CLIP([nn.Linear(2, 2)] * 2).encode(torch.rand(3, 2))
            return
        assert method.encode(flat).mean.shape == (len(flat), 3)
        method.guide(groups)
        torch.testing.assert_close(method.encode(groups.x).mean[0, 0], method.encode(groups.x[0, 0]).mean)
        projected = method.project(groups.x)
        assert projected.shape[:2] == groups.x.shape[:2]
        with pyro.poutine.trace() as trace:
            torch.manual_seed(0)
            method.guide(groups)
        if issubclass(cls, SphericalMethod):  # z is a draw around the direction of what project gives
            law = trace.trace.nodes["z"]["fn"].base_dist
            torch.testing.assert_close(projected, law.loc * law.concentration.unsqueeze(-1))
        else:
            torch.testing.assert_close(projected, trace.trace.nodes["z"]["value"])

    def test_says_what_it_is(self, cls):
        assert cls.source
        assert cls.collapses
        assert "Source" in cls.__doc__
        assert cls.defaults[""].keys() >= {"num_views", "batch_size", "lr", "epochs"}

    def test_trains_by_svi_too(self, cls):
        groups = groups_of(cls)
        method = build(cls, groups)
        before = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
        guide = method.guide
        svi = pyro.infer.SVI(
            method.model or (lambda groups: None), guide, pyro.optim.Adam({"lr": 0.01}), loss=method.objective
        )
        for _ in range(2):
            svi.step(groups)
        moved = [name for name, p in method.named_parameters() if name in before and not torch.equal(p, before[name])]
        assert len(moved) >= 0.8 * len(before)  # all but biases that a score is invariant to


def same(one, other):
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# ---------------------------------------------------------------------- state


def test_queue_takes_the_keys_in_order_and_wraps():
    method = MoCo(nn.Linear(5, 4), momentum=0.5, queue_size=10)
    module = method.objective(method.model, method.guide)
    queue, written = method.objective.reconstruction.queue, []
    for step in range(4):
        groups = Groups(torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(step)))
        keys = nn.functional.normalize(method.target(groups.x), dim=-1).flatten(0, 1)
        written += list(keys)
        module(groups)
        module.update()
        for place in range(min(10, len(written))):
            last = max(n for n in range(len(written)) if n % 10 == place)
            torch.testing.assert_close(queue[place], written[last])
    assert int(method.objective.reconstruction.place) == 24 % 10


def test_padded_keys_do_not_enter_the_queue():
    method = MoCo(nn.Linear(5, 4), queue_size=12)
    before = method.objective.reconstruction.queue.clone()
    mask = torch.tensor([[True, True], [True, False]])
    module = method.objective(method.model, method.guide)
    module(Groups(torch.rand(2, 2, 5), mask=mask))
    module.update()
    changed = (method.objective.reconstruction.queue != before).any(1)
    assert changed.tolist() == [True, True, True, False] + [False] * 8


def test_batch_larger_than_the_queue():
    method = MoCo(nn.Linear(5, 4), queue_size=3)
    module, groups = method.objective(method.model, method.guide), Groups(torch.rand(4, 2, 5))
    keys = nn.functional.normalize(method.target(groups.x), dim=-1).flatten(0, 1)
    module(groups)
    module.update()
    torch.testing.assert_close(method.objective.reconstruction.queue, keys[-3:])


def test_momentum_is_a_moving_average_and_frozen():
    source = nn.Linear(3, 2)
    target = Momentum(source, momentum=0.9)
    start = source.weight.detach().clone()
    with torch.no_grad():
        source.weight.add_(1.0)
    target.update(source)
    torch.testing.assert_close(target.parts[0].weight, start + 0.1)
    assert not any(p.requires_grad for p in target.parameters())
    assert not target(torch.rand(4, 3)).requires_grad
    with pytest.raises(SettingsError, match="momentum = 1.2"):
        Momentum(source, momentum=1.2)


def test_an_update_without_a_step_advances_no_queue():
    method = MoCo(nn.Linear(5, 4), queue_size=12)
    module = method.objective(method.model, method.guide)
    module(Groups(torch.rand(2, 2, 5)))
    module.update()
    place = int(method.objective.reconstruction.place)
    module.update()
    assert int(method.objective.reconstruction.place) == place


def test_memory_bank_moves_towards_what_was_seen():
    method = InstanceDiscrimination(nn.Linear(5, 4), num_instances=6, bank=True, bank_momentum=0.25)
    classes = method.objective.prior.classes
    before, groups = classes.weight.clone(), Groups(torch.rand(3, 2, 5))
    groups.total, groups.rows = 6, torch.tensor([4, 0, 2])
    unit = nn.functional.normalize
    mean = unit(method.views(groups).detach(), dim=-1).mean(1)
    module = method.objective(method.model, method.guide)
    module(groups)
    module.update()
    torch.testing.assert_close(classes.weight[groups.rows], unit(0.25 * before[groups.rows] + 0.75 * mean, dim=-1))
    assert torch.equal(classes.weight[[1, 3, 5]], before[[1, 3, 5]])


def test_clusters_find_directions_and_fill_empty_ones():
    torch.manual_seed(0)
    clusters = Clusters(60, 3, 4)
    direction = torch.eye(4)[:3]
    which = torch.arange(60) % 3
    clusters.bank.copy_(nn.functional.normalize(direction[which] + 0.05 * torch.randn(60, 4), dim=-1))
    clusters.seen.fill_(True)
    clusters.centroids.copy_(
        nn.functional.normalize(torch.tensor([[1.0, 1, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0]]), dim=-1)
    )
    for _ in range(3):
        clusters.cluster()
    found = [clusters.assignment[which == k].unique() for k in range(3)]
    assert [len(values) for values in found] == [1, 1, 1]
    assert len(torch.cat(found).unique()) == 3


def test_clusters_keep_count_in_their_state():
    clusters = Clusters(6, 2, 3)
    clusters.steps = 5
    other = Clusters(6, 2, 3)
    other.load_state_dict(clusters.state_dict())
    assert other.steps == 5


def test_sinkhorn_marginals():
    scores = torch.randn(40, 6, dtype=torch.float64)
    codes = sinkhorn(scores, epsilon=0.3, steps=50)
    torch.testing.assert_close(codes.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((6,), 40 / 6, dtype=torch.float64), rtol=1e-3, atol=1e-3)
    sharp = sinkhorn(1000 * scores, epsilon=0.05)
    assert torch.isfinite(sharp).all()
    valid = torch.arange(40) < 30
    part = sinkhorn(scores, 0.3, 3, valid)
    torch.testing.assert_close(part[:30], sinkhorn(scores[:30], 0.3, 3))
    assert (part[30:] == 0).all()
    with pytest.raises(SettingsError, match="epsilon"):
        sinkhorn(scores, epsilon=0.0)


# ---------------------------------------------------------------------- the Gaussian toy


@pytest.mark.parametrize("mi_weight", [0.0, 1.0])
def test_joint_form_keeps_the_spread_of_views_and_mutual_information_loses_it(mi_weight):
    """z_j = a c + b s_j with free a, b: the joint form finds those of the latent model, the other drives b to 0."""
    from genssl.terms import LogDeterminantEntropy

    generator = torch.Generator().manual_seed(0)
    content = torch.randn(1000, 1, 2, generator=generator)
    x = torch.cat([content.expand(-1, 2, -1), torch.randn(1000, 2, 2, generator=generator)], -1)

    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_scales = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            a, b = self.log_scales.exp()
            return a * x[:, :2] + b * x[:, 2:]

    scales = Scales()
    method = LDM(
        scales,
        view_scale=0.4,
        content_scale=1.5,
        dim=2,
        reconstruction=LogDeterminantEntropy(mi_weight, shrinkage=0.0),
    )
    module, groups = method.objective(method.model, method.guide), Groups(x)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        module(groups).backward()
        optimiser.step()
    z = method.views(groups).detach()
    difference = (z[:, 0] - z[:, 1]).square().mean()
    if mi_weight:
        assert difference < 0.05 * 2 * 0.4**2
    else:
        assert float(difference) == pytest.approx(2 * 0.4**2, rel=0.02)
        assert float(z.var((0, 1)).mean()) == pytest.approx(1.5**2 + 0.4**2, rel=0.02)


def test_flat_content_prior_lets_the_scale_run_away():
    x = torch.randn(500, 2, 2, generator=torch.Generator().manual_seed(0))
    scale = nn.Linear(2, 2, bias=False)
    method = LDM(scale, content_scale=None)
    module = method.objective(method.model, method.guide)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    spread = []
    for _ in range(200):
        optimiser.zero_grad()
        module(Groups(x)).backward()
        optimiser.step()
        spread.append(float(scale.weight.detach().square().sum()))
    assert spread[199] > 2 * spread[99] > 4 * spread[0]


# ---------------------------------------------------------------------- errors


def test_errors():
    groups = Groups(torch.rand(6, 2, 5), label=torch.arange(6))
    with pytest.raises(SettingsError, match="temperature = 0"):
        SimCLR(nn.Linear(5, 3), temperature=0)
    with pytest.raises(SettingsError, match="dim="):
        MoCo(nn.Identity())
    mixed = SimCLR(nn.Linear(5, 3))
    mixed.objective.prior = MoCo(nn.Linear(5, 3)).objective.prior
    with pytest.raises(SiteError, match="z_target"):
        measure(mixed, groups)
    with pytest.raises(DataError, match="made for 4 training groups"):
        measure(InstanceDiscrimination(nn.Linear(5, 3), num_instances=4), groups)
    with pytest.raises(DataError, match="--views 2"):
        measure(SimCLR(nn.Linear(5, 3)), Groups(torch.rand(6, 1, 5)))
    with pytest.raises(SettingsError, match="no labels"):
        genssl.models.VariationalClassification.build(Groups(torch.rand(6, 2, 5)))
    with pytest.raises(DataError, match="--views 2"):
        measure(CLIP([nn.Linear(5, 3)] * 2), Groups(torch.rand(6, 3, 5)))
    with pytest.raises(SettingsError, match="two encoders"):
        CLIP([nn.Linear(5, 3)])


def test_swav_refuses_nothing_it_can_do():
    """One group, one prototype: degenerate, finite."""
    method = SwAV(nn.Linear(5, 3), num_prototypes=1)
    assert torch.isfinite(measure(method, Groups(torch.rand(1, 2, 5))).objective).all()


def test_a_validation_forward_enters_no_queue():
    method = MoCo(nn.Linear(5, 4), queue_size=30)
    module = method.objective(method.model, method.guide)
    module(Groups(torch.rand(2, 2, 5)))
    with torch.no_grad():
        module(Groups(torch.rand(6, 2, 5)))
    module.update()
    assert int(method.objective.reconstruction.place) == 4


def test_instances_are_told_by_their_index_in_a_loop_of_ones_own():
    whole = Groups(torch.rand(20, 2, 5))
    method = InstanceDiscrimination.build(whole, dim=3, hidden=(8,), head=())
    chosen = torch.tensor([17, 3, 9])
    by_fit = whole[chosen]
    by_fit.total = 20
    by_hand = Groups(whole.x[chosen], index=chosen)
    assert torch.equal(measure(method, by_fit).elbo, measure(method, by_hand).elbo)
    method.eval()
    assert not measure(method, Groups(torch.rand(3, 2, 5))).elbo.any()  # groups that are no training instance


def test_clusters_are_counted_once_whichever_term_holds_them():
    groups = groups_of(DeepCluster)
    for slot in ("reconstruction", "prior"):
        method = build(DeepCluster, groups)
        clusters = method.objective.prior.classes
        setattr(method.objective, slot, SimCLR(nn.Linear(5, 3)).objective.slots[slot])
        module = method.objective(method.model, method.guide)
        module(groups)
        module.update()
        assert clusters.steps == 1


def test_a_view_that_no_group_has_leaves_finite_gradients():
    mask = torch.ones(12, 3, dtype=torch.bool)
    mask[:, 2] = False
    groups = groups_of(SwAV, "vector")
    ragged = Groups(groups.x, mask=mask)
    method = build(SwAV, groups)
    method.objective(method.model, method.guide)(ragged).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    method = build(LDM, groups)
    method.objective(method.model, method.guide)(ragged).backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    mask = torch.zeros(12, 3, dtype=torch.bool)
    mask[:, 0] = mask[0] = True
    with pytest.raises(DataError, match="1 groups of the batch have 3 views"):
        measure(build(LDM, groups), Groups(groups.x, mask=mask))


def test_an_outer_autocast_changes_no_term():
    groups = groups_of(MoCo, "vector")
    method = build(MoCo, groups)
    z = torch.randn(12, 3, 4)

    def guide(groups):
        with groups.plate:
            pyro.sample("z", pyro.distributions.Delta(z).to_event(2))
            pyro.sample("z_target", pyro.distributions.Delta(z.flip(1)).to_event(2))

    plain = method.objective.terms(None, guide, groups).elbo
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(method.objective.terms(None, guide, groups).elbo, plain)


def test_clip_scale_is_held_after_the_step():
    method = CLIP([nn.Linear(5, 3)] * 2, temperature=0.005)
    module = method.objective(method.model, method.guide)
    module(Groups(torch.rand(6, 2, 5))).backward()
    assert float(method.log_scale.grad) != 0
    module.update()
    assert float(method.log_scale.detach().exp()) == pytest.approx(100)


def test_the_batch_norm_of_vi_simsiam_leaves_the_concentration_alone():
    output = torch.randn(64, 5) * 3 + 2
    normed = DirectionNorm(4)(output)
    assert torch.equal(normed[:, -1], output[:, -1])
    torch.testing.assert_close(normed[:, :-1].mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(normed[:, :-1].std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_a_concentration_comes_back_from_its_bound():
    method = VISimSiam.build(Groups(torch.rand(8, 2, 6)), dim=3, hidden=(8,))
    log_k = torch.tensor([-3.0, 0.0, 4.0, 12.0], requires_grad=True)
    law = method.posterior(torch.cat([torch.ones(4, 3), log_k[:, None]], 1))
    wanted = 1 / (1 / (method.concentration_start * log_k.detach().exp()) + 1 / LARGEST)
    torch.testing.assert_close(law.concentration.detach(), wanted)
    (slope,) = torch.autograd.grad(law.concentration.sum(), log_k)
    assert float(slope.min()) > 0
