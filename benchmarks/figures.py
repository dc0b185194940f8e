"""The paper's figures 2, 3, 4 and 9 in our setting: results/figures/*.png and their captions, results/figures/README.md.

    python benchmarks/figures.py --data fashion_mnist --folder DIR      # 20 minutes on two cores; start it again where it was stopped
    python benchmarks/figures.py --data cifar10 --folder DIR

Five runs of equal numbers of views: SimVAE, VAE, SimCLR, VICReg and a random encoder (SimVAE before its first step). The figures are
those of `genssl report` over them. Figures 2 and 3 of Bizeul et al. 2024: test items decoded by every method, by a decoder fitted to frozen
representations where it has none. Figure 4: what a probe reads of style; the paper's is of CelebA's hair colour and attributes, this one of
the drawn crop, flip and colour, since there is no CelebA here. Figure 9: samples of each class.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from cells import RESULTS, data_root

import genssl
from genssl.files import write_bytes, write_json, write_text
from genssl.report import write

OUT = RESULTS / "figures"
FITS: dict[str, dict[str, Any]] = {
    "simvae": {"method": "SimVAE", "num_views": 4, "batch_size": 128, "passes": 1},
    "vae": {"method": "VAE", "num_views": 1, "batch_size": 512, "passes": 4},
    "simclr": {"method": "SimCLR", "num_views": 2, "batch_size": 256, "passes": 2},
    "vicreg": {"method": "VICReg", "num_views": 2, "batch_size": 256, "passes": 2},
    "random": {"method": "SimVAE", "num_views": 4, "batch_size": 128, "passes": 0},
}
"""passes: epochs for each epoch of the first, so that all see as many views."""
EPOCHS = {"mnist": 5, "fashion_mnist": 5, "cifar10": 2}
PARTS = ("content", "random_encoder", "style", "generation.mse", "generation.adhoc")
TAKEN = {
    "reconstructions_side_by_side": (None, "Test items decoded by every run (the paper's figures 2 and 3)"),
    "style_bars": (None, "Drawn parameters of views, read from z (in place of the paper's figure 4)"),
    "accuracy_bars": (None, "Classes, read from z by three probes"),
    "class_samples": ("simvae", "Samples of each class from SimVAE (the paper's figure 9)"),
}
"""By the name of a report's figure: the run whose figure it is (None: of all), and what it shows."""


def fitted(data: str, label: str, folder: Path, limit: int | None) -> Any:
    settings = dict(FITS[label])
    epochs = settings.pop("passes") * EPOCHS[data]
    run = genssl.fit(
        settings.pop("method"), data, data_root=data_root(), verify=data != "cifar10", epochs=epochs, precision="auto", limit=limit,
        out=folder / label, resume=True, **settings,
    )  # fmt: skip
    run.evaluate(PARTS)
    return run


def told(data: str, runs: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the figures."""
    first = runs["simvae"].config
    return {
        "data": data,
        "epochs": {label: run.config["epochs"] for label, run in runs.items()},
        "views": {label: run.config["num_views"] for label, run in runs.items()},
        "groups a step": {label: run.config["batch_size"] for label, run in runs.items()},
        "seed": first["seed"],
        "precision": first["precision"],
        "machine": first["machine"],
        "torch": first["versions"]["torch"],
        "exactness": runs["simvae"].data.notes,
    }


def captions() -> str:
    lines = [
        "# Figures",
        "",
        "Made by `python benchmarks/figures.py`, from `genssl report` over five runs of equal numbers of views, no setting tuned. One "
        "seed: differences between bars are not to be trusted beyond the spread over seeds, which `../paper.md` has.",
    ]
    for path in sorted(OUT.glob("*.json")):
        one = json.loads(path.read_text())
        epochs = ", ".join(
            f"{label} {one['epochs'][label]} epochs of {one['groups a step'][label]} groups of J = {one['views'][label]} a step"
            for label in one["epochs"]
        )
        lines += [
            "",
            f"## {one['data']}",
            "",
            f"Seed {one['seed']}; {epochs}; networks in {one['precision']}; {one['machine']}, torch {one['torch']}. "
            + (f"Data: {one['exactness']}" if one["exactness"] else ""),
        ]
        for name, (_, what) in TAKEN.items():
            if (OUT / f"{path.stem}-{name}.png").exists():
                lines += ["", f"{what}:", "", f"![{what}]({path.stem}-{name}.png)"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=EPOCHS, default="fashion_mnist")
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are, or will be")
    parser.add_argument("--limit", type=int, help="so many items of each split: to try it")
    args = parser.parse_args()
    torch.manual_seed(0)
    runs = {label: fitted(args.data, label, args.folder, args.limit) for label in FITS}
    write(list(runs.values()), args.folder / "report.html")
    for name, (label, _) in TAKEN.items():
        source = (args.folder if label is None else args.folder / label) / "figures" / f"{name}.png"
        if source.exists():
            write_bytes(OUT / f"{args.data}-{name}.png", source.read_bytes())
    write_json(OUT / f"{args.data}.json", told(args.data, runs))
    write_text(OUT / "README.md", captions())


if __name__ == "__main__":
    main()
