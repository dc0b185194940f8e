"""Pictures of uncertainty: what their numbers are, and why there are none where a guide is never unsure."""

from __future__ import annotations

import pytest
import torch
from fake_runs import FakeRun, fake_run, make_data
from genssl.models import SimCLR, SimVAE, VISimSiam

from genssl.errors import SettingsError
from genssl.groups import Groups
from genssl.posterior.degraded import degradations, degraded_scales, log_scale
from genssl.report.looking import look
from genssl.report.uncertain import arriving, uncertain


def run_of(path, cls=SimVAE, **settings):
    torch.manual_seed(1)
    return FakeRun(path, cls.build(make_data().example(2), dim=3, hidden=(8, 8), **settings), make_data())


def test_every_picture_of_a_method_with_content(tmp_path):
    run = run_of(tmp_path)
    drawings = uncertain(run, look(run))
    assert list(drawings) == ["intervals", "surest", "degraded", "arriving"]
    assert all(drawing.figure is not None for drawing in drawings.values())
    assert all(drawing.caption.endswith(".") for drawing in drawings.values())


def test_a_deterministic_guide_is_never_unsure(tmp_path):
    run = run_of(tmp_path, SimCLR)
    drawings = uncertain(run, look(run))
    assert {drawing.caption for drawing in drawings.values()} == {"The guide is deterministic: it is never unsure."}
    with pytest.raises(SettingsError, match="deterministic"):
        log_scale(run.method, torch.rand(2, *run.data.event_shape))


def test_content_shrinks_as_its_closed_form_says(float64):
    """Equal posteriors of every view: variance of y is v_J + a^2 s^2 / J, and the means are those of the first views."""
    torch.manual_seed(0)
    groups = Groups(torch.rand(6, 4, 5))
    method = SimVAE.build(groups, dim=2, hidden=(8,), content_scale=1.0, view_scale=0.5).double()
    scale, moved = arriving(method, groups)
    for (count, value), (_, distance) in zip(scale[:-1], moved, strict=True):
        part = method.content(Groups(groups.x[:, : int(count)]))
        last = method.content(groups)
        assert value == pytest.approx(float(part.variance.mean().detach().sqrt()))
        assert distance == pytest.approx(float((part.mean - last.mean).detach().square().mean().sqrt()))
    assert [value for _, value in scale] == sorted((value for _, value in scale), reverse=True)


def test_a_guide_whose_scale_follows_the_noise_rises_with_it(tmp_path):
    run = run_of(tmp_path)
    x = torch.full((50, *run.data.event_shape), 0.5)

    class Follows(torch.nn.Module):
        """log scale: the mean distance of the pixels from their mean."""

        def forward(self, x):
            away = (x - x.mean((-1, -2, -3), keepdim=True)).abs().mean((-1, -2, -3))
            return torch.cat([torch.zeros(len(x), 3), 10 * away[:, None].expand(-1, 3)], 1)

    run.method.encoder = Follows()
    curves = degraded_scales(run, x)
    noise = curves["noise, standard deviation"]
    assert noise[0] == (0.0, 0.0)
    assert [value for _, value in noise] == sorted(value for _, value in noise)
    # E |e| of a Gaussian of standard deviation s, which the clamp hardly touches.
    strength, value = noise[2]
    assert value == pytest.approx(10 * strength * (2 / torch.pi) ** 0.5, rel=0.05)
    assert curves == degraded_scales(run, x)  # a function of the run's seed
    assert curves["share cropped away"][-1][1] == pytest.approx(0.0, abs=1e-5)  # of a flat image nothing changes


def test_spherical_scales_and_features():
    torch.manual_seed(0)
    x = torch.rand(9, 7)
    method = VISimSiam.build(Groups(x[:, None].expand(-1, 2, -1)), dim=4, hidden=(8,)).eval()
    with torch.no_grad():
        expected = -0.5 * method.encode(x).concentration.double().log()
        torch.testing.assert_close(log_scale(method, x), expected)
    assert list(degradations((7,))) == ["share of features corrupted"]
    assert list(degradations((1, 4, 4))) == [
        "noise, standard deviation",
        "share erased",
        "share cropped away",
    ]


def test_a_run_without_test_items(tmp_path):
    run = fake_run(tmp_path)
    seen = look(run)
    seen.z, seen.why_not = None, "the data have no test items"
    assert {d.caption for d in uncertain(run, seen).values()} == {"The data have no test items."}
