"""Representation: a method of genssl as a transformer of scikit-learn."""

from __future__ import annotations

import copy
import math
import numbers
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from genssl.datasets.arrays import as_tensor, check_values
from genssl.datasets.data import Data
from genssl.datasets.items import Items
from genssl.errors import SettingsError, ShapeError
from genssl.fit.api import fit
from genssl.fit.build import build, find_class
from genssl.fit.config import check, defaults, is_whole
from genssl.fit.metrics import Line
from genssl.fit.run import Run
from genssl.fit.slots import apply_slots
from genssl.fit.temporary import free_folder, remove_own, temporary_folder
from genssl.groups import Groups
from genssl.views import CorruptFeatures


class Representation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """genssl.fit as a transformer: rows of X to the means of encode(x), [N, F] -> [N, D].

    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from genssl import Representation
    >>> X, y = load_wine(return_X_y=True)
    >>> represent = Representation("SimVAE", num_views=2, epochs=20, settings={"dim": 8})
    >>> model = make_pipeline(StandardScaler(), represent, LogisticRegression()).fit(X, y)
    >>> model[:-1].transform(X).shape
    (178, 8)

    method, settings, replace, views, num_views, epochs, max_seconds, max_steps, batch_size (rows a step), lr, optimizer, schedule, clip,
    precision, device, callbacks, measure, graph, progress    as in genssl.fit, with its defaults but for measure and progress: off
                  A grid reaches settings of the method as `settings__dim`. An instance of a method is copied, never trained itself
    views         None: features get CorruptFeatures() where a group has more than one view, images get crops, Groups have their own.
                  genssl.views.Identity() for copies, which genssl.fit gives to features. They tell a method that compares views nothing:
                  on wine, breast cancer and digits a linear probe read 67, 80 and 62% from SimCLR with copies, 99, 94 and 86% with
                  CorruptFeatures, and 88, 89 and 58% from a random encoder
    image_shape   (C, H, W) of the images that the rows of X hold flattened, in that order
    random_state  the seed of genssl.fit, 0 by default; a RandomState: drawn from it at each fit; None: from numpy's global one
    validation    a fraction of X that does not train, or held-out rows like X; None: every row trains
    out           run folder; where it is taken, out-2, out-3, ... None: a temporary one, gone with `run_`

    X is features [N, F] (numbers; sparse and missing values are refused), images [N, C, H, W] (uint8, or floats in [0, 1]), arrays
    [N, *event] of features, or Groups, of which `transform` gives the mean over the views that exist: [G, D] (cross_val_score and
    its like index arrays only). Standardise features: the likelihoods of the methods have fixed scales. genssl.fit would hold a fifth
    of X out for validation and test; here all rows train. As there, an epoch leaves out what does not fill its last batch, other rows
    in every epoch.

    y is ignored, but for a method that is trained on labels (a term of its objective needs them, or its `labels` is not 0) and views
    that use them: any classes, of which integers -1 are unknown.

    Fitted: run_ (genssl.Run, whose data are X), event_shape_, n_features_in_ (numbers a row), n_features_out_ (D), classes_ (what labels
    0, 1, ... stand for where labels were used, else None), feature_names_in_ for a data frame. Float32 stays float32, all else
    becomes float64; the networks compute in torch's default type.

    A pickle (joblib, n_jobs, a Pipeline's memory) holds the fitted method, on the CPU, and no X and no run folder: give `out` to keep
    that, which genssl.load reads. Lambdas as views cannot be pickled, nor a fitted class that was given as path/to/file.py:Class
    where that file was not run. Fits side by side need processes: threads share torch's generator.

    Raises the errors of genssl.fit, ValueError or TypeError for an X that scikit-learn refuses, NotFittedError.
    """

    def __init__(
        self,
        method: Any = "SimVAE",
        *,
        settings: dict[str, Any] | None = None,
        replace: dict[str, str] | None = None,
        views: Callable[..., Any] | None = None,
        num_views: int | None = None,
        image_shape: Sequence[int] | None = None,
        epochs: int | None = None,
        max_seconds: float | None = None,
        max_steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        optimizer: str | Callable[..., Any] | None = None,
        schedule: str | Callable[[int, int], float] | None = None,
        clip: float | None = None,
        precision: str | None = None,
        device: str | None = None,
        random_state: Any = 0,
        validation: Any = None,
        out: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callable[[Line], None]] = (),
        measure: bool | Sequence[int] = False,
        graph: bool = True,
        progress: bool = False,
    ) -> None:
        self.method, self.settings, self.replace = method, settings, replace
        self.views, self.num_views, self.image_shape = views, num_views, image_shape
        self.epochs, self.max_seconds, self.max_steps = epochs, max_seconds, max_steps
        self.batch_size, self.lr, self.optimizer, self.schedule, self.clip = batch_size, lr, optimizer, schedule, clip
        self.precision, self.device, self.random_state = precision, device, random_state
        self.validation, self.out, self.callbacks = validation, out, callbacks
        self.measure, self.graph, self.progress = measure, graph, progress

    # ------------------------------------------------------------------ fit and transform

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the method to all rows of X. y [N] is looked at by methods that are trained on labels alone."""
        self.__dict__.pop("run_", None)
        method = find_class(self.method) if isinstance(self.method, str) else copy.deepcopy(self.method)
        split, seed = self._split(X), self._seed()
        wanted = defaults(method, "data")["num_views"] if self.num_views is None else self.num_views
        check({"num_views": wanted, "seed": seed})
        views = self.views
        if views is None and isinstance(split, Items) and len(split.event_shape) != 3 and wanted != 1:
            views = CorruptFeatures()
        self.classes_ = None
        if y is not None or split.label is not None:
            if not self._uses_labels(method, split, views, wanted, seed):
                split.label = None
            elif y is not None:
                self.classes_, split.label = _encode(y, len(split))
        # A Data keeps the splits that it has: nothing is drawn from it for a test, as from a tensor.
        self.run_ = self._fit(method, Data("data", split), views, seed)
        first = split.pack(split.x)[:1] if isinstance(split, Groups) else split.x[:1]
        self.n_features_out_ = self.run_.represent(first).flatten(1).shape[1]
        return self

    def transform(self, X: Any) -> Any:
        """The representation: [N, D] of rows, [G, D] of Groups (the mean over the views of each)."""
        check_is_fitted(self)
        if isinstance(X, Groups):
            if X.event_shape != self.event_shape_:
                raise ShapeError(
                    f"Representation: X is {X!r}, expected views of shape {list(self.event_shape_)}, as those that were fitted"
                )
            views, single = X.pack(X.x), X.x.dtype == torch.float32
            check_values(views, self.event_shape_, "X")
            z = X.unpack(self.run_.represent(views).flatten(1).to(X.device)).sum(1) / X.count[:, None]
        else:
            x, single = self._read(X)
            z = self.run_.represent(x).flatten(1)
        return z.cpu().numpy().astype(np.float32 if single else np.float64, copy=False)

    def _fit(self, method: Any, data: Data, views: Any, seed: int) -> Run:
        given = self.get_params(deep=False)
        for own in ("method", "settings", "views", "image_shape", "random_state", "validation", "out"):
            del given[own]
        held: Any = self.validation
        if held is not None and not isinstance(held, Groups):
            held = float(held) if isinstance(held, numbers.Real) else self._read(held)[0]
        folder = temporary_folder() if self.out is None else free_folder(Path(self.out).expanduser())
        with folder as place:
            run = fit(
                method,
                data,
                settings=self._plain_settings(),
                views=views,
                seed=seed,
                validation=held,
                out=place,
                **given,
            )
        if self.out is None:
            weakref.finalize(run, remove_own, place, os.getpid())
        return run

    # ------------------------------------------------------------------ X and y

    def _split(self, X: Any) -> Items | Groups:
        """X as what genssl.fit trains on; notes its shape."""
        if not isinstance(X, Groups):
            x, _ = self._read(X, reset=True)
            self.event_shape_ = tuple(x.shape[1:])
            return Items(x)
        if not isinstance(X.x, Tensor):
            raise ShapeError(
                "Representation: X is Groups of several modalities, expected one; use genssl.fit and run.method.encode(x, view=j)"
            )
        self.event_shape_, self.n_features_in_ = X.event_shape, math.prod(X.event_shape)
        self.__dict__.pop("feature_names_in_", None)
        return X[:]

    def _read(self, X: Any, reset: bool = False) -> tuple[Tensor, bool]:
        """([N, *event] checked, whether X is float32). reset: note the number and names of features, else hold X against them."""
        X = X.detach().cpu().numpy() if isinstance(X, Tensor) else X
        shape = X.shape if hasattr(X, "shape") else np.asarray(X).shape
        seen = tuple(shape[1:]) if len(shape) > 2 else None
        event = self._event(seen, reset)
        image = event is not None and len(event) == 3
        rows = X if seen is None else np.asarray(X).reshape(shape[0], math.prod(seen))
        # Integers are numbers here, and ids to genssl; pixels stay bytes, which it reads as v / 255.
        dtype = (np.float64, np.float32) if seen is None and not image else "numeric"
        rows = validate_data(self, rows, reset=reset, dtype=dtype)
        event = rows.shape[1:] if event is None else event
        if rows.shape[1] != math.prod(event):
            raise ShapeError(
                f"Representation: X has {rows.shape[1]} features, expected {math.prod(event)} for image_shape = {event}"
            )
        x = as_tensor(rows.reshape(len(rows), *event), "X")
        given, x = x, x if image else x.to(torch.get_default_dtype())
        check_values(given if given.dtype == torch.uint8 else x, event, "X")  # what overflows is seen after the cast
        return x, rows.dtype == np.float32

    def _event(self, seen: tuple[int, ...] | None, reset: bool) -> tuple[int, ...] | None:
        """The shape of a row: what was fitted, else image_shape, else what X shows; None for features [N, F]."""
        known = None if self.image_shape is None else tuple(self.image_shape)
        if known is not None and (len(known) != 3 or not all(is_whole(size) and size > 0 for size in known)):
            raise SettingsError(f"Representation: image_shape = {self.image_shape!r}, expected (C, H, W)")
        grey = known is not None and known[0] == 1
        known = known if reset else self.event_shape_
        if seen is None or known is None:
            return known if seen is None else seen
        if seen != known and not (grey and seen == known[1:]):
            raise ShapeError(f"Representation: X has rows of shape {list(seen)}, expected {list(known)}, or flat ones")
        return known

    def _uses_labels(self, method: Any, split: Items | Groups, views: Any, num_views: int, seed: int) -> bool:
        """Whether method or views look at labels. A class is asked by building it, with labels that stand in for y."""
        if getattr(views, "uses_label", False):
            return True
        if not isinstance(method, nn.Module):
            example, settings = Data("data", split).example(num_views), self._plain_settings()
            example.label = torch.arange(2)
            method = build(method, example, seed, settings)
            apply_slots(method, self.replace or {}, seed, split.event_shape, settings)
        shown = getattr(method, "labels", 0)
        partly = shown is None or (isinstance(shown, int) and shown != 0)
        return partly or "labels" in getattr(getattr(method, "objective", None), "needs", ())

    def _plain_settings(self) -> dict[str, Any]:
        """The settings of the method, with numbers of Python for those of numpy, which grids are made of."""
        given = dict(self.settings or {})
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    # ------------------------------------------------------------------ scikit-learn's contract

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments; deep: also the settings of the method, each as settings__NAME."""
        params = super().get_params(deep)
        if deep and isinstance(self.settings, Mapping):
            params |= {f"settings__{name}": value for name, value in self.settings.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set arguments; settings__NAME sets one setting of the method beside the others."""
        inner = {name: params.pop(name) for name in list(params) if name.startswith("settings__")}
        super().set_params(**params)
        if inner:
            changed = {name.removeprefix("settings__"): value for name, value in inner.items()}
            self.settings = {**(self.settings or {}), **changed}  # a new one: clones share the old
        return self

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "run_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if (run := state.get("run_")) is not None:
            method = run.method if run.device.type == "cpu" else copy.deepcopy(run.method).cpu()
            state["run_"] = Run(run.path, run.config, method)
        return state


def _encode(y: Any, size: int) -> tuple[np.ndarray, Tensor]:
    """(the classes in order, their numbers [N] int64); integers -1 stay -1, unknown."""
    y = column_or_1d(y, warn=True)
    if len(y) != size:
        raise ShapeError(f"Representation: y has {len(y)} labels, expected {size}, one for each row of X")
    check_classification_targets(y)
    known = y != -1 if y.dtype.kind in "if" else np.ones(len(y), dtype=bool)
    classes, number = np.unique(y[known], return_inverse=True)
    label = np.full(len(y), -1)
    label[known] = number
    return classes, torch.from_numpy(label)
