"""What holds for every estimator: masks, precision, gradients, no waiting for the device, clear errors."""

from __future__ import annotations

import math

import pyro
import pytest
import torch

from genssl import estimators as e
from genssl.errors import DataError, ShapeError
from genssl.host_sync import HostSyncError, NoHostSync

N, D = 12, 3


def drawn(kind, dtype=torch.float64):
    """The tensors of one call, with rows first."""
    shapes = {
        "z": [(N, D)],
        "pair": [(N, D), (N, D)],
        "group": [(N, 3, 2)],
        "scores": [(N, N)],
        "values": [(N,)],
        "p": [(N, D)],
        "p pair": [(N, D), (N, D)],
    }
    made = [torch.randn(*shape, dtype=torch.float64) for shape in shapes[kind]]
    return [(x.softmax(1) if kind.startswith("p ") or kind == "p" else x).to(dtype) for x in made]


CASES = {
    "kde gaussian": ("z", lambda z, **kw: e.kde_entropy(z, 0.7, **kw)),
    "kde gaussian, with self": ("z", lambda z, **kw: e.kde_entropy(z, 0.7, leave_one_out=False, **kw)),
    "kde vmf": ("z", lambda z, **kw: e.kde_entropy(z, 0.7, "vmf", **kw)),
    "knn": ("z", lambda z, **kw: e.knn_entropy(z, 2, **kw)),
    "knn clipped": ("z", lambda z, **kw: e.knn_entropy(z, 2, clip=0.75, **kw)),
    "logdet": ("z", e.logdet_entropy),
    "logdet shrunk": ("z", lambda z, **kw: e.logdet_entropy(z, 0.2, **kw)),
    "logdet unbiased": ("z", lambda z, **kw: e.logdet_entropy(z, unbiased=True, **kw)),
    "logdet expansion": ("z", e.logdet_expansion_entropy),
    "joint logdet": ("pair", e.joint_logdet_entropy),
    "joint logdet of a group": ("group", e.joint_logdet_entropy),
    "categorical": ("p", e.categorical_entropy),
    "joint categorical": ("p pair", e.categorical_joint_entropy),
    "alignment": ("pair", e.alignment),
    "alignment 1": ("pair", lambda *z, **kw: e.alignment(*z, 1.0, **kw)),
    "uniformity": ("z", e.uniformity),
    "plug-in": ("values", lambda v, **kw: e.plug_in_entropy(v, v.detach(), **kw)),
    "stop-gradient": (
        "pair",
        lambda a, b, **kw: e.stop_gradient_plug_in(lambda b, a: -(b - a).norm(dim=1), a, b, **kw),
    ),
    "infonce": ("scores", e.infonce),
    "infonce columns": ("scores", lambda f, **kw: e.infonce(f, "columns", **kw)),
    "infonce both": ("scores", lambda f, **kw: e.infonce(f, "both", **kw)),
    "barber-agakov": ("values", lambda v, **kw: e.barber_agakov(v, 1.3, **kw)),
    "nwj": ("scores", e.nwj),
    "dv": ("scores", e.dv),
    "smile": ("scores", lambda f, **kw: e.smile(f, 1.0, **kw)),
    "js": ("scores", e.js),
    "tuba": ("scores", lambda f, **kw: e.tuba(f, torch.full_like(f[:, 0], 0.25), **kw)),
}
every_case = pytest.mark.parametrize("name", CASES)


def left_out(kind, tensors, valid):
    return [x[valid][:, valid] if kind == "scores" else x[valid] for x in tensors]


@every_case
@pytest.mark.parametrize("padding", [0.0, 1e30, float("nan"), float("inf")])
def test_masked_rows_are_rows_left_out(name, padding):
    """Value and gradient, whatever the padding holds."""
    kind, estimate = CASES[name]
    if name == "stop-gradient" and not math.isfinite(padding):
        pytest.skip("the density is the caller's, and so is its gradient at nan")
    tensors, valid = drawn(kind), torch.rand(N) < 0.75
    valid[:9] = torch.tensor([True] * 8 + [False])
    kept = [x.clone().requires_grad_() for x in left_out(kind, tensors, valid)]
    padded = []
    for x in tensors:
        x = x.clone()
        x[~valid] = padding
        if kind == "scores":
            x[:, ~valid] = padding
        padded.append(x.requires_grad_())
    value, expected = estimate(*padded, valid=valid), estimate(*kept)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    value.backward()
    expected.backward()
    for x, reference in zip(padded, kept, strict=True):
        if reference.grad is None:  # stopped
            assert x.grad is None
            continue
        (gradient,) = left_out(kind, [x.grad], valid)
        torch.testing.assert_close(gradient, reference.grad, rtol=0, atol=1e-12)
        assert x.grad[~valid].abs().max() == 0
        if kind == "scores":
            assert x.grad[:, ~valid].abs().max() == 0


@every_case
def test_gradients_equal_finite_differences(name):
    kind, estimate = CASES[name]
    if name in ("plug-in", "stop-gradient", "knn clipped"):
        pytest.skip("a stopped gradient is not that of the value; tested in its own file")
    tensors = [x.requires_grad_() for x in drawn(kind)]
    with pyro.validation_enabled(False):  # a shifted probability vector is none
        assert torch.autograd.gradcheck(estimate, tensors, eps=1e-6, atol=1e-6, rtol=1e-5)


@every_case
def test_half_is_promoted_and_double_stays(name):
    kind, estimate = CASES[name]
    tensors = drawn(kind)
    assert estimate(*tensors).dtype == torch.float64
    assert estimate(*tensors).shape == ()
    single = estimate(*[x.float() for x in tensors])
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), estimate(*[x.float().double() for x in tensors]), rtol=1e-4, atol=1e-4)
    for dtype in (torch.bfloat16, torch.float16):
        low = [x.to(dtype).requires_grad_() for x in tensors]
        value = estimate(*low)
        assert value.dtype == torch.float32
        atol = 1e-2 if name == "stop-gradient" else 1e-6  # there the density is the caller's, in half
        torch.testing.assert_close(value, estimate(*[x.detach().float() for x in low]), rtol=0, atol=atol)
        value.backward()
        assert low[0].grad.dtype == dtype
        assert low[0].grad.isfinite().all()


@every_case
def test_a_callers_autocast_changes_nothing(name):
    kind, estimate = CASES[name]
    tensors = [x.float() for x in drawn(kind)]
    expected = estimate(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = estimate(*tensors)
    assert torch.equal(seen, expected)


@every_case
def test_nothing_waits_for_the_device(name):
    kind, estimate = CASES[name]
    tensors, valid = [x.requires_grad_() for x in drawn(kind)], torch.arange(N) < 10
    with pyro.validation_enabled(False), NoHostSync():
        estimate(*tensors).backward()
        estimate(*tensors, valid=valid).backward()
        with pytest.raises(HostSyncError, match="_local_scalar_dense"):
            tensors[0].sum().item()  # the mode can fail


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_gpu():
    valid = torch.ones(N, dtype=torch.bool, device="cuda")
    for kind, estimate in CASES.values():
        tensors = drawn(kind)
        on_gpu = [x.cuda().requires_grad_() for x in tensors]
        with pyro.validation_enabled(False):
            estimate(*on_gpu, valid=valid).backward()  # libraries start with waits of their own
            torch.cuda.set_sync_debug_mode("error")
            try:
                value = estimate(*on_gpu, valid=valid)
                value.backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(value.detach().cpu(), estimate(*tensors), rtol=1e-9, atol=1e-9)


@every_case
def test_bad_input_has_a_clear_error(name):
    kind, estimate = CASES[name]
    tensors = drawn(kind)
    for wrong in (torch.int64, torch.bool):
        if name == "stop-gradient" or (name, wrong) == ("plug-in", torch.bool):
            continue  # their own arithmetic comes first
        with pytest.raises(DataError, match=rf"{wrong}, expected floating point numbers; convert it with .float"):
            estimate(*[x.to(wrong) for x in tensors])
    with pytest.raises(ShapeError, match="has shape .*, expected|views of shapes"):
        estimate(*[x[None, None] for x in tensors])
    with pytest.raises(DataError, match="valid holds .*int64, expected bool"):
        estimate(*tensors, valid=torch.ones(N, dtype=torch.int64))
    with pytest.raises(ShapeError, match=rf"valid has shape \[{N - 1}\], expected \[{N}\]"):
        estimate(*tensors, valid=torch.ones(N - 1, dtype=torch.bool))


def test_everything_exported_is_covered():
    code = " ".join(f"{function.__code__.co_names}" for _, function in CASES.values())
    names = {function.__name__ for _, function in CASES.values()}
    closed_forms = {"gaussian_mutual_information", "gaussian_pair_critic"}
    assert {name for name in e.__all__ if f"'{name}'" not in code} - names == closed_forms
