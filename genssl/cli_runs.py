"""Commands on fitted runs: evaluate, posterior, against, report, export; and the options that commands share."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Commands import what they need, so that --help and slips of the keyboard are answered at once.

method_option = click.option("--method", metavar="FILE.py:Class", help="The class, for a run of a method of your own.")
data_option = click.option(
    "--data", metavar="FILE.py:FUNCTION", help="The data again, for a run on data of a function of your own."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def printable(text: str) -> str:
    """Text for a terminal: control characters, by which a name out of a file could move the cursor or hide a line, as escapes."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def stopped(told: str) -> click.exceptions.Exit:
    """What ends a command after Ctrl-C, which is told."""
    click.echo(printable(f"\ngenssl: {told}"), err=True)
    return click.exceptions.Exit(130)


def summary(run: Any, figures: dict[str, Any]) -> str:
    """What was fitted and what it is worth, in a few lines."""
    lines = [
        f"{run.config['method']} on {run.config['data_description'].get('name')}: "
        f"{run.step or 0} of {run.config['steps']} steps, {run.path}"
    ]
    last = run.metrics[-1] if run.metrics else {}
    terms = [f"{key} {last[key]:.1f}" for key in ("reconstruction", "entropy", "prior") if last.get(key) is not None]
    if terms:
        lines.append("nats a group     " + "   ".join(terms))
    content, random = figures.get("content"), (figures.get("random_encoder") or {}).get("content") or {}
    if not content:
        lines.append(f"test accuracy    none: {(figures.get('notes') or {}).get('content', 'no labels')}")
    else:
        lines.append(f"{'test accuracy':<17}{'fitted':>7}{'random encoder':>17}")
    for probe, values in (content or {}).items():
        lines.append(
            f"  {probe:<15}{values['test']:>7.3f}" + (f"{random[probe]['test']:>17.3f}" if probe in random else "")
        )
    from genssl.report.distrust import doubts

    lines += [f"! {doubt}" for doubt in doubts(run, figures)]
    return printable("\n".join(lines))


def _words(command: str, run: str, method: str | None, data: str | None, *rest: str) -> str:
    """A command on a run as it would be typed."""
    given = {"--method": method, "--data": data}
    options = [word for name, value in given.items() if value is not None for word in (name, value)]
    return shlex.join(["genssl", command, run, *options, *rest])


def _on_run(command: Callable[..., None]) -> Callable[..., None]:
    for decorate in (device_option, data_option, method_option, click.argument("run", type=click.Path())):
        command = decorate(command)
    return command


@click.command()
@_on_run
@click.option(
    "--only", "parts", multiple=True, metavar="PART", help="A part, such as content or generation.mse; may be repeated."
)
@json_option
def evaluate(
    run: str, method: str | None, data: str | None, device: str, parts: tuple[str, ...], as_json: bool
) -> None:
    """Measure RUN and write RUN/evaluation.json; what was measured before is read from RUN/evaluation."""
    from genssl.fit.run import load

    loaded = load(run, method=method, data=data, device=device)
    try:
        figures = loaded.evaluate(parts or None)
    except KeyboardInterrupt as stop:
        again = _words("evaluate", run, method, data, *(word for part in parts for word in ("--only", part)))
        raise stopped(f"stopped, the parts that were measured are kept; go on with: {again}") from stop
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    click.echo(summary(loaded, figures))
    click.echo(f"its page: {_words('report', run, method, data)}")


@click.command()
@_on_run
@click.option(
    "--groups", type=click.IntRange(min=1), default=1000, show_default=True, help="The first so many of the test split."
)
@click.option("--samples", type=click.IntRange(min=1), default=200, show_default=True, help="Draws a group.")
@click.option(
    "--no-log-likelihood",
    is_flag=True,
    help="Leave out log_likelihood, log_p and log_weight: the decoder runs for 20 draws only.",
)
@click.option("--out", type=click.Path(dir_okay=False), help="The netCDF file; default RUN/posterior.nc.")
def posterior(
    run: str, method: str | None, data: str | None, device: str, groups: int, samples: int, no_log_likelihood: bool,
    out: str | None,
) -> None:  # fmt: skip
    """Draw from the posterior of RUN and write an ArviZ data tree, RUN/posterior.nc."""
    from genssl.fit.run import load

    loaded = load(run, method=method, data=data, device=device)
    tree = loaded.posterior(samples=samples, log_likelihood=not no_log_likelihood, number=groups, out=out)
    sizes = tree["posterior"].sizes
    click.echo(f"{', '.join(tree.children)}: {sizes['group']} groups, {sizes['sample']} samples")
    click.echo(f"posterior: {out or loaded.path / 'posterior.nc'}")
    tree.close()


@click.command()
@_on_run
@click.argument("other")
@click.option("--groups", type=click.IntRange(min=1), default=200, show_default=True, help="Of each side.")
@click.option("--samples", type=click.IntRange(min=1), default=64, show_default=True, help="Draws a group.")
@click.option("--no-verify", is_flag=True, help="Take files whose MD5 is not the published one.")
@json_option
def against(
    run: str, method: str | None, data: str | None, device: str, other: str, groups: int, samples: int, no_verify: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """How strange the data OTHER are to RUN, by each score: AUROC against its own test groups; RUN/against/OTHER.json.

    1: every group of the other data is stranger than the run's own; 0.5: nothing tells them apart; below: they look less strange.
    """
    from genssl.fit.run import load
    from genssl.posterior import against as hold

    found = hold(load(run, method=method, data=data, device=device), other, groups, samples, verify=not no_verify)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for score, area in found["auroc"].items():
        click.echo(f"{score:<16} AUROC {area:.3f}")
    for score, why in found["absent"].items():
        click.echo(f"{score:<16} none: {why}")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@method_option
@data_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False),
    help="The HTML file; default RUN/report.html, of several runs report.html here.",
)
def report(runs: tuple[str, ...], method: str | None, data: str | None, out: str | None) -> None:
    """Write one HTML page about RUNS, side by side."""
    from genssl.fit.folder import read_config
    from genssl.fit.run import load
    from genssl.report import write

    def one(folder: str) -> Any:
        config = read_config(Path(folder))  # what is given goes to the runs that need it, beside others that do not
        return load(folder, method if "file" in config else None, data if ".py:" in (config["data"] or "") else None)

    if out is None and len(runs) > 1:
        out = "report.html"  # RUN/report.html is about that run alone
    page = write([one(folder) for folder in runs], None if out is None else Path(out))
    click.echo(f"report: {page}")


@click.command()
@click.argument("run", type=click.Path())
@method_option
@data_option
@click.option("--format", type=click.Choice(["onnx", "pt2", "safetensors"]), help="Default: what --out ends in.")
@click.option("--out", type=click.Path(), help="The file, which must not exist yet; default RUN/export.FORMAT.")
@click.option("--uint8", is_flag=True, help="x is uint8 images, read as v / 255; default floats in [0, 1].")
def export(run: str, method: str | None, data: str | None, format: str | None, out: str | None, uint8: bool) -> None:
    """Write what the finished RUN has learnt to a file that needs no genssl to be used.

    onnx (pip install 'genssl[onnx]') and pt2 (torch.export) hold the representation, x [N, *event] -> z [N, D]; safetensors holds
    parameters and buffers.
    """
    from genssl.export import export as write
    from genssl.fit.run import load

    loaded = load(run, method=method, data=data, device="cpu")
    click.echo(f"export: {write(loaded, out, format, uint8=uint8)}")
