"""The command `genssl`: methods, data, fit, evaluate, report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from genssl._version import __version__
from genssl.errors import GensslError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="genssl")
def cli() -> None:
    """Probabilistic programming for self-supervised learning."""


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def methods(as_json: bool) -> None:
    """The methods: what fills each slot of the objective, where it comes from, when it collapses."""
    from genssl.fit.build import gallery

    rows = [_describe(name, cls) for name, cls in gallery().items()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.secho(row["method"], bold=True)
        for key in ("reconstruction", "entropy", "prior", "source"):
            click.echo(f"  {key:<15} {row[key]}")
        click.echo(f"  {'collapses':<15} {row['collapses']}")


def _describe(name: str, cls: Any) -> dict[str, Any]:
    import torch

    from genssl.groups import Groups

    example = Groups(torch.zeros(2, 2, 1, 8, 8))
    slots = cls.build(example).objective.slots
    return {"method": name, **{slot: str(term) for slot, term in slots.items()}, "source": cls.source, "collapses": cls.collapses}


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--data-root", type=click.Path(file_okay=False), help="Where data sets are; default $GENSSL_DATA, else ~/.cache/genssl.")
def data(as_json: bool, data_root: str | None) -> None:
    """The data sets: which are at hand, and how to get the others."""
    from genssl import datasets

    rows = datasets.available(data_root)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        where = f"present ({row['location']})" if row["present"] else f"missing; {row['how_to_get']}"
        click.echo(f"{row['name']:<15} {where}")
    click.echo("your own        FILE.npz (x, y), a folder of images by class, or path/to/file.py:function")


@cli.command()
@click.argument("method")
@click.option("--data", "data_name", required=True, help="digits | mnist | fashion_mnist | FILE.npz | FOLDER | file.py:function")
@click.option("--data-root", type=click.Path(file_okay=False), help="Where data sets are; default $GENSSL_DATA, else ~/.cache/genssl.")
@click.option("--download", is_flag=True, help="Let torchvision download a missing data set into the data root.")
@click.option("--no-verify", is_flag=True, help="Do not check files against their MD5.")
@click.option("--views", "num_views", type=int, help="Views a group, J.")
@click.option("--epochs", type=int)
@click.option("--max-seconds", type=float, help="Time budget, turned into steps at the first start; reaching it finishes the run.")
@click.option("--max-steps", type=int, help="Stop this call at that step, with a checkpoint.")
@click.option("--batch-size", type=int, help="Groups a step.")
@click.option("--lr", type=float)
@click.option("--seed", type=int)
@click.option("--precision", type=click.Choice(["32", "bf16"]))
@click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda")
@click.option("--limit", type=int, help="Use at most so many items of each split.")
@click.option("--num-workers", type=int, default=0, show_default=True, help="Reading processes for data that are not in memory.")
@click.option("--reconstruction", metavar="TERM", help="Replace the reconstruction term: Term or Term:key=value,...")
@click.option("--entropy", metavar="TERM", help="Replace the entropy term.")
@click.option("--prior", metavar="TERM", help="Replace the prior term.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A setting of the method, e.g. --set dim=16; may be repeated.")
@click.option("--out", type=click.Path(), help="Run folder; default runs/METHOD-DATA-SEED.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder.")
@click.option("--no-report", is_flag=True, help="Neither evaluate nor write the report at the end.")
def fit(
    method: str, data_name: str, no_verify: bool, pairs: tuple[str, ...], reconstruction: str | None, entropy: str | None,
    prior: str | None, no_report: bool, **options: Any,
) -> None:  # fmt: skip
    """Fit METHOD (a name of `genssl methods`, or path/to/file.py:Class), then evaluate it and write the report."""
    from genssl.fit.api import fit as fit_run
    from genssl.fit.slots import parse_setting

    replace = {"reconstruction": reconstruction, "entropy": entropy, "prior": prior}
    replace = {slot: text for slot, text in replace.items() if text}
    settings = dict(parse_setting(pair) for pair in pairs)
    if not sys.stderr.isatty():
        options["progress"] = False
    run = fit_run(method, data_name, settings=settings or None, verify=not no_verify, replace=replace or None, **options)
    if not run.finished:
        click.echo(f"{run.path}: stopped as asked; go on with --resume --out {run.path}")
        return
    if no_report:
        click.echo(f"{run.path}: fitted")
        return
    if (run.path / "report.html").exists() and (run.path / "evaluation.json").exists():
        click.echo(f"{run.path}: finished already")
        return
    _finish(run)


def _finish(run: Any) -> None:
    from genssl.report import write

    figures = run.evaluate()
    page = write([run])
    click.echo(_summary(figures))
    click.echo(f"report: {page}")


def _summary(figures: dict[str, Any]) -> str:
    content, random = figures.get("content"), (figures.get("random_encoder") or {}).get("content")
    if not content:
        return f"no content accuracy: {figures.get('notes', {}).get('content', 'no labels')}"
    lines = [f"{'test accuracy':<16}{'fitted':>10}{'random':>10}"]
    for probe, values in content.items():
        lines.append(f"{probe:<16}{values['test']:>10.3f}{random[probe]['test']:>10.3f}" if random else f"{probe:<16}{values['test']:>10.3f}")
    return "\n".join(lines)


_run_options = [
    click.argument("run", type=click.Path()),
    click.option("--method", help="path/to/file.py:Class, for a run of a method of your own."),
    click.option("--device", default="auto", show_default=True, help="auto | cpu | cuda"),
]


def _with_run(command: Any) -> Any:
    for option in reversed(_run_options):
        command = option(command)
    return command


@cli.command()
@_with_run
@click.option("--json", "as_json", is_flag=True, help="Print evaluation.json.")
def evaluate(run: str, method: str | None, device: str, as_json: bool) -> None:
    """Measure the representation of RUN and write RUN/evaluation.json."""
    from genssl.fit.run import load

    figures = load(run, method=method, device=device).evaluate()
    click.echo(json.dumps(figures, indent=2) if as_json else _summary(figures))


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--method", help="path/to/file.py:Class, for runs of a method of your own.")
@click.option("--out", type=click.Path(), help="The HTML file; default RUN/report.html of the first run.")
def report(runs: tuple[str, ...], method: str | None, out: str | None) -> None:
    """Write one HTML page about RUNS, side by side."""
    from genssl.fit.run import load
    from genssl.report import write

    page = write([load(run, method=method) for run in runs], None if out is None else Path(out))
    click.echo(f"report: {page}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if it did what was asked, 2 and one line on stderr if not, 130 after Ctrl-C."""
    try:
        result = cli.main(args=arguments, prog_name="genssl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        return _fail(error.format_message())
    except (GensslError, OSError) as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ngenssl: stopped; the run is saved, go on with the same command and --resume", err=True)
        return 130


def _fail(message: str) -> int:
    click.echo(f"genssl: {' '.join(message.split())}", err=True)
    return 2
