"""`evaluate(run)`: what a fitted run is worth, stage by stage, written to evaluation.json."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from typing import Any

from tqdm import tqdm

from genssl.errors import NonFiniteError, SettingsError
from genssl.evaluation.cache import Cache
from genssl.evaluation.decoding import not_finite
from genssl.evaluation.items import count
from genssl.evaluation.known_style import KERNEL_POINTS, LIMITS
from genssl.evaluation.measuring import measuring
from genssl.evaluation.stages import STAGES, Examined
from genssl.files import check_writable, write_json

CORE = ("content", "random_encoder", "style", "generation.mse", "generation.adhoc")
"""What tables of many runs hold side by side: the quick parts."""


def evaluate(run: Any, parts: Collection[str] | None = None, progress: bool = True) -> dict[str, Any]:
    """Measure run on its clean items and on fresh views, leave it as it was, write (whole or not at all) and return evaluation.json.

        content         {knn, linear, mlp}: {validation, test, test_best, ...}, fractions in [0, 1]: how well the labels are read off the
                        posterior means. What is chosen (k, penalty, learning rate, epoch) is chosen on validation; test_best is
                        the same choice made on test, as the paper reports it, and optimistic. ece: calibration of the probe
        style           {items, views}: how well known factors of style are predicted, R2 or, for categories, accuracy (`item_style`,
                        `view_style`); axes: whether single coordinates of z stand for them, DCI and MIG (`axes_of`)
        random_encoder  both of the method with fresh weights: what the architecture gives before any learning
        after_head      content and geometry where the terms compare, for a method with a head
        low_label       the linear probe from 1, 5 and 10 labels a class (`low_label_probe`)
        clustering      accuracy, nmi, ari of a Gaussian mixture that sees no labels (`clustering_scores`)
        geometry        ranks, spectrum, alignment and uniformity, variance within and between groups (`geometry_figures`)
        identity        retrieval of an item from a fresh view of it, and what else tells items apart (`identity_figures`)
        generation      mse: of decode(mean of q(z|x)) per pixel on clean test images in [0, 1]; adhoc: of a decoder that is fitted to
                        frozen representations, for a method without one (`adhoc_decoder`); bound: held-out ELBO and importance-weighted
                        bound under a proper p(y) (`held_out_bound`); frechet: distances, precision and recall in named
                        features (`generation_figures`)
        certainty       {risk, coverage, weights, calibration}: whether the unsure are wrong, predictive intervals hold, importance
                        weights can be trusted, posteriors are right of the model's own data (`genssl.posterior.certainty`)
        protocol        sizes, seed and rules
        notes           why a part is null: no labels, no decoder, ...

    parts: names of these, or NAME.PART, e.g. ("content", "generation.mse"); None: all. A part that is not asked for is null, unless
    it was measured before. Each stage is kept in RUN/evaluation/ and measured once for the same weights, data, settings and code
    (`Cache`); after Ctrl-C the next call goes on there. Each view of natural groups counts as an item. Everything is seeded by the
    run: a second measurement gives the same figures.

    Raises NonFiniteError where weights or representations are not finite; SettingsError for an unknown part; DiskError where the
    run's folder cannot be written, before anything is measured.
    """
    wanted = _wanted(parts)
    if name := not_finite(run.method):
        raise NonFiniteError(
            f"evaluate: the fitted {name} is not finite; the run has diverged, fit again with a lower lr"
        )
    check_writable(run.path)
    cache = Cache(run)
    examined = Examined(run, cache)
    bar = tqdm(
        total=len(wanted),
        desc="evaluate",
        file=sys.stderr,
        leave=False,
        unit="stage",
        disable=None if progress else True,
    )
    lines = progress and not sys.stderr.isatty()  # where no bar is drawn
    with measuring(run.method), bar as shown:
        for stage, measure in STAGES.items():
            kept = cache.read(stage)
            if stage in wanted:
                shown.set_postfix_str(stage)
                if kept is None:
                    if lines:
                        print(f"evaluate {wanted.index(stage) + 1}/{len(wanted)}: {stage}", file=sys.stderr, flush=True)
                    began = time.perf_counter()
                    found = measure(examined)
                    kept = cache.write(stage, found, time.perf_counter() - began)
                shown.update()
            examined.found[stage] = "not measured" if kept is None else kept
    figures: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for stage, found in examined.found.items():
        _put(figures, stage, None if isinstance(found, str) else found)
        if isinstance(found, str) and found:
            notes[stage] = found
    figures |= {"protocol": _protocol(examined), "notes": notes}
    write_json(run.path / "evaluation.json", figures)
    return figures


def _wanted(parts: Collection[str] | None) -> list[str]:
    """The stages of the parts that were asked for."""
    names = list(STAGES)
    if parts is None:
        return names
    parts = [parts] if isinstance(parts, str) else list(parts)
    for part in parts:
        if not any(_within(name, part) for name in names):
            known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise SettingsError(
                f"evaluate: no part {part!r}; there are {known}, and {', '.join(n for n in names if '.' in n)}"
            )
    return [name for name in names if any(_within(name, part) for part in parts)]


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _put(figures: dict[str, Any], stage: str, value: Any) -> None:
    *path, last = stage.split(".")
    for key in path:
        figures = figures.setdefault(key, {})
    figures[last] = value


def _protocol(examined: Examined) -> dict[str, Any]:
    return {
        "sizes": {name: count(split) for name, split in examined.subject.splits.items()},
        "seed": examined.subject.seed,
        "representation": "posterior mean of the clean item, eval mode",
        "selection": "k, penalty, learning rate and epoch on validation; test_best: on test, optimistic",
        "style": f"at most {LIMITS['train']} training and {LIMITS['test']} other items or views, {KERNEL_POINTS} of "
        "training for the kernel; penalty and gamma on validation",
    }
