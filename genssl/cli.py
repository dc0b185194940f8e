"""The command `genssl`: fit, compare; lists are in genssl.cli_lists, what is done with fitted runs in genssl.cli_runs."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from genssl import cli_lists, cli_runs
from genssl._version import __version__
from genssl.cli_lists import data_root_option
from genssl.cli_runs import device_option, json_option, printable, stopped, summary
from genssl.errors import GensslError
from genssl.memory import memory_told

# Commands import what they need, so that --help and slips of the keyboard are answered at once.

_folder = click.Path(file_okay=False)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, invoke_without_command=True
)
@click.version_option(__version__, prog_name="genssl")
@click.pass_context
def cli(context: click.Context) -> None:
    """Probabilistic programming for self-supervised learning."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    elif context.invoked_subcommand != "fit" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise click.UsageError(
            f"Several processes (torchrun) are for fit; run genssl {context.invoked_subcommand} alone."
        )


for _command in (cli_lists.methods, cli_lists.terms, cli_lists.data):
    cli.add_command(_command)
for _command in (cli_runs.evaluate, cli_runs.posterior, cli_runs.against, cli_runs.report, cli_runs.export):
    cli.add_command(_command)


@cli.command()
@click.argument("method")
@click.option(
    "--data",
    "data_name",
    required=True,
    help="A name of `genssl data` | FILE.npz | FOLDER of images by class | file.py:function. Names and folders take settings: "
    "sprites:colour=True, FOLDER:size=64.",
)
@data_root_option
@click.option("--download", is_flag=True, help="Let torchvision download a missing data set into the data root.")
@click.option("--no-verify", is_flag=True, help="Take files whose MD5 is not the published one.")
@click.option("--views", "num_views", type=int, help="Views a group, J; default: of the method and data set, else 2.")
@click.option(
    "--epochs", type=int, help="Passes over the training groups; default: of the method and data set, else 50."
)
@click.option(
    "--max-seconds", type=float, help="Time budget, turned into steps at the first start; reaching it finishes the run."
)
@click.option("--max-steps", type=int, help="Stop this call at that step, with a checkpoint.")
@click.option("--batch-size", type=int, help="Groups a step; default: of the method and data set, else 128.")
@click.option("--lr", type=float, help="Learning rate; default: of the method and data set, else 0.001.")
@click.option("--seed", type=int, help="All randomness is a function of it; default 0.")
@click.option(
    "--precision", type=click.Choice(["32", "bf16", "auto", "tf32"]),
    help="bf16: around the networks only; auto: the faster one on this machine; tf32: products of a GPU; default 32.",
)  # fmt: skip
@device_option
@click.option("--limit", type=int, help="Use at most so many items of each split.")
@click.option(
    "--num-workers", type=int, default=0, show_default=True, help="Reading processes for data that are not in memory."
)
@click.option(
    "--reconstruction",
    metavar="TERM",
    help="Replace the reconstruction term: [W*]TERM[:key=value,...][+...]; see `genssl terms`.",
)
@click.option("--entropy", metavar="TERM", help="Replace the entropy term.")
@click.option("--prior", metavar="TERM", help="Replace the prior term.")
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the method, e.g. --set dim=16; may be repeated.",
)
@click.option("--out", type=click.Path(), help="Run folder; default runs/METHOD-DATA-SEED.")
@click.option(
    "--resume", is_flag=True, help="Go on with the run in the folder; larger --epochs or --max-seconds lengthen it."
)
@click.option(
    "--tensorboard",
    is_flag=False,
    flag_value="",
    metavar="[DIR]",
    help="Write TensorBoard's files; default OUT/tensorboard.",
)
@click.option("--no-graph", is_flag=True, help="On a GPU: take steps one by one, not as one CUDA graph.")
@click.option("--no-report", is_flag=True, help="Neither evaluate nor write the report at the end.")
def fit(
    method: str, data_name: str, no_verify: bool, pairs: tuple[str, ...], reconstruction: str | None, entropy: str | None,
    prior: str | None, tensorboard: str | None, no_graph: bool, no_report: bool, **options: Any,
) -> None:  # fmt: skip
    """Fit METHOD (a name of `genssl methods`, or path/to/file.py:Class), then evaluate it and write the report."""
    from genssl import distributed
    from genssl.callbacks import TensorBoard
    from genssl.fit.api import fit as fit_run
    from genssl.fit.longer import how_ended
    from genssl.fit.loop import Interrupted
    from genssl.fit.slots import parse_setting

    given = {"reconstruction": reconstruction, "entropy": entropy, "prior": prior}
    replace = {slot: text for slot, text in given.items() if text is not None}

    def again(folder: Path) -> str:
        rest = (
            ["--no-graph"] * no_graph
            + ["--no-report"] * no_report
            + ["--num-workers", str(options["num_workers"])] * (options["num_workers"] > 0)
        )
        if tensorboard is not None:
            rest += ["--tensorboard", *[tensorboard] * bool(tensorboard)]
        return shlex.join([*program, "fit", method, "--data", data_name, "--resume", "--out", str(folder), *rest])

    with distributed.started(options["device"]):
        first, program = distributed.is_first(), distributed.program()
        try:
            with distributed.one_voice():
                run = fit_run(
                    method,
                    data_name,
                    settings=dict(parse_setting(pair) for pair in pairs) or None,
                    verify=not no_verify,
                    replace=replace or None,
                    graph=not no_graph,
                    callbacks=[] if tensorboard is None else [TensorBoard(tensorboard or None)],
                    **options,
                )
        except Interrupted as stop:
            raise stopped(stop.told + (f"; go on with: {again(stop.folder)}" if stop.begun else "")) from stop
    if not first:  # of several processes, one ends the run
        return
    if not run.finished:
        click.echo(f"{run.path}: step {run.step} of {run.config['steps']}, saved; go on with: {again(run.path)}")
    elif no_report or ((run.path / "report.html").exists() and (run.path / "evaluation.json").exists()):
        click.echo(
            f"{run.path}: finished, {run.config['steps']} step{'s' * (run.config['steps'] != 1)}: {how_ended(run.config)}"
        )
    else:
        _finish(run)


def _finish(run: Any) -> None:
    from genssl.report import write

    try:
        figures = run.evaluate()
        page = write([run])
    except KeyboardInterrupt as stop:
        told = f"{run.path} is fitted, and what was measured is kept; go on with: genssl evaluate {run.path}, genssl report {run.path}"
        raise stopped(told) from stop
    click.echo(summary(run, figures))
    click.echo(f"report: {page}")


@cli.command()
@click.argument("runs", nargs=-1, type=click.Path())
@click.option("--grid", type=click.Path(), metavar="FILE.toml", help="Run, or go on with, the grid of this file.")
@click.option(
    "--out",
    type=_folder,
    help="Write table.csv, table.json, table.md, index.html there; default with --grid: runs/grid-STEM.",
)
@json_option
def compare(runs: tuple[str, ...], grid: str | None, out: str | None, as_json: bool) -> None:
    """Set RUNS (or the folder of a grid) side by side, or fit a grid of terms, seeds and settings and compare its cells.

    The table has means over seeds with 95 % intervals; runs need be neither finished nor evaluated. A grid is a TOML file:

    \b
        [base]                                   # settings of a fit, as of genssl fit
        method = "SimVAE"
        data = "sprites"
        epochs = 20
        set.dim = 8                              # of the method, as with --set
        [grid]                                   # lists; every combination is a cell
        reconstruction = ["own", "ContrastiveNormaliser:temperature=0.5"]
        entropy = ["own", "Constant"]
        prior = ["own", "CosineAttraction"]
        seed = [0, 1, 2]

    Cells go to OUT/cells. All cells of a seed see the same batches and start from the same weights. After Ctrl-C the same command
    goes on, and a cell whose method and terms do not go together is kept in the table with the reason.
    """
    from genssl.compare import compare as compare_runs

    if bool(runs) == (grid is not None):
        raise click.UsageError("Give runs, or --grid FILE.toml" + (", not both." if runs else "."))
    if grid is not None and not grid.endswith(".toml"):
        raise click.UsageError(f"--grid {grid}: expected a file that ends in .toml.")
    try:
        found = compare_runs(list(runs) if grid is None else grid, out)
    except KeyboardInterrupt as stop:
        if grid is None:
            raise
        rest = [] if out is None else ["--out", out]
        again = shlex.join(["genssl", "compare", "--grid", grid, *rest, *["--json"] * as_json])
        raise stopped(f"stopped, what was done is kept; go on with: {again}") from stop
    if as_json:
        from genssl.files import plain

        click.echo(json.dumps(plain(found.as_dict()), indent=2))
        return
    click.echo(printable(str(found)))
    if found.out is not None:
        click.echo(f"page: {found.out / 'index.html'}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status, see `exit_status`."""
    return exit_status(lambda: cli.main(args=arguments, prog_name="genssl", standalone_mode=False))


def exit_status(run: Callable[[], Any]) -> int:
    """Run a command or a script; 0 if it did what was asked, 2 and one line on stderr if not, 130 after Ctrl-C.

    Anything but a GensslError, OSError or want of memory is a fault of the program (or of a user's class) and shows its traceback.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            with memory_told("this command", "close other programs, or take fewer items"):
                result = run()
            return result if isinstance(result, int) else 0
        except click.exceptions.Exit as leave:
            return leave.exit_code
        except click.UsageError as error:
            if _is_echo():
                return 2
            return _fail(f"{error.format_message()} See: {error.ctx.command_path if error.ctx else 'genssl'} --help")
        except click.ClickException as error:
            return _fail(error.format_message())
        except (GensslError, OSError) as error:
            return _fail(str(error))
        except (KeyboardInterrupt, click.Abort):
            click.echo("\ngenssl: stopped", err=True)
            return 130


def _is_echo() -> bool:
    """Whether this is one of several processes, and not the first, which says what all of them find alike."""
    return os.environ.get("RANK", "0") != "0"


def _fail(message: str) -> int:
    click.echo(printable(f"genssl: {' '.join(message.split())}"), err=True)
    return 2


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """One line, without the place in the program for the library's own warnings; of several processes, the first one's."""
    if _is_echo():
        return
    where = "" if category is UserWarning else f" ({category.__name__}, {filename}:{lineno})"
    click.echo(printable(f"genssl: warning: {' '.join(str(message).split())}{where}"), err=True)
