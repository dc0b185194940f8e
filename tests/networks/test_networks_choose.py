"""Networks by name, with defaults and errors."""

from __future__ import annotations

import sys

import pytest
import torch
from genssl.models import SimVAE
from torch import nn

from genssl import Groups
from genssl.errors import SettingsError, ShapeError
from genssl.networks import NETWORKS, conv_decoder, default_network, make_decoder, make_encoder, timm_encoder


def widths(network):
    return [module.out_features for module in network.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ((3, 32, 32), "conv"),
        (torch.Size([3, 64, 64]), "conv"),
        ((1, 32, 32), "mlp"),
        ((1, 28, 28), "mlp"),
        ((3, 96, 96), "mlp"),
        ((3, 32, 64), "mlp"),
        ((10,), "mlp"),
    ],
)
def test_default_network(event, expected):
    assert default_network(event) == expected
    assert make_encoder(default_network(event), event, 4)(torch.rand(2, *event)).shape == (2, 4)
    assert make_decoder(default_network(event), 2, event)(torch.rand(2, 2)).shape == (2, *event)


@pytest.mark.parametrize("network", ["mlp", "conv", "released_conv", "resnet18"])
@pytest.mark.parametrize("event", [(1, 32, 32), (3, 32, 32)])
def test_pair_by_name(network, event):
    encoded = make_encoder(network, event, 6).eval()(torch.rand(2, *event))
    assert encoded.shape == (2, 6)
    image = make_decoder(network, 3, event, sigmoid=True).eval()(encoded[:, :3])
    assert image.shape == (2, *event)
    assert (image >= 0).all()
    assert (make_decoder(network, 3, event)(torch.randn(4, 3)) < 0).any()


def test_hidden_widths_are_those_of_the_mlp():
    assert widths(make_encoder("mlp", (7,), 4, [5, 6])) == [5, 6, 4]
    assert widths(make_decoder("mlp", 2, (7,), [5, 6])) == [6, 5, 7]
    assert widths(make_encoder("mlp", (1, 28, 28), 20)) == [500, 500, 2000, 20]
    assert widths(make_decoder("mlp", 10, (1, 28, 28))) == [2000, 500, 500, 784]
    for make in (
        lambda: make_encoder("conv", (3, 32, 32), 4, (5,)),
        lambda: make_decoder("conv", 4, (3, 32, 32), (5,)),
    ):
        with pytest.raises(SettingsError, match=r"hidden = \(5,\) is for the mlp.*conv"):
            make()


@pytest.mark.parametrize("network", ["resnet18", "timm:resnet18"])
def test_decoders_of_encoders_without_one(network):
    paper = sum(p.numel() for p in conv_decoder(4, (3, 32, 32)).parameters())
    assert sum(p.numel() for p in make_decoder(network, 4, (3, 32, 32)).parameters()) == paper
    assert widths(make_decoder(network, 10, (1, 28, 28))) == [2000, 500, 500, 784]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cnv", "did you mean conv?"), ("resnet-18", "did you mean resnet18?"), ("zzz", "known: mlp, conv"), (3, "known")],
)
def test_unknown_names(name, hint):
    for make in (lambda: make_encoder(name, (3, 32, 32), 4), lambda: make_decoder(name, 4, (3, 32, 32))):
        with pytest.raises(SettingsError) as error:
            make()
        assert hint in str(error.value)
    with pytest.raises(SettingsError, match="timm:NAME"):
        make_encoder("timm:", (3, 32, 32), 4)
    assert set(NETWORKS) > {"mlp", "conv"}


def test_methods_take_them():
    """`build` by default and by name; one step reaches every parameter."""
    groups = Groups(torch.rand(2, 2, 3, 32, 32))
    assert SimVAE.build(groups).dim == 64
    for network in ("conv", "released_conv"):
        method = SimVAE.build(groups, network=network, dim=4)
        module = method.objective(method.model, method.guide)
        module(groups).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
        method.eval()
        assert method.encode(groups.x).mean.shape == (2, 2, 4)
        assert method.decode(torch.randn(5, 4)).shape == (5, 3, 32, 32)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(SettingsError, match=r"pip install genssl\[timm\]"):
        make_encoder("timm:resnet18", (3, 32, 32), 4)


class TestTimm:
    @pytest.fixture(autouse=True)
    def timm(self):
        from genssl.datasets.torchvision_shim import ensure_torchvision

        ensure_torchvision()
        return pytest.importorskip("timm", reason="needs the extra timm")

    @pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
    @pytest.mark.parametrize("event", [(1, 32, 32), (3, 48, 48)])
    def test_encodes(self, name, event):
        network = make_encoder(f"timm:{name}", event, 6)
        x = torch.rand(3, *event)
        network(x).square().sum().backward()
        assert all(p.grad is not None for p in network.parameters())
        assert network.training
        encoded = network.eval()(x)
        torch.testing.assert_close(encoded[:1], network(x[:1]), atol=1e-5, rtol=1e-4)

    def test_initial_weights(self):
        from genssl.fit.randomness import seed_weights

        networks = [timm_encoder("test_vit", (3, 32, 32), 6, patch_size=8) for _ in range(2)]
        assert networks[0].network.pos_embed.shape[1] == 4 * 4 + 1
        for network in networks:
            seed_weights(network, 0)
        pairs = zip(networks[0].state_dict().values(), networks[1].state_dict().values(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
        assert networks[0].network.blocks[0].attn.qkv.weight.std() < 0.03  # timm's 0.02; torch's would be 0.07

    def test_errors(self):
        with pytest.raises(SettingsError, match=r"no model 'resnt18'; did you mean resnet18\?"):
            timm_encoder("resnt18", (3, 32, 32), 4)
        with pytest.raises(ShapeError, match="expected images"):
            timm_encoder("resnet18", (10,), 4)
        with pytest.raises(ShapeError, match=r"cannot take images of shape \(3, 16, 16\)"):
            timm_encoder("vgg11", (3, 16, 16), 4)
