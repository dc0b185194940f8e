"""The convolutional networks: sizes of the tables, gradients, eval mode, seeds, layout in memory."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from genssl.errors import ShapeError
from genssl.fit.randomness import seed_weights
from genssl.networks import conv_decoder, conv_encoder, released_conv_decoder, released_conv_encoder, resnet18_encoder
from genssl.networks.blocks import ResidualBlock

SMALL = (3, 32, 32)
ENCODERS = {"conv": conv_encoder, "released_conv": released_conv_encoder}
DECODERS = {"conv": conv_decoder, "released_conv": released_conv_decoder}
NETWORKS = {
    **{f"{name} encoder": (lambda make=make: make(SMALL, 10), SMALL) for name, make in ENCODERS.items()},
    **{f"{name} decoder": (lambda make=make: make(5, SMALL), (5,)) for name, make in DECODERS.items()},
    "resnet18": (lambda: resnet18_encoder((3, 12, 12), 10), (3, 12, 12)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param][0]()


@pytest.fixture
def same(request, network):
    """Another of the same kind."""
    return NETWORKS[request.node.callspec.params["network"]][0]()


@pytest.fixture
def shape(request, network):
    """Of one of its inputs."""
    return NETWORKS[request.node.callspec.params["network"]][1]


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def check_gradients(network, x):
    network(x).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


# ---------------------------------------------------------------------- shapes and counts


@pytest.mark.parametrize("name", ["conv", "released_conv"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [32, 64])
class TestShapes:
    def test_encoder(self, name, channels, side):
        network = ENCODERS[name]((channels, side, side), 6)
        x = torch.rand(3, channels, side, side, requires_grad=True)
        check_gradients(network, x)
        assert (x.grad.abs().sum(1) > 0).float().mean() > 0.95  # a stem without padding misses the border at most
        assert network.eval()(x[:2]).shape == (2, 6)
        assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)][-1] == 6

    def test_decoder(self, name, channels, side):
        event = (channels, side, side)
        z = torch.randn(3, 5)
        squashed, plain = DECODERS[name](5, event, sigmoid=True), DECODERS[name](5, event)
        check_gradients(squashed, z)
        plain.load_state_dict(squashed.state_dict())
        mean = squashed(z)
        assert mean.shape == (3, *event)
        assert mean.is_contiguous()
        assert (mean >= 0).all()
        assert (mean <= 1).all()
        assert mean.std() > 0.01
        torch.testing.assert_close(mean, plain(z).sigmoid())


@pytest.mark.parametrize(
    ("make", "side", "expected"),
    [
        (conv_encoder, 64, [(16, 32), (32, 32), (64, 16), (128, 8), (256, 4)]),
        (conv_encoder, 32, [(16, 16), (32, 16), (64, 8), (128, 4), (256, 2)]),
        (conv_decoder, 64, [(128, 8), (64, 16), (32, 32), (16, 64)]),
        (conv_decoder, 32, [(128, 4), (64, 8), (32, 16), (16, 32)]),
        (released_conv_encoder, 64, [(64, 31), (32, 31), (64, 16), (128, 8)]),
        (released_conv_encoder, 32, [(64, 15), (32, 15), (64, 8), (128, 4)]),
        (released_conv_decoder, 64, [(256, 8), (128, 16), (64, 32)]),
        (released_conv_decoder, 32, [(256, 4), (128, 8), (64, 16)]),
    ],
)
def test_grids(make, side, expected):
    """(channels, side) behind the max-pool and the stages: what Table 4 prints for 64x64, and half the sides for 32x32."""
    event = (3, side, side)
    encodes = make in ENCODERS.values()
    network = make(event, 6) if encodes else make(5, event)
    found = []
    for module in network:
        if isinstance(module, nn.MaxPool2d | ResidualBlock):
            module.register_forward_hook(lambda _, inputs, output: found.append(tuple(output.shape[1:3])))
    network(torch.rand(2, *event) if encodes else torch.rand(2, 5))
    assert list(dict.fromkeys(found)) == expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "grid"), [(32, 2), (64, 4)])
def test_parameters_of_table_4(channels, side, grid):
    """Counted by hand: convolutions without bias, 2 numbers a channel for BatchNorm."""
    event = (channels, side, side)

    def block(inputs, outputs):
        return 9 * inputs * outputs + 9 * outputs**2 + inputs * outputs + 3 * 2 * outputs

    blocks = block(16, 32) + block(32, 64) + block(64, 128) + block(128, 256)
    stem = 4 * 4 * channels * 16 + 2 * 16
    assert parameters(conv_encoder(event, 128)) == stem + blocks + 256 * grid**2 * 128 + 128
    mirrored = block(256, 128) + block(128, 64) + block(64, 32) + block(32, 16)
    last = 5 * 5 * 16 * channels + channels
    assert parameters(conv_decoder(64, event)) == (64 + 1) * 256 * grid**2 + mirrored + last


def test_two_blocks_a_stage_make_18_layers():
    """Convolutions and linear layers off the skip connections."""
    network = conv_encoder(SMALL, 6, blocks=2)
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "skip" not in n]
    assert len(layers) == 18
    decoder = conv_decoder(5, SMALL, blocks=2)
    assert decoder(torch.randn(2, 5)).shape == (2, *SMALL)
    assert parameters(decoder) > parameters(conv_decoder(5, SMALL))


@pytest.mark.parametrize(
    ("event", "encoder", "decoder"), [(SMALL, 969_920, 8_984_393), ((3, 64, 64), 1_757_632, 9_383_753)]
)
def test_parameters_of_the_released_pair(event, encoder, decoder):
    """The figures of the authors' networks at 64 dimensions."""
    assert parameters(released_conv_encoder(event, 128)) == encoder
    assert parameters(released_conv_decoder(64, event)) == decoder


@pytest.mark.parametrize("name", ["conv", "released_conv"])
@pytest.mark.parametrize("event", [(1, 28, 28), (3, 32, 64), (3, 48, 48), (32, 32), (10,)])
def test_other_shapes_are_an_error(event, name):
    for make in (lambda: ENCODERS[name](event, 4), lambda: DECODERS[name](2, event)):
        with pytest.raises(ShapeError, match=rf"{name}: .*expected \[channels, 32, 32\].*network = 'mlp'.*resize"):
            make()


# ---------------------------------------------------------------------- behaviour


def test_alone_in_eval(network, shape):
    """Running averages: what a view is encoded to depends on nothing else in the batch. While training it does."""
    network.double()
    x = torch.randn(4, *shape, dtype=torch.float64)
    network(x)  # running averages other than 0 and 1
    torch.testing.assert_close(network.eval()(x)[:1], network(x[:1]))
    network.train()
    assert not torch.allclose(network(x)[:2], network(x[:2]))


def test_double_precision(float64):
    for make, shape in NETWORKS.values():
        assert make()(torch.rand(2, *shape)).dtype == torch.float64


def test_layout_in_memory_changes_no_number(network, shape):
    """Against the same weights with every tensor contiguous."""
    network.double()
    x = torch.rand(3, *shape, dtype=torch.float64)
    expected = network(x)
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda _, inputs: tuple(tensor.contiguous() for tensor in inputs))
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_see_channels_last(channels):
    """All but the first, at 1 channel too; weights and their gradients stay contiguous."""
    seen = []
    for make in ENCODERS.values():
        network = make((channels, 32, 32), 6)
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and name != "0":
                module.register_forward_pre_hook(
                    lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
                )
        network(torch.rand(2, channels, 32, 32)).sum().backward()
        assert all(p.is_contiguous() and p.grad.is_contiguous() for p in network.parameters())
    assert len(seen) > 20
    assert all(seen)


def test_bfloat16_autocast(network, shape):
    x = torch.rand(8, *shape)
    exact = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x)
    assert (rough.float() - exact).norm() < 0.1 * exact.norm()
    rough.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


# ---------------------------------------------------------------------- weights


def test_weights_are_a_function_of_the_seed(network, same):
    def weights(seed, part):
        seed_weights(part, seed)
        return nn.utils.parameters_to_vector(part.parameters())

    assert torch.equal(weights(0, network), weights(0, same))
    assert not torch.equal(weights(0, network), weights(1, same))


def test_saved_and_loaded(network, same, shape):
    """Under unique names, as safetensors, which take contiguous tensors alone; copied and pickled, as EMA targets are."""
    x = torch.rand(2, *shape)
    network.eval()
    names = [name for name, _ in [*network.named_parameters(), *network.named_buffers()]]
    assert len(names) == len(set(names)) == len(network.state_dict())
    same.eval().load_state_dict(load(save(network.state_dict())))
    for again in (same, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(again(x), network(x))


def test_resnet18_keeps_the_initial_weights_of_torchvision():
    """He et al.'s normal initialisation over the outputs, where torch's own are uniform and narrower."""
    network = resnet18_encoder((3, 8, 8), 6)
    seed_weights(network, 0)
    for name, weight in network.named_parameters():
        if weight.dim() == 4:
            expected = (2 / (weight.shape[0] * weight.shape[2] * weight.shape[3])) ** 0.5
            assert weight.std().item() == pytest.approx(expected, rel=0.1), name
    assert torch.equal(network.network.bn1.running_mean, torch.zeros(64))


def test_reset_forgets_what_was_learnt():
    network = resnet18_encoder((1, 8, 8), 2)
    network(torch.rand(8, 1, 8, 8))
    torch.manual_seed(3)
    network.reset_parameters()
    first = copy.deepcopy(network.state_dict())
    network(torch.rand(8, 1, 8, 8))
    torch.manual_seed(3)
    network.reset_parameters()
    assert all(torch.equal(value, first[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("event", [(1, 28, 28), (4, 8, 12), (3, 32, 32), (3, 65, 65)])
def test_resnet18_takes_any_image(event):
    network = resnet18_encoder(event, 6)
    check_gradients(network, torch.rand(4, *event))
    assert network.eval()(torch.rand(2, *event)).shape == (2, 6)
    small = max(event[1:]) <= 64
    assert network.network.conv1.stride == ((1, 1) if small else (2, 2))
    assert isinstance(network.network.maxpool, nn.Identity if small else nn.MaxPool2d)
    with pytest.raises(ShapeError, match="expected images"):
        resnet18_encoder((10,), 6)


def test_the_last_layer_starts_small_whichever_way_it_is_drawn():
    """So that log scales start near 0; the seeding of `fit` goes through reset_parameters too."""
    last = conv_encoder(SMALL, 10)[-1]
    usual = nn.Linear(1024, 10)
    assert last.weight.abs().max() <= 0.1 * usual.weight.abs().max() * 1.05
    network = conv_encoder(SMALL, 10)
    seed_weights(network, 3)
    torch.manual_seed(0)
    scale = network.eval()(torch.rand(16, *SMALL)).std()
    assert scale < 0.1
