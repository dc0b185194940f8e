"""posterior.nc holds what the guide and the model say, under ArviZ's names, and appears whole or not at all."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray
from genssl.models import ContentSimVAE, MCInfoNCE, MixtureSimVAE, NeuralStatistician, SimCLR, SimVAE, VISimSiam

from genssl import Objective
from genssl.cli import main
from genssl.distributions import GroupNormal
from genssl.errors import SettingsError
from genssl.evaluation.weights import log_weights
from genssl.files import DiskError
from genssl.groups import Groups
from genssl.posterior import calibrate, export, posterior
from genssl.posterior.certainty import calibration_figures, weight_figures
from genssl.posterior.store import Store
from genssl.terms import ContrastiveNormaliser, CosineAttraction

VIEWS, DIM, EVENT = 3, 2, (1, 4, 4)


class FakeRun:
    """A method with fresh weights and groups, in a folder."""

    def __init__(self, path, method, groups, **config):
        self.path, self.method, self.made = path, method.eval(), groups
        self.config = {"seed": 0, "num_views": VIEWS, "method": type(method).__name__} | config
        self.device = torch.device("cpu")

    def groups(self, split, n):
        return self.made[:n]


def ragged(number=6):
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(number, VIEWS, generator=generator) < 0.7
    mask[:, 0] = True
    label = torch.arange(number) % 2
    return Groups(torch.rand(number, VIEWS, *EVENT, generator=generator), mask, label=label, index=torch.arange(number))


def run_of(path, cls=SimVAE, groups=None, **settings):
    groups = ragged() if groups is None else groups
    return FakeRun(path, cls.build(groups, dim=DIM, hidden=[8], **settings), groups)


def test_draws_are_those_of_the_guide_and_of_the_content(tmp_path):
    run = run_of(tmp_path, content_scale=1.0)
    tree = posterior(run, samples=4000, log_likelihood=False, progress=False)
    z, valid = tree["posterior/z"], tree["observed_data/valid"].values.astype(bool)
    assert z.dims == ("sample", "group", "view", "latent")
    with torch.no_grad():
        law, content = run.method.joint(run.made), run.method.content(run.made)
    assert np.allclose(z.mean("sample").values[valid], law.mean.numpy()[valid], atol=0.1)
    assert np.allclose(z.std("sample").values[valid], law.variance.sqrt().numpy()[valid], rtol=0.1)
    y = tree["posterior/y"]
    assert y.dims == ("sample", "group", "latent")
    assert np.allclose(y.mean("sample"), content.mean.numpy(), atol=0.1)
    assert np.allclose(y.std("sample"), content.stddev.numpy(), rtol=0.1)
    # y goes with its own z: given z it is what the model says, so the two are correlated over draws.
    mean = np.where(valid[None, ..., None], z.values, 0).sum(2) / valid.sum(1)[None, :, None]
    correlation = np.corrcoef(y.values[:, 0, 0], mean[:, 0, 0])[0, 1]
    assert correlation > 0.5


def test_log_densities_are_those_of_importance_weighting(tmp_path):
    run = run_of(tmp_path, content_scale=1.0)
    tree = posterior(run, samples=5, progress=False)
    stats, likelihood = tree["sample_stats"], tree["log_likelihood/x"]
    assert likelihood.dims == ("sample", "group", "view")
    padded = ~tree["observed_data/valid"].values.astype(bool)
    assert (likelihood.values[:, padded] == 0).all()
    expected = log_weights(run.method, run.made, 5, seed=export.stream_seed(0, "posterior"), block=6)
    assert np.allclose(stats["log_weight"], expected.log_weight.numpy(), rtol=1e-5)
    assert np.allclose(stats["log_q"], expected.log_q.numpy(), rtol=1e-5)
    assert np.allclose(likelihood.sum("view"), expected.log_likelihood.numpy(), rtol=1e-5)
    with torch.no_grad():  # by hand, at the draws that were written
        z = torch.tensor(tree["posterior/z"].values[0])
        law = run.method.observation(z, Groups(run.made.x))
        by_hand = torch.where(run.made.valid, law.log_prob(run.made.x), 0.0)
    assert np.allclose(likelihood.values[0], by_hand.numpy(), rtol=1e-4, atol=1e-4)


def test_predictions_are_averages_over_draws(tmp_path):
    run = run_of(tmp_path)
    tree = posterior(run, samples=7, progress=False)
    predicted, z = tree["posterior_predictive"], torch.tensor(tree["posterior/z"].values)
    assert predicted["x_mean"].dims == ("group", "view", "channel", "height", "width")
    with torch.no_grad():
        means = torch.stack([run.method.decode(one) for one in z]).double()
    valid = run.made.valid.numpy()
    assert np.allclose(predicted["x_mean"].values[valid], means.mean(0).numpy()[valid], atol=1e-5)
    variance = means.var(0, correction=0) + 0.02  # the likelihood's
    assert np.allclose(predicted["x_variance"].values[valid], variance.numpy()[valid], rtol=1e-3)
    assert predicted["x"].sizes["prediction"] == 5
    spread = predicted["x"].values[:, valid].std()
    assert spread > 0.05


def test_without_log_likelihood_the_draws_are_the_same_and_few_are_decoded(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    whole = posterior(run, samples=30, progress=False, out=tmp_path / "a.nc")
    calls = []
    run.method.decoder.register_forward_hook(lambda *_: calls.append(1))
    short = posterior(run, samples=30, log_likelihood=False, progress=False, out=tmp_path / "b.nc")
    assert len(calls) == 20 + 1  # and one to look at the sites
    assert set(whole.children) - set(short.children) == {"log_likelihood", "sample_stats"}
    assert np.array_equal(whole["posterior/z"], short["posterior/z"])


def test_prior_is_there_where_it_is_proper(tmp_path):
    proper = posterior(
        run_of(tmp_path, content_scale=0.7, view_scale=0.3), samples=3000, log_likelihood=False, progress=False
    )
    z, y = proper["prior/z"].values, proper["prior/y"].values
    assert proper["prior/z"].dims == ("sample", "view", "latent")
    assert np.allclose(z.std(0), (0.3**2 + 0.7**2) ** 0.5, rtol=0.06)
    assert np.allclose(y.std(0), 0.7, rtol=0.06)
    assert np.allclose((z - y[:, None]).std(0), 0.3, rtol=0.06)
    assert proper["prior_predictive/x_mean"].sizes["prediction"] == 5
    flat = posterior(run_of(tmp_path), samples=3, progress=False)
    assert not {"prior", "prior_predictive"} & set(flat.children)
    assert "improper" in flat.attrs["content_prior"]


@pytest.mark.parametrize("cls", [ContentSimVAE, NeuralStatistician, MixtureSimVAE])
def test_methods_with_an_explicit_or_clustered_content(cls, tmp_path):
    tree = posterior(run_of(tmp_path, cls), samples=4, progress=False)
    assert tree["posterior/z"].dims == ("sample", "group", "view", "latent")
    assert tree["posterior/y"].dims == ("sample", "group", "latent")
    assert np.isfinite(tree["sample_stats/log_weight"].values).all()


@pytest.mark.parametrize("cls", [VISimSiam, MCInfoNCE])
def test_guide_only_methods_with_a_spread_have_draws_alone(cls, tmp_path):
    groups = Groups(torch.rand(6, VIEWS, *EVENT))
    tree = posterior(run_of(tmp_path, cls, groups), samples=4, progress=False)
    assert set(tree.children) == {"posterior", "observed_data"}
    assert tree["posterior/z"].dims == ("sample", "group", "view", "latent")
    assert float(tree["posterior/z"].std("sample").min()) > 0


def test_a_decoder_that_was_never_fitted_predicts_nothing(tmp_path):
    run = run_of(tmp_path, groups=Groups(torch.rand(6, VIEWS, *EVENT)))
    run.method = run.method.swap(reconstruction=ContrastiveNormaliser())
    tree = posterior(run, samples=4, progress=False)
    assert set(tree.children) == {"posterior", "observed_data"}
    assert "content_prior" not in tree.attrs


def test_a_guide_that_sees_the_group(tmp_path):
    run = run_of(tmp_path, group_guide="product", content_scale=1.0)
    tree = posterior(run, samples=2000, log_likelihood=False, progress=False)
    with torch.no_grad():
        law = run.method.joint(run.made)
    valid = run.made.valid.numpy()
    assert np.allclose(tree["posterior/z"].std("sample").values[valid], law.variance.sqrt().numpy()[valid], rtol=0.1)


def test_blocks_are_the_groups_in_order(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    monkeypatch.setattr(export, "VIEWS_A_BLOCK", 2 * VIEWS)
    tree = posterior(run, samples=400, progress=False)
    assert np.array_equal(tree["observed_data/index"], np.arange(6))
    assert np.array_equal(tree["observed_data/x"], run.made.x.numpy())
    with torch.no_grad():
        law = run.method.joint(run.made)
    valid = run.made.valid.numpy()
    assert np.allclose(tree["posterior/z"].mean("sample").values[valid], law.mean.numpy()[valid], atol=0.3)


def test_arviz_reads_it(tmp_path):
    from arviz_stats import summary

    posterior(run_of(tmp_path), samples=40, progress=False).close()
    tree = xarray.open_datatree(tmp_path / "posterior.nc", engine="h5netcdf")
    table = summary(tree, var_names=["y"], sample_dims="sample", kind="stats")
    assert len(table) == 6 * DIM


def test_leaves_method_and_generators_as_they_were(tmp_path):
    run = run_of(tmp_path)
    run.method.train()
    state, before = torch.get_rng_state(), {name: v.clone() for name, v in run.method.state_dict().items()}
    first = posterior(run, samples=3, progress=False)["posterior/z"].values
    assert run.method.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in run.method.state_dict().items())
    torch.manual_seed(5)
    assert np.array_equal(posterior(run, samples=3, progress=False, out=tmp_path / "b.nc")["posterior/z"], first)


def test_wrong_uses_are_errors_and_leave_no_file(tmp_path):
    run = run_of(tmp_path, SimCLR)
    with pytest.raises(SettingsError, match="the guide of SimCLR is a point mass"):
        posterior(run, progress=False)
    with pytest.raises(SettingsError, match="samples = 0"):
        posterior(run_of(tmp_path), samples=0)
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.nc"

    def interrupted():
        with Store(path, 4, {}) as store:
            store.write({"posterior": {"z": (("sample", "group"), np.zeros((2, 2)))}})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DiskError, match="No space left"):
        posterior(run_of(tmp_path), samples=2, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit = [
        "fit",
        "SimVAE",
        "--data",
        "digits",
        "--limit",
        "96",
        "--views",
        "2",
        "--epochs",
        "1",
        "--no-report",
        "--out",
        "run",
    ]
    assert main([*fit, "--set", "hidden=[8]", "--set", "dim=2"]) == 0
    assert main(["posterior", "run", "--groups", "7", "--samples", "4"]) == 0
    assert "7 groups, 4 samples" in capsys.readouterr().out
    assert (tmp_path / "run" / "posterior.nc").exists()
    assert main(["posterior", "run", "--groups", "0"]) == 2


def test_what_is_replaced_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    run, path = run_of(tmp_path), tmp_path / "posterior.nc"
    posterior(run, samples=5).close()
    assert "is there already" not in capsys.readouterr().err

    def stopped(*_):
        raise KeyboardInterrupt

    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(export, "block_of", stopped)
        with pytest.raises(KeyboardInterrupt):
            posterior(run, samples=2)
    told = f"genssl: {path}: is there already (6 groups, 5 samples); it is replaced at the end; Ctrl-C, and another --out, keep it"
    assert told in capsys.readouterr().err.splitlines()
    assert path.read_bytes() == before
    posterior(run, samples=2, progress=False).close()
    assert "is there already" not in capsys.readouterr().err
    path.write_text("mine")
    posterior(run, samples=2).close()
    assert f"{path}: is there already (no posterior, or a damaged one); " in capsys.readouterr().err


def test_a_prior_that_was_not_fitted_gives_no_y_no_weights_and_no_prior(tmp_path):
    run = run_of(tmp_path, content_scale=1.0)
    run.method.swap(prior=CosineAttraction())
    tree = posterior(run, samples=6, progress=False)
    assert set(tree["posterior"].data_vars) == {"z"}
    assert tree["log_likelihood/x"].shape == (6, 6, VIEWS)
    assert "prior" not in tree.children
    assert "sample_stats" not in tree.children
    assert tree.attrs["content_prior"].startswith("p(z) was not fitted")
    assert weight_figures(run).startswith("p(z) was not fitted")
    assert calibration_figures(run).startswith("p(z) was not fitted")
    with pytest.raises(SettingsError, match="p.z. was not fitted"):
        calibrate(run.method, run.made)


def test_scales_of_poutine_are_in_no_density(tmp_path):
    """A user's annealing of z changes the loss, not what the densities of the posterior are."""

    class Annealed(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.objective, self.factor = Objective(), factor

        def model(self, groups):
            with groups.plate:
                with pyro.poutine.scale(scale=self.factor):
                    z = pyro.sample("z", GroupNormal(0.5, VIEWS, DIM, 1.0))
                pyro.sample("x", dist.Normal(z.repeat(1, 1, 2), 0.3).to_event(2), obs=groups.x)

        def guide(self, groups):
            with groups.plate, pyro.poutine.scale(scale=self.factor):
                pyro.sample("z", dist.Normal(groups.x[..., :DIM], 0.2).to_event(2))

    groups = Groups(torch.randn(4, VIEWS, 2 * DIM, generator=torch.Generator().manual_seed(1)))
    found = [
        posterior(FakeRun(tmp_path, Annealed(factor), groups), samples=5, out=tmp_path / f"{factor}.nc", progress=False)
        for factor in (1.0, 0.1)
    ]
    for name in ("log_p", "log_q", "log_weight"):
        np.testing.assert_allclose(found[0]["sample_stats"][name], found[1]["sample_stats"][name], rtol=1e-5)
    assert float(found[0]["sample_stats/log_q"].std()) > 0.1
