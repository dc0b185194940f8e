"""The call and the command: what they print and write, the page, the figures, and what they refuse."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from shutil import copy as copied_file

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from small_grids import SPEC, copied, spec, toml

import genssl
from genssl.cli import main
from genssl.compare import drawing, figures
from genssl.compare.comparison import Comparison, of_runs
from genssl.compare.distrust import distrust
from genssl.compare.figures import Panel, Path2
from genssl.compare.page import page
from genssl.compare.run import of_grid
from genssl.fit.run import Run
from genssl.report import figures as report_figures

FILES = {"table.csv", "table.json", "table.md", "index.html"}
VOID = {"meta", "img"}
EVIL = '"><script>alert(1)</script><img src=http://x onerror=alert(2)>&$_'


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures that are quick to draw."""
    monkeypatch.setattr(report_figures, "DPI", 30)


class Page(HTMLParser):
    """Tags, attributes and visible text; a tag that is not closed is an error."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return status, out.out, out.err


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_help(capsys):
    status, out, err = run(capsys, "compare", "--help")
    assert (status, err) == (0, "")
    assert "[grid]" in out


def test_runs_by_the_command(grid, tmp_path, capsys):
    one, two = grid / "cells" / "own-seed0", grid / "cells" / "own-seed1"
    status, out, err = run(capsys, "compare", one, two, "--out", tmp_path / "both")
    assert (status, err) == (0, "")
    table = out.splitlines()
    assert table[0].split()[:4] == ["reconstruction", "entropy", "prior", "n"]
    assert table[1].split()[:4] == ["LogLikelihood", "PosteriorEntropy", "LogPrior", "2"]
    assert table[-1] == f"page: {tmp_path / 'both' / 'index.html'}"
    assert {path.name for path in (tmp_path / "both").iterdir()} == FILES
    status, out, _ = run(capsys, "compare", one, "--json")
    told = json.loads(out)
    assert (status, len(told["runs"]), told["spec"]) == (0, 1, None)
    assert told["table"][0]["measures"]["content.knn"]["half"] is None
    status, out, _ = run(capsys, "compare", grid)  # the folder of a grid
    assert (status, "left out" in out) == (0, True)


def test_a_grid_by_the_command_from_the_first_ctrl_c_to_the_page(grid, capsys, monkeypatch):
    """Stopped before a cell is done; the command that is told goes on, and the files are all there."""

    def stopped(self, parts):
        raise KeyboardInterrupt

    def quick(self, parts):
        copied_file(grid / "cells" / "own-seed0" / "evaluation.json", self.path)

    monkeypatch.setattr(Run, "evaluate", quick)

    Path("small.toml").write_text(toml(spec(grid={"prior": ["own"], "seed": [5]})))
    with monkeypatch.context() as patch:
        patch.setattr(Run, "evaluate", stopped)
        status, out, err = run(capsys, "compare", "--grid", "small.toml")
    assert (status, out) == (130, "")
    assert err.endswith("genssl: stopped, what was done is kept; go on with: genssl compare --grid small.toml\n")
    status, out, err = run(capsys, *err.split("go on with: genssl ")[1].split())
    assert status == 0
    assert re.fullmatch(r"\[1/1\] own-seed5: knn [\d.]+%, linear [\d.]+%, mlp [\d.]+%, \d+ s\n", err)
    assert out.endswith("page: runs/grid-small/index.html\n")
    assert {path.name for path in Path("runs/grid-small").iterdir()} > FILES
    before = Path("runs/grid-small/table.json").read_bytes()
    assert run(capsys, "compare", "--grid", "small.toml")[0] == 0
    assert Path("runs/grid-small/table.json").read_bytes() == before


BAD = [
    ([], "Give runs, or --grid FILE.toml. See: genssl compare --help"),
    (["a", "--grid", "b.toml"], "Give runs, or --grid FILE.toml, not both."),
    (["nowhere"], "nowhere: no such run folder"),
    (["--grid", "none.toml"], "none.toml: no such file"),
    (["--grid", "spec.txt"], "--grid spec.txt: expected a file that ends in .toml."),
    (["--grid", "bad.toml"], "bad.toml, [base]: there is no 'methodd'; did you mean method?"),
    (["--grid", "good.toml", "--out", "taken"], "taken: exists, is not empty and holds no grid"),
]


@pytest.mark.parametrize(("arguments", "told"), BAD, ids=[" ".join(arguments) or "none" for arguments, _ in BAD])
def test_bad_input_is_one_line_and_exit_2(arguments, told, capsys):
    Path("bad.toml").write_text('[base]\nmethodd = "VAE"\n')
    Path("good.toml").write_text(toml(SPEC))
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("years of work")
    status, out, err = run(capsys, "compare", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("genssl: " + told)
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_the_call(grid, tmp_path):
    cells = [grid / "cells" / "own-seed0", str(grid / "cells" / "own-seed1")]
    found = genssl.compare(cells)
    assert (len(found.rows), len(found.lines), found.out) == (2, 1, None)
    assert genssl.compare(genssl.load(cells[0])).rows == genssl.compare(cells[0]).rows == found.rows[:1]
    again = genssl.compare(SPEC, out=copied(grid, tmp_path / "copy"), progress=False)
    assert again.rows == genssl.compare(grid).rows
    assert json.loads((again.out / "table.json").read_text())["spec"]["grid"]["seed"] == [0, 1]


def test_the_page_tells_it_from_top_to_bottom(grid):
    html = page(of_grid(grid))
    told = Page(html)
    parts = ["Grid: SimVAE on digits", "2 of 4 cells finished, 2 left out.", "LogPrior", "PredictorAttraction", "Terms at the end",
             "Maps of z", "Prior against reconstruction", "The same for all", "set.hidden", "What was left out", "needs predictor",
             "What to distrust", "At most 2 seeds", "compared across kinds", "own-seed1", "style.views.z.linear"]  # fmt: skip
    places = [told.text.index(part) for part in parts]
    assert places == sorted(places)
    assert told.tags.count("img") >= 1
    assert not re.search(r"(src|href)=\"?(?!data:image)", re.sub(r'src="data:image[^"]*"', "", html))
    assert not re.search(r">\s*(nan|None|inf)\b", html)


def test_every_text_of_a_run_is_escaped(grid, tmp_path):
    folder = copied(grid / "cells" / "own-seed0", tmp_path / "evil")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "method": EVIL,
        "data": EVIL,
        "foretold": [EVIL],
        "optimizer": EVIL,
        "slots": dict.fromkeys(config["slots"], EVIL),
    }
    config["settings"] |= {EVIL: EVIL}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "measures.jsonl").write_text(json.dumps({"step": 3, EVIL: 1.0}) + "\n")
    (folder / "evaluation.json").write_text("{")
    html = page(of_runs([folder, grid / "cells" / "own-seed1"]))
    told = Page(html)
    assert "script" not in told.tags
    assert not any(name.startswith("on") for name, _ in told.attributes)
    assert told.text.count("<script>alert(1)</script>") >= 6
    assert "damaged" in told.text


def test_a_page_of_nothing_and_of_a_run_without_anything(grid, tmp_path):
    assert "No runs yet." in Page(page(Comparison([], [], {"base": {}, "grid": {}}, 4))).text
    folder = copied(grid / "cells" / "own-seed0", tmp_path / "bare")
    for name in ("evaluation.json", "metrics.jsonl", "measures.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "checkpoint").iterdir():
        path.unlink()
    told = Page(page(of_runs([folder]))).text
    assert "at step 0/6" in told
    assert "No map: " in told
    assert "No run has written two lines of metrics." in told
    assert "1 runs are not finished" in told


def test_means_over_different_factors_of_style_are_told():
    def row(seed, *factors):
        found = {f"style.views.z.linear.{factor}": 0.5 for factor in factors}
        settings = {
            "method": "VAE",
            "data": "d",
            "seed": seed,
            "reconstruction": "A",
            "entropy": "B",
            "prior": "C",
            "lr": seed,
        }
        state = {"run": str(seed), "steps": 3, "step": 3, "finished": True, "foretold": [], "note": ""}
        return settings | state | found

    def told(*rows):
        return "not the same in all runs" in " ".join(distrust(Comparison(list(rows), [None] * len(rows))))

    assert told(row(0, "crop_x", "hue"), row(1, "crop_x"))
    assert not told(row(0, "crop_x", "hue"), row(1, "hue", "crop_x"), row(2))


def test_what_to_distrust():
    """What is said depends on what is there."""
    row = {
        "run": "a",
        "seed": 0,
        "reconstruction": "A",
        "entropy": "B",
        "prior": "C",
        "lr": 1,
        "steps": 3,
        "step": 3,
        "finished": True,
    }
    row |= {"foretold": [], "note": ""}

    def told(*changes, **rest):
        rows = [row | change for change in changes]
        return " ".join(distrust(Comparison(rows, [None] * len(rows), **rest)))

    assert "n is 1" in told({})
    assert "n is 1" not in told({}, {"seed": 1})
    assert "At most 2 seeds" in told({}, {"seed": 1})
    assert "At most" not in told(*({"seed": i} for i in range(5)))
    assert "same seeds" in told({}, {"seed": 1}, {"prior": "D"})
    assert "more than once" in told({}, {"run": "b"})
    assert "3 to 7 steps" in told({}, {"steps": 7, "step": 7})
    assert "slots differs: lr" in told({}, {"lr": 2})
    assert "3 of 4 cells were not begun" in told({}, spec={}, cells=4)
    assert "best of 3 lines" in told({}, {"prior": "D"}, {"prior": "E"})


def test_maps_have_slots_as_rows_and_columns():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 3, generator=generator) * torch.tensor([5.0, 2.0, 0.1])
    label = torch.arange(50) % 3
    names = [(r, e, p) for r in ("R1", "R2(a=1)", "R3", "R4") for e in ("E1", "E2") for p in ("P1", "P2", "P3")]
    panels = {slots: Panel(z, label, "81%") for slots in names} | {
        names[5]: Panel(told="left out"),
        names[6]: Panel(z * 0, None, ""),
    }
    del panels[names[-1]]
    figure = figures.slot_maps(panels, ["a", "$b", "_c"])
    assert len(figure.axes) == 24
    assert figure.axes[0].get_title() == "E1\nP1"
    assert [axes.get_ylabel() for axes in figure.axes[::6]] == ["R1", "R2(a=1)", "R3", "R4"]
    told = texts(figure)
    assert told.count("left out") == told.count("not in the comparison") == 1
    assert told.count("81%") == 21
    assert "sd 0" in told
    points = np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])
    expected = PCA(2).fit_transform(z.double().numpy())
    assert np.allclose(np.sort(np.abs(points), 0), np.sort(np.abs(expected), 0), atol=1e-8)
    deviation = PCA(2).fit(z.double().numpy()).explained_variance_[0] ** 0.5 * (49 / 50) ** 0.5
    assert f"sd {deviation:.2g}" in told
    assert report_figures.png(figure)


def test_trajectories_are_the_means_over_seeds_of_what_was_written(grid, tmp_path):
    folders = [copied(grid / "cells" / f"own-seed{seed}", tmp_path / f"r{seed}") for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        lines = [
            {"step": s, "sphere": {"alignment": s + seed, "uniformity": -s}} for s in (1, 2, *([3] if seed else []))
        ]
        (folder / "measures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    axes = drawing.trajectories(of_runs(folders)).figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("sphere.uniformity", "sphere.alignment")
    assert np.array_equal(axes.lines[0].get_xydata(), [[-1, 1.5], [-2, 2.5]])
    for folder in folders:
        (folder / "measures.jsonl").unlink()
        lines = [{"step": s, "reconstruction": -100.0 / s, "prior": s} for s in range(1, 41)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = drawing.trajectories(of_runs(folders))
    axes = told.figure.axes[0]
    assert axes.get_xlabel() == "reconstruction, nats a group"
    assert np.array_equal(axes.lines[0].get_xydata()[0], [-100 / 3, 3])  # without the first 5 % of the steps
    assert "different scales" in told.caption


def test_ways_are_told_apart_by_slot():
    paths = [
        Path2((r, e, p), np.array([[0.0, 1.0], [2.0, i]]))
        for i, (r, e, p) in enumerate([("R", "E", "P"), ("R2", "E", "P"), ("R", "E2", "P2")])
    ]
    figure = figures.trajectories(paths, ("u", "a"))
    colours = [line.get_color() for line in figure.axes[0].lines[::2]]
    assert colours[0] == colours[2] != colours[1]
    assert [line.get_linestyle() for line in figure.axes[0].lines[::2]] == ["-", "-", "--"]
    assert {"R", "R2", "E2", "P2"} <= set(texts(figure))
    panels = figures.slot_trajectories(paths, ("reconstruction", "prior"))
    assert len(panels.axes) == 4
    assert report_figures.png(panels)
