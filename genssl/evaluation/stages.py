"""The stages of an evaluation: what each measures of a run, by its key in evaluation.json."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from genssl.evaluation.bound import held_out_bound
from genssl.evaluation.cache import Cache
from genssl.evaluation.clustering import clustering_scores
from genssl.evaluation.decoding import decodes, reconstruction_mse
from genssl.evaluation.generation import generation_figures
from genssl.evaluation.identity import identity_figures
from genssl.evaluation.kept_decoder import Decoder, decoder_of
from genssl.evaluation.knn import knn
from genssl.evaluation.known_style import item_style, view_style
from genssl.evaluation.low_label import low_label_probe
from genssl.evaluation.probes import linear_probe, mlp_probe
from genssl.evaluation.run_geometry import geometry_figures
from genssl.evaluation.subject import Subject
from genssl.fit.precision import networks_in

Found = Any  # the figures of a stage, a dict or a number; or a str: why there are none


class Examined:
    """A run under evaluation: its representation, that of fresh weights, that after the head, and an ad-hoc decoder, each made once."""

    def __init__(self, run: Any, cache: Cache) -> None:
        self.run, self.cache = run, cache
        self.subject = Subject(run)
        self.found: dict[str, Found] = {}  # by the stages before

    @cached_property
    def random(self) -> Subject:
        fresh = copy.copy(self.run)
        fresh.method = self.run.random_encoder()
        return Subject(fresh, "random encoder")

    @property
    def head(self) -> bool:
        """Whether there is something behind the representation."""
        head = getattr(self.run.method, "head", None)
        return isinstance(head, nn.Module) and not isinstance(head, nn.Identity) and hasattr(self.run.method, "project")

    @cached_property
    def after_head(self) -> Subject:
        return Subject(self.run, "run, after the head", self._project)

    def _project(self, x: Tensor) -> Tensor:
        with networks_in(self.run.config.get("precision", "32"), self.run.method, self.run.device):
            return self.run.method.project(x.to(self.run.device))

    @cached_property
    def adhoc(self) -> Decoder:
        return decoder_of(self.run, self.cache)


def content(subject: Subject) -> Found:
    """How well the labels are read off z."""
    if subject.no_labels:
        return subject.no_labels
    probes: Mapping[str, Callable[..., Any]] = {
        "knn": knn,
        "linear": linear_probe,
        "mlp": partial(mlp_probe, seed=subject.seed),
    }
    return {name: probe(*subject.parts) for name, probe in probes.items()}


def after_head(examined: Examined) -> Found:
    """Content and geometry where the terms compare."""
    if not examined.head:
        return "the method has no head: its terms compare the representation itself"
    read = content(examined.after_head)
    shape = geometry_figures(examined.after_head)
    return {"content": None if isinstance(read, str) else read, "geometry": None if isinstance(shape, str) else shape}


def clustering(examined: Examined) -> Found:
    """A Gaussian mixture that sees no labels, against them."""
    subject = examined.subject
    scores: Callable[..., Any] = clustering_scores
    return subject.no_labels or scores(*subject.parts, seed=subject.seed)


def low_label(examined: Examined) -> Found:
    """A probe with a handful of labels a class."""
    subject = examined.subject
    probe: Callable[..., Any] = low_label_probe
    return subject.no_labels or probe(*subject.parts, seed=subject.seed)


def mse(examined: Examined) -> Found:
    """The squared error of the method's own decoder."""
    found = reconstruction_mse(examined.run.method, examined.subject.splits["test"])
    return "no trained decoder that maps z to one kind of item, or no test items" if found is None else found


def adhoc(examined: Examined) -> Found:
    """What a decoder reaches that is fitted to the frozen representation."""
    if decodes(examined.run.method):
        return "the method has a decoder of its own"
    return examined.adhoc[1].get("reason") or examined.adhoc[1]


def frechet(examined: Examined) -> Found:
    """Distances between the laws of generated and of real items."""
    if decodes(examined.run.method):
        return generation_figures(examined.run)
    decoder, figures = examined.adhoc
    return figures["reason"] if decoder is None else generation_figures(examined.run, decode=decoder)


def certainty() -> Any:
    """genssl.posterior.certainty: the floor above, which rests on this one."""
    from genssl.posterior import certainty

    return certainty


def random_content(examined: Examined) -> Found:
    """Content of fresh weights, which are not made where there is nothing to read."""
    return examined.subject.no_labels or content(examined.random)


def random_style(examined: Examined, of: str, measure: Callable[[Any], Found]) -> Found:
    """Style of fresh weights; where the run has none, neither have they, and one note is enough."""
    known = examined.found.get(f"style.{of}")
    return "" if isinstance(known, str) and known != "not measured" else measure(examined.random.run)


STAGES: dict[str, Callable[[Examined], Found]] = {
    "content": lambda examined: content(examined.subject),
    "style.items": lambda examined: item_style(examined.run),
    "style.views": lambda examined: view_style(examined.run),
    "random_encoder.content": random_content,
    "random_encoder.style.items": lambda examined: random_style(examined, "items", item_style),
    "random_encoder.style.views": lambda examined: random_style(examined, "views", view_style),
    "after_head": after_head,
    "low_label": low_label,
    "clustering": clustering,
    "geometry": lambda examined: geometry_figures(examined.subject),
    "identity": lambda examined: identity_figures(examined.run),
    "generation.mse": mse,
    "generation.adhoc": adhoc,
    "generation.bound": lambda examined: held_out_bound(examined.run),
    "generation.frechet": frechet,
    "certainty.risk": lambda examined: certainty().risk_figures(examined.run),
    "certainty.coverage": lambda examined: certainty().coverage_figures(examined.run),
    "certainty.weights": lambda examined: certainty().weight_figures(examined.run),
    "certainty.calibration": lambda examined: certainty().calibration_figures(examined.run),
}
"""In the order in which they run; a dot stands for a nested key."""
