"""bf16 around networks only: what networks see, what distributions see, and that nothing of it stays behind."""

from __future__ import annotations

import copy

import pytest
import torch
from genssl.models import SimVAE
from small_runs import fit
from torch import nn

import genssl
from genssl.errors import SettingsError
from genssl.fit.precision import networks_in

CPU = torch.device("cpu")


class Watch(nn.Module):
    """A network that notes the type it computes in."""

    def __init__(self, size_in, size_out):
        super().__init__()
        self.layer = nn.Linear(size_in, size_out)
        self.seen = []

    def forward(self, x):
        out = self.layer(x)
        self.seen.append(out.dtype)
        return out


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList([Watch(3, 2), Watch(3, 2)])
        self.heads = nn.ModuleDict({"pair": Pair()})
        self.objective = genssl.Objective()


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Watch(3, 2)

    def forward(self, x):
        return self.layer(x), {"second": [self.layer(x)]}


def test_networks_compute_in_bf16_and_give_float32():
    method, x = Several(), torch.rand(4, 3)
    with networks_in("bf16", method, CPU):
        assert method.encoders[1](x).dtype == torch.float32
        first, second = method.heads["pair"](x)
    assert {first.dtype, second["second"][0].dtype} == {torch.float32}
    assert method.encoders[1].seen == [torch.bfloat16]
    assert method.heads["pair"].layer.seen == [torch.bfloat16] * 2
    assert method.encoders[1](x).dtype == torch.float32
    assert method.encoders[1].seen[-1] == torch.float32


def test_distributions_see_float32():
    groups = genssl.Groups(torch.rand(4, 2, 1, 8, 8))
    method = SimVAE.build(groups, hidden=(16, 16), learned_scale=True)
    torch.manual_seed(1)
    exact = method.objective.terms(method.model, method.guide, groups)
    torch.manual_seed(1)
    with networks_in("bf16", method, CPU):
        posterior = method.encode(groups.x)
        terms = method.objective.terms(method.model, method.guide, groups)
    assert posterior.mean.dtype == posterior.stddev.dtype == terms.reconstruction.dtype == torch.float32
    torch.testing.assert_close(terms.elbo, exact.elbo, rtol=0.05, atol=2)
    assert bool((posterior.mean != posterior.mean.bfloat16()).any()) or bool(
        (posterior.stddev != posterior.stddev.bfloat16()).any()
    )


def test_float64_stays_float64(float64):
    method = Several()
    with networks_in("bf16", method, CPU):
        assert method.encoders[0](torch.rand(4, 3)).dtype == torch.float64


def test_nothing_stays_behind():
    """After an error, after nesting, in copies; and a forward that somebody set is given back."""
    method, x = Several(), torch.rand(4, 3)
    own = method.encoders[1].forward
    method.encoders[1].forward = lambda value: own(value) + 1
    mine = method.encoders[1].forward
    before = {key: dict(part.__dict__) for key, part in method.named_modules()}
    with pytest.raises(KeyError), networks_in("bf16", method, CPU), networks_in("bf16", method, CPU):
        raise KeyError
    assert {key: dict(part.__dict__) for key, part in method.named_modules()} == before
    assert method.encoders[1].forward is mine

    method = Several()
    with networks_in("bf16", method, CPU):
        with networks_in("bf16", method, CPU):
            method.encoders[0](x)
        assert method.encoders[0](x).dtype == torch.float32
        assert method.encoders[0].seen == [torch.bfloat16] * 2  # the inner one did not end the outer one
        with pytest.raises(RuntimeError):
            method.encoders[0](torch.rand(4, 5))
        assert not torch.is_autocast_enabled("cpu")
        other = copy.deepcopy(method)
        with torch.no_grad():
            other.encoders[0].layer.weight.zero_()
            other.encoders[0].layer.bias.zero_()
        assert other.encoders[0](x).abs().max() == 0  # its own weights
        assert method.encoders[0](x).abs().max() > 0
        assert other.encoders[0].seen[-1] == torch.float32
    assert other.encoders[0](x).dtype == torch.float32
    assert list(other.state_dict()) == list(method.state_dict())


def test_a_run_in_bf16(tmp_path):
    """Training, the neighbours at ends of epochs and the representation after it are all in the run's precision."""
    run = fit(tmp_path / "run", precision="bf16")
    assert run.metrics[-1]["knn"] is not None
    assert run.represent(torch.rand(3, 1, 8, 8)).dtype == torch.float32
    assert "forward" not in run.method.encoder.__dict__
    assert {value.dtype for value in run.method.state_dict().values()} == {torch.float32}


def test_tf32_is_of_a_gpu(tmp_path):
    """On a GPU it holds in the block, and no longer; a CPU has no such products."""
    before = torch.get_float32_matmul_precision()
    with networks_in("tf32", nn.Linear(2, 2), torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with networks_in("tf32", nn.Linear(2, 2), torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before
    with pytest.raises(SettingsError, match="precision = tf32 is one of a GPU's products, but device = cpu; give 32"):
        fit(tmp_path / "run", precision="tf32", device="cpu")


def test_other_precisions_are_refused():
    with (
        pytest.raises(SettingsError, match="precision = 'fp16', expected one of 32, tf32, bf16"),
        networks_in("fp16", nn.Linear(2, 2), CPU),
    ):
        pass


def test_auto_is_what_is_faster_here_and_a_run_keeps_it(tmp_path, monkeypatch):
    from genssl.fit import api
    from genssl.fit.precision import fastest

    assert fastest("cpu") in ("32", "bf16")
    monkeypatch.setattr(api, "fastest", lambda device: "bf16")
    run = fit(tmp_path / "run", precision="auto", max_steps=2)
    assert run.config["precision"] == "bf16"
    monkeypatch.setattr(api, "fastest", lambda device: "32")  # another machine goes on with what the first one found
    assert fit(tmp_path / "run", precision="auto", max_steps=3, resume=True).config["precision"] == "bf16"
    assert fit(tmp_path / "other", precision="auto", max_steps=2).config["precision"] == "32"
