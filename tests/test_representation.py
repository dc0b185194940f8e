"""Representation in scikit-learn's hands, and held against genssl.fit itself."""

from __future__ import annotations

import copy
import doctest
import gc
import inspect
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import joblib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import genssl
from genssl.datasets import Data
from genssl.datasets.items import Items
from genssl.errors import DataError, NonFiniteError, SettingsError, ShapeError
from genssl.fit.described import describe_callable
from genssl.fit.temporary import free_folder
from genssl.representation import Representation
from genssl.views import CorruptFeatures

SMALL = {"dim": 3, "hidden": [8]}


def small(method="SimVAE", **changed):
    given = {"num_views": 2, "epochs": 1, "settings": SMALL, **changed}
    return Representation(method, **given)


def features(rows=40, columns=5, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, columns))


def images(rows=40):
    return load_digits().images[:rows, None] / 16


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder in which temporary runs are made, for this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class Watched(torch.nn.Module):
    """A linear auto-encoder that notes the labels that it is shown; `wants`: whether its terms ask for them."""

    shown: list = []  # by all instances: fit trains one of its own

    def __init__(self, features=5, wants=False):
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(features, 4), torch.nn.Linear(2, features)
        self.objective = genssl.Objective()
        if wants:
            self.objective.prior.needs = frozenset({"labels"})

    @classmethod
    def build(cls, example, **settings):
        return cls(example.event_shape[0], **settings)

    def model(self, groups):
        with groups.plate:
            shape = (len(groups), groups.num_views, 2)
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand(shape).to_event(2))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.3).to_event(2), obs=groups.x)

    def guide(self, groups):
        self.shown.append(groups.label)
        loc, log_scale = self.encoder(groups.x).chunk(2, -1)
        with groups.plate:
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(2))

    def encode(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


@pytest.fixture
def watched():
    Watched.shown.clear()
    return Watched


# ---------------------------------------------------------------------- scikit-learn


@parametrize_with_checks([Representation(num_views=2, epochs=1, settings={"dim": 2, "hidden": [8]})])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_docstring_example():
    found = doctest.DocTestFinder(recurse=False).find(Representation, "Representation")[0]
    found.globs = {}
    result = doctest.DocTestRunner().run(found)
    assert result.attempted > 7
    assert result.failed == 0


def test_pipeline_is_scored_without_a_word(capfd, tmp_path, monkeypatch, temporary):
    monkeypatch.chdir(tmp_path)
    X, y = load_digits(return_X_y=True)
    model = make_pipeline(StandardScaler(), small(epochs=40, lr=0.01), LogisticRegression(max_iter=500))
    scores = cross_val_score(model, X[:300], y[:300], cv=2, error_score="raise")
    assert scores.min() > 0.3  # a tenth by chance
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert list(temporary.glob("genssl-*")) == []


def test_grid_reaches_settings_of_the_method():
    X, y = features(), np.arange(40) % 2
    base = small()
    search = GridSearchCV(
        make_pipeline(base, LogisticRegression()),
        {"representation__settings__dim": np.array([2, 4]), "representation__views": [None, CorruptFeatures(0.5)]},
        cv=2,
        error_score="raise",
    ).fit(X, y)
    assert len(search.cv_results_["params"]) == 4
    best = search.best_estimator_[0]
    assert best.n_features_out_ == search.best_params_["representation__settings__dim"]
    assert best.settings["hidden"] == [8]
    assert base.settings == SMALL


def test_clone_shares_no_settings():
    one = small()
    other = clone(one).set_params(settings__dim=7)
    assert (one.settings["dim"], other.settings["dim"]) == (3, 7)
    assert other.set_params(settings={"dim": 1}, settings__hidden=[2]).settings == {"dim": 1, "hidden": [2]}
    assert one.get_params()["settings__dim"] == 3
    assert "settings__dim" not in one.get_params(deep=False)
    with pytest.raises(ValueError, match="Invalid parameter 'dims'"):
        one.set_params(dims=2)


def test_names_and_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(features(), columns=list("abcde"), index=range(100, 140))
    model = small().set_output(transform="pandas").fit(frame)
    z = model.transform(frame)
    assert list(z.columns) == list(model.get_feature_names_out()) == [f"representation{d}" for d in range(3)]
    assert list(z.index) == list(range(100, 140))
    assert list(model.feature_names_in_) == list("abcde")
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame[list("abced")])


def test_not_fitted_before_and_after_a_fit_that_failed():
    model = small()
    with pytest.raises(NotFittedError):
        model.transform(features())
    model.fit(features())
    with pytest.raises(SettingsError, match="no setting 'dims'"):
        model.set_params(settings={"dims": 2}).fit(features())
    with pytest.raises(NotFittedError):
        model.transform(features())


def test_arguments_are_those_of_fit():
    ours = set(inspect.signature(Representation).parameters)
    theirs = set(inspect.signature(genssl.fit).parameters) - {"others"}  # what it has not, to be told where it goes
    assert ours - theirs == {"image_shape", "random_state"}
    assert theirs - ours == {"data", "seed", "resume", "limit", "num_workers", "data_root", "download", "verify"}


# ---------------------------------------------------------------------- genssl.fit


def test_equals_genssl_fit_bit_for_bit(tmp_path):
    X = features().astype(np.float32)
    model = small(epochs=3, batch_size=16, lr=0.01, random_state=5)
    z = model.fit_transform(X)
    views = CorruptFeatures()
    data = Data("data", Items(torch.from_numpy(X)))
    run = genssl.fit(
        "SimVAE", data, settings=SMALL, num_views=2, epochs=3, batch_size=16, lr=0.01, seed=5, views=views,
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(z, run.represent(X).numpy())
    assert z.dtype == np.float32
    assert model.n_features_out_ == 3
    assert model.n_features_in_ == 5
    ours = small().fit(X).run_.config
    assert ours["lr"] == 1e-3  # its defaults
    assert ours["steps_per_epoch"] == 1
    assert ours["epochs"] == 1
    assert ours["seed"] == 0


@pytest.mark.parametrize(("rows", "batch"), [(10, 5), (11, 4), (9, None)])
def test_every_row_trains(rows, batch):
    seen = set()

    def views(x, index, generator):
        seen.update(x[:, 0].round().int().tolist())
        return x

    X = np.arange(rows, dtype=float)[:, None].repeat(2, 1)
    run = small(views=views, batch_size=batch, epochs=30, settings=SMALL | {"likelihood_scale": 10.0}).fit(X).run_
    assert seen == set(range(rows))
    assert run.config["data_description"]["sizes"] == {"train": rows}


def test_validation_is_what_was_asked_for(tmp_path):
    X = features()
    sizes = small(validation=0.25).fit(X).run_.config["data_description"]["sizes"]
    assert sizes == {"train": 30, "validation": 10}
    held = features(7, seed=1)
    run = small(validation=held, measure=True).fit(X).run_
    assert run.config["data_description"]["sizes"] == {"train": 40, "validation": 7}
    torch.testing.assert_close(run.data.validation.x, torch.from_numpy(held).float(), rtol=0, atol=0)
    assert "knn" not in run.metrics[-1] or run.metrics[-1]["knn"] is None
    with pytest.raises(ValueError, match="expecting 5 features"):
        small(validation=held[:, :3]).fit(X)
    bare = genssl.fit("VAE", torch.from_numpy(X), epochs=1, settings=SMALL, out=tmp_path / "bare", progress=False)
    assert bare.config["data_description"]["sizes"] == {"train": 32, "validation": 4, "test": 4}  # why X goes as Data


def test_an_instance_is_copied(watched):
    method = watched()
    before = copy.deepcopy(method.state_dict())
    model = Representation(method, epochs=2, num_views=2).fit(features())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert not torch.equal(model.run_.method.encoder.weight, method.encoder.weight)
    z = model.transform(features())
    np.testing.assert_array_equal(model.fit(features()).transform(features()), z)
    assert clone(model).fit(features()).n_features_out_ == 2


def test_seeds():
    X = features()
    numpy_state, torch_state = np.random.get_state()[2], torch.get_rng_state()  # noqa: NPY002
    z = small(random_state=3).fit_transform(X)
    np.testing.assert_array_equal(z, small(random_state=np.int64(3)).fit_transform(X))
    assert not np.array_equal(z, small(random_state=4).fit_transform(X))
    assert np.random.get_state()[2] == numpy_state  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)

    def seed(state):
        return small(random_state=state).fit(X).run_.config["seed"]

    generator = np.random.RandomState(0)
    first, second = seed(generator), seed(generator)
    assert first == seed(np.random.RandomState(0)) != second
    np.random.seed(0)  # noqa: NPY002
    assert seed(None) == first
    assert seed(None) == second
    with pytest.raises(ValueError, match="random"):
        seed("zero")


# ---------------------------------------------------------------------- labels


def test_labels_are_hidden_from_methods_that_need_none(watched):
    X, y = features(), np.arange(40) % 3
    for label in (y, y + 0.5, ["a"] * 3, X):  # whatever it is
        model = Representation(watched, epochs=2, num_views=2).fit(X, label)
        assert model.classes_ is None
        assert model.run_.data.train.label is None
    groups = genssl.Groups(torch.from_numpy(X).float()[:, None].expand(-1, 2, -1).contiguous(), label=torch.arange(40))
    Representation(watched, epochs=1).fit(groups)
    Representation(watched(), epochs=1).fit(groups, y)
    assert watched.shown
    assert all(label is None for label in watched.shown)
    assert groups.label is not None


@pytest.mark.parametrize("as_instance", [False, True])
def test_labels_go_to_methods_that_need_them(watched, as_instance):
    X, y = features(), np.array(["dog", "cat", "eel", "cat"] * 10)
    method, settings = (watched(wants=True), None) if as_instance else (watched, {"wants": True})
    model = Representation(method, settings=settings, batch_size=40, epochs=1, num_views=1).fit(X, y)
    assert list(model.classes_) == ["cat", "dog", "eel"]
    np.testing.assert_array_equal(model.classes_[model.run_.data.train.label], y)
    assert sorted(watched.shown[-1].tolist()) == sorted(model.run_.data.train.label.tolist())


def test_unknown_labels():
    X, y = features(), np.array([5, -1, 9, -1] * 10)
    model = small("VariationalClassification").fit(X, y)
    assert list(model.classes_) == [5, 9]
    assert model.run_.data.train.label.tolist() == [0, -1, 1, -1] * 10
    assert model.run_.config["num_classes"] == 2
    mixture = small("MixtureSimVAE", settings=SMALL | {"labels": 8, "num_components": 4}).fit(X, np.abs(y))
    assert list(mixture.classes_) == [1, 5, 9]
    blind = small("MixtureSimVAE", settings=SMALL | {"num_components": 4}).fit(X, y)
    assert blind.classes_ is None


def test_bad_labels_are_told():
    X = features()
    with pytest.raises(SettingsError, match="no labels"):
        small("VariationalClassification").fit(X)
    with pytest.raises(ShapeError, match="3 labels, expected 40"):
        small("VariationalClassification").fit(X, [0, 1, 2])
    with pytest.raises(ValueError, match="continuous"):
        small("VariationalClassification").fit(X, X[:, 0])


# ---------------------------------------------------------------------- views


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    event=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    rate=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_corrupted_values_come_from_their_column(rows, event, rate, seed):
    x = torch.randn(rows, *event)
    view = CorruptFeatures(rate)(x, None, torch.Generator().manual_seed(seed))
    assert view.shape == x.shape
    assert bool((view[:, None] == x[None]).any(1).all())
    assert rows > 1 or torch.equal(view, x)
    assert torch.equal(view, CorruptFeatures(rate)(x, None, torch.Generator().manual_seed(seed)))


def test_corruption_has_its_rate():
    x, generator = torch.arange(400.0).view(50, 8), torch.Generator().manual_seed(0)
    changed = torch.stack([CorruptFeatures(0.3)(x, None, generator) != x for _ in range(200)]).float()
    expected = 0.3 * 49 / 50  # one draw in 50 is the row itself
    assert changed.mean() == pytest.approx(expected, abs=4 * (expected / changed.numel()) ** 0.5)
    pairs = (changed[..., 0] * changed[..., 1]).mean()  # columns are independent
    assert pairs == pytest.approx(expected**2, abs=4 * expected / 10_000**0.5)
    assert torch.equal(CorruptFeatures(0.0)(x, None, generator), x)
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingsError, match=r"rate = .*, expected a probability"):
            CorruptFeatures(rate)


def test_which_views():
    def views(X, **changed):
        return small(**changed).fit(X).run_.config["views"]

    assert views(features()) == "CorruptFeatures(rate=0.2)"
    assert views(features().reshape(40, 5, 1)) == "CorruptFeatures(rate=0.2)"
    assert views(features(), method="VAE") == "CorruptFeatures(rate=0.2)"
    assert views(features(), method="VAE", num_views=None) is None  # its J is 1
    assert views(features(), method="VAE", num_views=1) is None
    assert views(features(), views=genssl.views.Identity()) == "Identity()"
    assert views(images()) == describe_callable(genssl.views.images())
    assert views(genssl.Groups(torch.randn(9, 2, 5))) is None


# ---------------------------------------------------------------------- what X may be


def test_images_in_every_form():
    X = images()
    z = small().fit(X).transform(X)
    flat = small(image_shape=(1, 8, 8)).fit(X.reshape(40, 64))
    assert flat.event_shape_ == (1, 8, 8)
    assert flat.n_features_in_ == 64
    for form in (X, X[:, 0], X.reshape(40, 64), torch.from_numpy(X)):
        np.testing.assert_array_equal(flat.transform(form), z)
    np.testing.assert_array_equal(small(image_shape=[1, 8, 8]).fit(X[:, 0]).transform(X), z)
    bytes_ = (X * 255).round().astype(np.uint8)
    as_bytes = small().fit(bytes_)
    assert as_bytes.run_.data.train.dtype == torch.uint8
    np.testing.assert_allclose(as_bytes.transform(bytes_), small().fit_transform(bytes_ / 255), atol=1e-6)


def test_images_that_are_none():
    model = small(image_shape=(1, 8, 8)).fit(images())
    with pytest.raises(DataError, match="X: image values from 0 to 16"):
        model.transform(16 * images())
    with pytest.raises(DataError, match="X: image values"):
        small().fit(16 * images())
    with pytest.raises(DataError, match="without a channel"):
        small().fit((255 * images()[:, 0]).astype(np.uint8))
    with pytest.raises(DataError, match="channels last"):
        small().fit(np.zeros((4, 8, 8, 3)))
    with pytest.raises(ShapeError, match="X has 63 features, expected 64"):
        small(image_shape=(1, 8, 8)).fit(features(9, 63))
    with pytest.raises(ShapeError, match=r"rows of shape \[8, 8, 3\], expected \[3, 8, 8\]"):
        small(image_shape=(3, 8, 8)).fit(np.zeros((4, 8, 8, 3)))
    with pytest.raises(ShapeError, match=r"rows of shape \[1, 4, 16\], expected \[1, 8, 8\]"):
        model.transform(images().reshape(40, 1, 4, 16))
    for shape in ((8, 8), (1, 8, 0), (1, 8.0, 8)):
        with pytest.raises(SettingsError, match="image_shape = .* expected"):
            small(image_shape=shape).fit(images())


def test_types_of_features():
    X = np.arange(200.0).reshape(40, 5) % 7
    z = small(random_state=1).fit_transform(X)
    assert z.dtype == np.float64
    for dtype in (np.float32, np.int64, np.uint8, np.float16):
        other = small(random_state=1).fit_transform(X.astype(dtype))
        np.testing.assert_array_equal(other, z)
        assert other.dtype == (np.float32 if dtype == np.float32 else np.float64)
    X[3, 1] = 1e300  # finite, but not in float32
    with pytest.raises(DataError, match="X: row 3"):
        small().fit(X)


def test_double_precision(float64):
    X = features()
    model = small().fit(X)
    expected = model.run_.method.encode(torch.from_numpy(X)).mean.detach().numpy()
    np.testing.assert_allclose(model.transform(X), expected, rtol=1e-12)


def test_ragged_groups():
    rows, key = torch.randn(50, 5), torch.randint(0, 20, (50,))
    groups = genssl.Groups.by_key(rows, key)
    assert groups.mask is not None
    model = Representation("SimVAE", epochs=1, settings=SMALL).fit(groups)
    each = model.transform(rows)
    expected = np.stack([each[(key == k).numpy()].mean(0) for k in key.unique()])
    np.testing.assert_allclose(model.transform(groups), expected, atol=1e-6)
    assert model.n_features_in_ == 5
    assert model.run_.config["num_views"] == groups.num_views
    with pytest.raises(ShapeError, match=r"expected views of shape \[5\]"):
        model.transform(genssl.Groups(torch.randn(3, 2, 4)))
    with pytest.raises(ShapeError, match="several modalities"):
        Representation("CLIP").fit(genssl.Groups((torch.randn(9, 5), torch.randn(9, 4))))
    with pytest.raises(SettingsError, match="num_views = 3"):
        small(num_views=3).fit(genssl.Groups(torch.randn(9, 2, 5)))


# ---------------------------------------------------------------------- folders and pickles


def test_temporary_runs_go_with_their_estimator(temporary):
    model = small().fit(features())
    first = model.run_.path
    assert first.parent == temporary
    assert model.run_.metrics
    model.fit(features())
    gc.collect()
    assert not first.exists()
    run, other = model.run_, small().fit(features())
    del model
    gc.collect()
    assert run.metrics  # as long as somebody has it
    assert len(list(temporary.glob("genssl-*"))) == 2
    del run, other
    gc.collect()
    assert list(temporary.glob("genssl-*")) == []


def test_failed_fits_leave_nothing(temporary, tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        small(lr=1e30, epochs=40, settings=SMALL | {"likelihood_scale": 1e-6}).fit(features())
    assert "was temporary and is gone" in caught.value.__notes__[0]
    assert list(temporary.glob("genssl-*")) == []
    with pytest.raises(SettingsError):
        small(out=tmp_path / "kept", settings={"dims": 1}).fit(features())
    assert small(out=tmp_path / "kept").fit(features()).run_.path == tmp_path / "kept"  # it holds no claim


def test_named_folders_are_numbered(tmp_path, temporary):
    out = tmp_path / "mine"
    model = small(out=out).fit(features())
    again = small(out=str(out)).fit(features())
    assert (model.run_.path, again.run_.path) == (out, tmp_path / "mine-2")
    assert list(temporary.glob("genssl-*")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine-2", "temporary"]  # and no claim
    z = model.transform(features())
    del model
    gc.collect()
    run = genssl.load(out)
    np.testing.assert_array_equal(run.represent(torch.from_numpy(features())).numpy(), z.astype(np.float32))


def test_claims_side_by_side(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").write_text("no folder")
    held = Barrier(8)

    def claim(_):
        with free_folder(tmp_path / "run") as place:
            held.wait(timeout=20)  # nothing is written before all have theirs
            return place

    with ThreadPoolExecutor(8) as pool:
        claimed = [place.name for place in pool.map(claim, range(8))]
    assert sorted(claimed) == ["run", *(f"run-{number}" for number in range(3, 10))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-2"]


@pytest.mark.parametrize("method", ["SimVAE", "MoCo", "VariationalClassification"])
def test_pickles_outlive_the_run(method, tmp_path, temporary):
    X = features(300)
    model = small(method).fit(X, np.arange(300) % 2)
    z = model.transform(X)
    held = pickle.dumps(model)
    assert X.astype(np.float32).tobytes()[:400] not in held
    joblib.dump(model, tmp_path / "model.joblib")
    copied = copy.deepcopy(model)
    assert model.run_.data is not None  # pickling takes nothing from the original
    del model
    gc.collect()
    for other in (pickle.loads(held), joblib.load(tmp_path / "model.joblib"), copied):
        np.testing.assert_array_equal(other.transform(X), z)
        assert other.run_.config["method"] == method
        assert Path(other.run_.path).parent == temporary  # of its origin
        with pytest.raises(DataError, match="set run.data"):
            _ = other.run_.data
    np.testing.assert_array_equal(clone(copied).fit(X, np.arange(300) % 2).transform(X), z)
