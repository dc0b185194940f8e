"""A grid over the three slots on sprites: what each term does to content and style. results/swap/CELL.json, results/swap.md.

    python benchmarks/swap.py              # fits what is not done yet (72 cells of about 45 s), goes on where it was stopped
    python benchmarks/swap.py --table      # results/swap.md and the verdicts, from the committed cells, in a second
    python benchmarks/swap.py --only TEXT  # the cells whose name has TEXT

SimVAE's networks on 8000 rendered sprites (32x32 grey; shape is content; position, scale, orientation, brightness: known style), J = 2,
z of 10 dimensions, a proper p(y) (content_scale 1), so that no prior term makes the aggregate entropies diverge by itself. All cells of a
seed see the same batches and start from the same encoder. Steps are the same for all: nothing here says which is faster. Statistics and
margins of the verdicts stand in `CLAIMS`, written before the cells were run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import genssl
from genssl.compare.comparison import of_runs
from genssl.compare.grid import cells_of, read_spec
from genssl.compare.rows import row_of
from genssl.compare.table import spread_of
from genssl.compare.writers import markdown
from genssl.errors import NonFiniteError
from genssl.evaluation import CORE
from genssl.files import write_bytes, write_json
from genssl.fit.build import build, find_class
from genssl.fit.folder import read_config
from genssl.fit.slots import apply_slots
from genssl.foretell import foretell
from genssl.groups import Groups

RESULTS = Path(__file__).parent.parent / "results"
LIKELIHOOD, CONTRAST = "LogLikelihood", "ContrastiveNormaliser:temperature=0.5"
JOINT, MI = "LogDeterminantEntropy:mi_weight=0", "LogDeterminantEntropy:mi_weight=1"
SPEC = {
    "base": {
        "method": "SimVAE", "data": "sprites:num=10000", "num_views": 2, "batch_size": 128, "lr": 1e-3, "epochs": 15,
        "set": {"dim": 10, "content_scale": 1.0, "hidden": [512, 512]},
    },
    "grid": {
        "reconstruction": [LIKELIHOOD, CONTRAST, JOINT, MI],
        "entropy": ["PosteriorEntropy", "Constant"],
        "prior": ["LogPrior", "CosineAttraction:temperature=0.5", "SquaredAttraction:weight=25.0"],
        "seed": [0, 1, 2],
    },
}  # fmt: skip

Pick = Callable[[dict[str, Any]], bool]


class Claim(NamedTuple):
    """`name` of the cells `one` less that of the cells `other`, paired by seed (means over the cells of a seed), is above `margin`."""

    text: str
    name: str
    one: Pick
    other: Pick
    margin: float


def of(reconstruction: str, entropy: str = "", prior: str = "") -> Pick:
    return lambda row: (
        row["reconstruction"].startswith(reconstruction)
        and row["entropy"].startswith(entropy)
        and row["prior"].startswith(prior)
    )


def within(mi_weight: str) -> Pick:
    return lambda row: f"mi_weight={mi_weight}" in row["reconstruction"] and of("Log", "Constant", "LogPrior")(row)


CLAIMS = (
    Claim(
        "the likelihood keeps style where the contrastive normaliser loses it: R2 of views' style from z, by .1 at least",
        "style.views.z.linear", of("LogLikelihood"), of("Contrastive"), 0.1,
    ),
    Claim(
        "... and from the residual, z - its mean over the views",
        "style.views.residual.linear", of("LogLikelihood"), of("Contrastive"), 0.1,
    ),
    Claim(
        "a constant entropy with the likelihood is an autoencoder with a pinch: it reconstructs better than with the posterior's",
        "minus mse", of("LogLikelihood", "Constant", "LogPrior"), of("LogLikelihood", "Posterior", "LogPrior"), 0.0,
    ),
    Claim(
        "on these sprites, whose views share the class alone, the joint log-determinant keeps more variance within groups than "
        "the +MI form, by .05 at least (constant entropy, log p(z))",
        "measures.geometry.variance_within", within("0"), within("1"), 0.05,
    ),
)  # fmt: skip


def verdict(claim: Claim, rows: list[dict[str, Any]]) -> str:
    """supported: the 95 % t-interval of the paired differences lies above the margin; refuted: below it; undecided: it holds it."""
    values: list[dict[int, list[float]]] = [{}, {}]
    for row in rows:
        value = -row["mse"] if claim.name == "minus mse" and row.get("mse") is not None else row.get(claim.name)
        for side, pick in zip(values, (claim.one, claim.other), strict=True):
            if value is not None and pick(row):
                side.setdefault(row["seed"], []).append(value)
    seeds = values[0].keys() & values[1].keys()
    if len(seeds) < 2:
        return f"not measured yet ({len(seeds)} seeds)"
    means = [{seed: sum(side[seed]) / len(side[seed]) for seed in seeds} for side in values]
    found = spread_of([means[0][seed] - means[1][seed] for seed in sorted(seeds)])
    low, high = found.mean - (found.half or 0), found.mean + (found.half or 0)
    word = "supported" if low > claim.margin else "refuted" if high < claim.margin else "undecided"
    return f"{word}: difference {found.mean:.4g}, 95 % interval {low:.4g} to {high:.4g}, margin {claim.margin:g}, {found.n} seeds"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# The slots, swapped",
        "",
        (__doc__ or "").strip().split("\n\n")[-1].replace("\n", " "),
        "",
        "## Verdicts",
        "",
    ]
    lines += [f"- {claim.text}: **{verdict(claim, rows)}**" for claim in CLAIMS]
    lines += [
        "",
        "The first, with entropy and prior the same on both sides. Only where its kNN is high has the contrastive side learned:",
        "",
    ]
    lines += matched(rows)
    diverged = [f"- {row['run']}: {row['diverged']}" for row in rows if "diverged" in row]
    if diverged:
        lines += ["", "Diverged, so that nothing is measured of them and no mean above has them:", "", *diverged]
    lines += ["", "## Foretold and measured", "", *foretold(rows)]
    machines = sorted({row["machine"] for row in rows})
    rows = [{key: value for key, value in row.items() if not ("diverged" in row and _measured(key))} for row in rows]
    return "\n".join([*lines, "", "## Cells", "", markdown(rows), "", f"Hardware: {', '.join(machines)}; float32.", ""])


def _measured(key: str) -> bool:
    """A figure from before the divergence, which says nothing of a fit."""
    return key.split(".")[0] in ("terms", "measures", "content", "style", "mse", "adhoc")


def matched(rows: list[dict[str, Any]]) -> list[str]:
    """The first claim cell by cell, since a pooled figure can be that of collapsed encoders."""
    claim, lines = CLAIMS[0], []
    for entropy, prior in [(e, p.split(":")[0]) for e in SPEC["grid"]["entropy"] for p in SPEC["grid"]["prior"]]:
        pair = [of(part, entropy, prior) for part in ("LogLikelihood", "Contrastive")]
        if any("diverged" in row for row in rows if pair[0](row) or pair[1](row)):
            continue
        accuracy = spread_of([100 * row["content.knn"] for row in rows if pair[1](row)]).mean
        found = verdict(claim._replace(one=pair[0], other=pair[1]), rows)
        lines.append(f"- {entropy}, {prior} (kNN of the contrastive cells {accuracy:.0f} %): {found}")
    return lines


def foretold(rows: list[dict[str, Any]]) -> list[str]:
    """What `genssl.foretell` says of every combination today, beside what became of its cells."""
    lines = [
        "The rules of `genssl.foretell` that name a repulsion blind to scale were written after these cells, which showed that they were",
        "lacking. The log-determinants under the posterior entropy and log p(z) have lost x here (I[x; z] 0), as their optimum need not:",
        "nothing is foretold of them. I[z; z'] and I[x; z] are bounds from 256 held-out groups, in nats; kNN in %. Means over seeds.",
        "",
        "| reconstruction | entropy | prior | foretold | I[z; z'] | I[x; z] | kNN |",
        "|---|---|---|---|---|---|---|",
    ]
    first = [cell for cell in cells_of(read_spec(SPEC)) if cell.name.endswith("seed0")]
    for cell in first:
        same = [row for row in rows if row["run"].startswith(cell.name.removesuffix("seed0"))]
        if not same:
            continue
        told = "; ".join(sentence.split(",")[0] for sentence in foretell(*built(cell.arguments))) or "nothing"
        told = told.replace("|", "\\|")
        known = [row for row in same if "diverged" not in row]
        names = ("measures.information.views", "measures.information.input", "content.knn")
        found = [[row[name] for row in known if row.get(name) is not None] for name in names]
        means = [spread_of(values).mean if values else None for values in found]
        shown = ["" if mean is None else f"{mean:.2f}" for mean in means[:2]]
        shown.append("diverged" if not known else f"{100 * (means[2] or 0):.0f}")
        slots = [same[0][slot].split("(")[0] for slot in ("reconstruction", "entropy", "prior")]
        if "mi_weight=" in (full := same[0]["reconstruction"]):
            slots[0] += f", mi_weight {full.partition('mi_weight=')[2][0]}"
        lines.append(f"| {' | '.join([*slots, told, *shown])} |")
    return lines


def built(arguments: dict[str, Any]) -> tuple[Any, Groups]:
    """The method of a cell before its first step, and a batch of noise of its shape."""
    example = Groups(torch.rand(64, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    method = build(find_class(arguments["method"]), example, 0, arguments["settings"])
    apply_slots(method, arguments["replace"], 0, example.event_shape, arguments["settings"])
    return method, example


def committed() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((RESULTS / "swap").glob("*.json"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument(
        "--work", default=os.path.join(tempfile.gettempdir(), "genssl_swap"), help="where runs are kept"
    )
    args = parser.parse_args()
    if args.table:
        text = table(committed())
        write_bytes(RESULTS / "swap.md", text.encode())
        print(text.split("## Cells")[0])
        return
    cells = [cell for cell in cells_of(read_spec(SPEC)) if args.only in cell.name]
    for number, cell in enumerate(cells):
        out = RESULTS / "swap" / f"{cell.name}.json"
        if out.exists():
            continue
        folder = Path(args.work) / cell.name
        try:
            run = genssl.fit(**cell.arguments, out=folder, resume=True, progress=False)
            run.evaluate(CORE)
            found = {}
        except NonFiniteError as error:  # theory says of some cells that they diverge: when they did is their result
            found = {"diverged": str(error).split(";")[0]}
        config = read_config(folder)
        row = row_of(folder) | {"machine": config["machine"], "versions": config["versions"], **found}
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, row)
        print(f"{number + 1}/{len(cells)} {cell.name} {found or row.get('content.knn')}", flush=True)
    finished = [Path(args.work) / cell.name for cell in cells if (Path(args.work) / cell.name / "checkpoint").exists()]
    if finished:
        print(of_runs(finished).write(Path(args.work) / "page"))


if __name__ == "__main__":
    main()
