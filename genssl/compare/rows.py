"""From a run folder to a row: one flat dict of what was set, how it went and what it is worth; what is missing is blank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from genssl.compare.checks import words_of
from genssl.evaluation.reading import AXES, SETS, problems, read_evaluation
from genssl.fit import checkpoint, metrics
from genssl.fit.folder import read_config
from genssl.fit.randomness import generators_kept
from genssl.fit.slots import parse_term
from genssl.kinds import is_number
from genssl.terms import SLOTS

Row = dict[str, Any]

LAST_LINES = 10
"""Lines of metrics.jsonl that the terms at the end are a mean of."""
TERMS = (*SLOTS, "elbo", "objective")
RENAMED = {"num_views": "views", "batch_size": "batch"}
SET_BY_NAME = (
    "num_views", "batch_size", "epochs", "max_seconds", "lr", "optimizer", "schedule", "clip", "precision", "limit", "validation",
)  # fmt: skip


def row_of(folder: Path, name: str | None = None) -> Row:
    """What the folder of a run tells, finished or not:

        run, method, data, seed, reconstruction, entropy, prior, views, batch, epochs, ..., set.NAME     what was set; of an instance
                                     its attributes
        code, transform, data_path, data_digest      the user's file; the views; the data where they are in files or in memory
        untold                       what tells runs apart, but was not kept
        steps, step, finished        steps of the run, steps taken, whether they are all
        seconds                      of its steps alone, without measuring and saving
        terms.NAME                   slots, elbo and objective in nats a group, the mean over the last lines of metrics.jsonl
        measures.NAME                the last line of measures.jsonl, nested names joined by dots
        content.PROBE, random.PROBE  accuracy on test, and that of the encoder before learning
        style.items.z.HOW[.FACTOR]   R2 on test of the style of items, HOW linear or kernel: the mean over factors, and each (accuracy
                                     for a categorical one, which is not in the mean); style.views.SOURCE... that of views, SOURCE z,
                                     content or residual
        axes.items.NAME              of z and the style of items: disentanglement, completeness, informativeness, mig;
        axes.items.random.NAME       those of the encoder before learning; axes.views... of views
        mse                          of reconstructed test items, a pixel
        adhoc.NAME                   mse and the like of a decoder that was fitted to frozen z, for methods that have none
        frechet.SET, kernel.SET,     of test items and reconstructions, samples (of each class), unconditional (samples), reference
        precision.SET, recall.SET    (training items): distances, and shares that lie where the others do
        foretold, note               what theory said before the fit; what else to know, such as a damaged file

    Raises CheckpointError where it is not the folder of a run.
    """
    config = read_config(folder)
    saved = checkpoint.steps(folder / "checkpoint")
    step = checkpoint.step_of(saved[-1]) if saved else 0
    lines = metrics.read(folder / "metrics.jsonl")
    row: Row = {
        "run": name or folder.name,
        **settings_of(config),
        "steps": config["steps"],
        "step": step,
        "finished": bool(saved) and step >= config["steps"],
        "seconds": _seconds(lines, config),
    }
    tail = lines[-LAST_LINES:]
    row |= {f"terms.{key}": _mean(line.get(key) for line in tail) for key in TERMS}
    measured = metrics.read(folder / "measures.jsonl")
    if measured:
        row |= {f"measures.{key}": value for key, value in flat(measured[-1]) if key != "step"}
    row |= _worth(read_evaluation(folder)[0])
    notes = problems(folder)
    if row["finished"] and not (folder / "evaluation.json").exists():
        notes = [*notes, "not evaluated: `genssl evaluate RUN` measures it"]
    return row | {"foretold": list(config.get("foretold") or ()), "note": ". ".join(notes)}


def settings_of(config: Mapping[str, Any]) -> Row:
    """What was set, under the names of a row."""
    described = config["data_description"] or {}
    data = config["data"] or described.get("name") or "data"
    stored = not config["data"] or "/" in config["data"]  # not the library's, which a name tells
    made, attributes = config.get("built") is False, config.get("attributes")
    attributes = attributes if made and isinstance(attributes, Mapping) else {}
    replaced, slots = config["replaced"] or {}, config.get("slots") or {}
    row: Row = {
        "method": config["method"],
        "data": Path(data).name if "/" in data else data,  # no folder of the machine
        "seed": config["seed"],
    }
    for slot in SLOTS:
        row[slot] = _words(str(slots.get(slot) or "?"), replaced.get(slot))
    row |= {RENAMED.get(key, key): config.get(key) for key in SET_BY_NAME}
    row |= {
        "code": _code(config),
        "transform": config.get("views"),
        "data_path": _mark(str(Path(data).parent)) if "/" in data else None,
        "data_digest": described.get("digest") or None,
        "untold": [
            *(["the attributes of the instance"] if made and not attributes else []),
            *(["a digest of the data"] if stored and described and not described.get("digest") else []),
        ],
    }
    return row | {f"set.{key}": value for key, value in {**(config["settings"] or {}), **attributes}.items()}


def left_out_row(name: str, arguments: Mapping[str, Any], own: Mapping[str, str], reason: str) -> Row:
    """The row of a cell that could not be fitted: what was asked for (own: the words of a slot's own term), and why not."""
    row = settings_of({"seed": 0, "data_description": {}, "replaced": {}, **arguments, "slots": {}})
    row["method"] = row["method"].rpartition(":")[2]
    with generators_kept():
        for slot in SLOTS:
            text = arguments["replace"].get(slot)
            row[slot] = own[slot] if text is None else _words(str(parse_term(text)), text)
    return {"run": name, **row, "steps": None, "step": 0, "finished": False, "foretold": [], "note": reason}


def _code(config: Mapping[str, Any]) -> str | None:
    """The user's file and the start of its SHA-256; of a class without a file what is known of it."""
    told = [Path(config.get("file") or "").name, str(config.get("sha256") or "")[:12]]
    return " ".join(filter(None, told)) or None


def _mark(text: str) -> str:
    """What tells texts apart that a row must not hold, such as a folder of this machine."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]


def _words(told: str, text: str | None) -> str:
    """A term in words, with what these do not tell (a site) in brackets."""
    first, *rest = words_of(told, text)
    return f"{first} [{', '.join(rest)}]" if rest else first


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of nested dicts, names joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _seconds(lines: list[dict[str, Any]], config: Mapping[str, Any]) -> float | None:
    """From the speed that each line tells of the steps since the line before."""
    seconds, before = 0.0, 0
    for line in lines:
        speed = line.get("views_per_second")
        if not is_number(speed) or speed <= 0:
            return None
        seconds += (line["step"] - before) * config["batch_size"] * config["num_views"] / speed
        before = line["step"]
    return seconds if lines else None


def _worth(evaluation: Mapping[str, Any]) -> Row:
    """Content, style and reconstruction of an evaluation."""
    row: Row = {}
    for name, part in (("content", evaluation), ("random", evaluation.get("random_encoder") or {})):
        for probe, values in (part.get("content") or {}).items():
            row[f"{name}.{probe}"] = values.get("test")
    for whose, found in (evaluation.get("style") or {}).items():
        for source in ("z", "content", "residual"):
            factors = (found or {}).get(source)
            if factors:
                row |= {f"style.{whose}.{source}.{key}": value for key, value in _style(factors)}
    for before, part in (("", evaluation), ("random.", evaluation.get("random_encoder") or {})):
        for whose, found in (part.get("style") or {}).items():
            axes = (found or {}).get("axes") or {}
            row |= {f"axes.{whose}.{before}{key}": axes[key] for key in AXES if key in axes}
    generation = evaluation.get("generation") or {}
    row["mse"] = generation.get("mse")
    adhoc, sets = generation.get("adhoc") or {}, generation.get("frechet") or {}
    row |= {f"adhoc.{key}": value for key, value in adhoc.items() if isinstance(value, (int, float))}
    for name, part in (("frechet", sets), *((key, sets.get(key) or {}) for key in ("kernel", "precision", "recall"))):
        row |= {f"{name}.{key}": part[key] for key in SETS if key in part}
    return row


def _style(factors: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for how in ("linear", "kernel"):
        known = {factor: values[how].get("test") for factor, values in factors.items() if values.get(how)}
        yield how, _mean(value for factor, value in known.items() if factors[factor].get("kind") != "categorical")
        yield from ((f"{how}.{factor}", value) for factor, value in known.items())


def _mean(values: Iterable[Any]) -> float | None:
    known = [value for value in values if isinstance(value, (int, float))]
    return fmean(known) if known else None
