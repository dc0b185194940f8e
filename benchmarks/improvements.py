"""What our own changes give SimVAE on FashionMNIST: content and style, three seeds. results/improvements/ and results/improvements.md.

    python benchmarks/improvements.py                 # the cells that are not done yet; start it again where it was stopped
    python benchmarks/improvements.py --only plain    # those whose name has the text; several processes may run side by side
    python benchmarks/improvements.py --table         # results/improvements.md

Every cell sees as many views as the plain one: 4400 steps of 128 groups of J = 4, the `cpu` budget of benchmarks/paper.py, with its probes
and its style (crop and flip of views, read from z). A change is kept where it wins on validation. Content is the MLP probe's accuracy,
style the mean R2 of the crop's four numbers. Seconds of a fit are of one thread beside other work: compare steps instead.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import paper
from cells import RESULTS, hardware
from genssl.models import SimVAE
from genssl.models.aavae import AAVAE
from torch import Tensor, nn

from genssl.compare.table import spread_of
from genssl.files import write_bytes
from genssl.groups import Groups

OUT = RESULTS / "improvements"
WIDTH = 512


class CleanSimVAE(SimVAE):
    """SimVAE's prior with AAVAE's reconstruction: every z_j explains the item that its view was made from."""

    def target(self, groups: Groups) -> Tensor:
        return AAVAE.target(self, groups)  # type: ignore[arg-type]


class Residual(nn.Module):
    """x + W_2 gelu(W_1 norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResidualSimVAE(SimVAE):
    """Residual blocks on both sides, about as many products a view as the paper's MLPs: 2.9 against 3.3 million."""

    @classmethod
    def build(cls, example: Groups, **settings: Any) -> Any:
        method, shape = super().build(example, **settings), example.event_shape
        size, outputs = math.prod(shape), 2 * method.dim
        encoder, decoder = ([Residual(WIDTH), Residual(WIDTH), nn.LayerNorm(WIDTH)] for _ in range(2))
        method.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, WIDTH), *encoder, nn.Linear(WIDTH, outputs))
        method.decoder = nn.Sequential(
            nn.Linear(method.dim, WIDTH), *decoder, nn.Linear(WIDTH, size), nn.Sigmoid(), nn.Unflatten(-1, shape)
        )
        return method


CLASSES = {"CleanSimVAE": CleanSimVAE, "ResidualSimVAE": ResidualSimVAE}
ANALYTIC = {"replace": {"prior": "LogPrior:analytic=True"}}
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "float32 networks": {"precision": "32"},
    "clean images": {"method": "CleanSimVAE"},
    "learned scale": {"settings": {"learned_scale": True}},
    "analytic prior": ANALYTIC,
    "product guide": {"settings": {"group_guide": "product"}},
    "set guide": {"settings": {"group_guide": "set"}},
    "learned scale a pixel": {"settings": {"learned_scale": "pixel"}},
    "32 groups a step": {"batch": 32, "steps": 17600},
    "512 groups a step": {"batch": 512, "steps": 1100, "lr": 2e-3},
    "residual networks": {"method": "ResidualSimVAE"},
    "residual networks, learned scale": {"method": "ResidualSimVAE", "settings": {"learned_scale": True}},
}
"""Each by itself, and the two that gained most on validation together, against the first. The second is no change but a control: on a
processor without bfloat16 all cells are fitted so."""


def cells() -> list[dict[str, Any]]:
    """One seed of everything first."""
    plain = next(c for c in paper.cells("cpu") if c["name"] == "fashion_mnist-SimVAE-0")
    found = []
    for label, change in CHANGES.items():
        settings = plain["settings"] | change.get("settings", {})
        found += [
            {**plain, **change, "settings": settings, "label": label, "name": f"{label}-{seed}", "seed": seed}
            for seed in (0, 1, 2)
        ]
    return sorted(found, key=lambda cell: cell["seed"])


def committed() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))]


def content(row: dict[str, Any], split: str) -> float:
    return 100 * row["content"]["mlp"][split]


def style(row: dict[str, Any], split: str, reader: str = "linear") -> float:
    factors = row["style"]["views"]["z"].values()
    return 100 * statistics.fmean(f[reader][split] for f in factors if f["kind"] != "categorical")


def worth(row: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Content and style of both splits."""
    return {split: (round(content(row, split), 2), round(style(row, split), 2)) for split in ("validation", "test")}


def gains(rows: list[dict[str, Any]], label: str, figure: Any, split: str) -> list[float]:
    """Against the plain fit of the same seed."""
    plain = {row["seed"]: figure(row, split) for row in rows if row["label"] == "plain"}
    return [figure(row, split) - plain[row["seed"]] for row in rows if row["label"] == label and row["seed"] in plain]


READ: dict[str, Any] = {"content": content, "style": style}


def spread(values: list[float], sign: str = "") -> str:
    found = spread_of(values)
    return f"{found.mean:{sign}.1f}" + ("" if found.half is None else f" +- {found.half:.1f}")


def wins(rows: list[dict[str, Any]], label: str) -> str:
    """In what the interval of its gains on validation lies above 0."""
    found = {name: spread_of(gains(rows, label, figure, "validation")) for name, figure in READ.items()}
    if any(one.half is None for one in found.values()):
        return "one seed: not known"
    return " and ".join(name for name, one in found.items() if one.mean - (one.half or 0) > 0) or "no"


def document() -> str:
    rows = committed()
    lines = ["# What changes to SimVAE give", "", (__doc__ or "").split("\n\n")[-1].strip().replace("\n", "  \n"), ""]
    lines += [
        "Mean +- 95 % interval over seeds; a gain is paired by seed. The gains on validation chose, those on test are the figures.", "",
        "| change | seeds | content, % | style, R2 % | style, kernel ridge | content gain, validation | test | style gain, "
        "validation | test | wins on validation | steps of groups | seconds a fit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for label in CHANGES:
        mine = [row for row in rows if row["label"] == label]
        if not mine:
            continue
        figures = [spread([content(r, "test") for r in mine]), spread([style(r, "test") for r in mine])]
        figures += [spread([style(r, "test", "kernel") for r in mine])]
        for figure in (content, style):
            for split in ("validation", "test"):
                figures.append("" if label == "plain" else spread(gains(rows, label, figure, split), "+"))
        won = "" if label == "plain" else wins(rows, label)
        taken = f"{mine[0]['steps']} of {mine[0]['batch']}"
        seconds = statistics.fmean(row["seconds"] for row in mine)
        lines.append(f"| {label} | {len(mine)} | {' | '.join(figures)} | {won} | {taken} | {seconds:.0f} |")
    return "\n".join([*lines, "", hardware(rows), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "genssl_improvements")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        write_bytes(RESULTS / "improvements.md", document().encode())
        return
    for cell in (c for c in cells() if args.only in c["name"]):
        out = OUT / f"{cell['name'].replace(' ', '_')}.json"
        paper.do(cell, out, args.work / out.stem, worth, CLASSES.get(cell["method"]))


if __name__ == "__main__":
    main()
