"""Commands that list what there is: methods, terms, data sets."""

from __future__ import annotations

import inspect
import json
import textwrap
from typing import Any

import click

from genssl.cli_runs import json_option
from genssl.errors import SettingsError, did_you_mean

data_root_option = click.option(
    "--data-root",
    type=click.Path(file_okay=False),
    help="Where data sets are; default $GENSSL_DATA, else ~/.cache/genssl.",
)


@click.command()
@click.argument("name", required=False)
@json_option
def methods(name: str | None, as_json: bool) -> None:
    """The methods: what fills each slot of the objective, where it comes from, when it collapses; of NAME its settings too."""
    from genssl.fit.build import gallery

    known = gallery()
    if name is not None and name not in known:
        raise SettingsError(f"there is no method {name!r}; {did_you_mean(name, known, 'see genssl methods')}")
    rows = [_method(key, cls, whole=name is not None) for key, cls in known.items() if name in (None, key)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.secho(row["method"], bold=True)
        for key in ("reconstruction", "entropy", "prior", "source", "collapses"):
            click.echo(f"  {key:<15} {row[key]}")
        if name is not None:
            click.echo("  settings        " + ", ".join(f"{key}={value!r}" for key, value in row["settings"].items()))
            click.echo(f"\n{row['documentation']}")


@click.command()
@click.argument("name", required=False)
@json_option
def terms(name: str | None, as_json: bool) -> None:
    """The terms that can fill a slot, for --reconstruction, --entropy, --prior and grids: TERM:key=value,..., weighted sums too."""
    from genssl.fit.slots import named_terms
    from genssl.terms import SLOTS

    known = named_terms()
    if name is not None and name not in known:
        raise SettingsError(f"there is no term {name!r}; {did_you_mean(name, known, 'see genssl terms')}")
    rows = [_term(key, cls, whole=name is not None) for key, cls in known.items() if name in (None, key)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for slot in SLOTS:
        mine = [row for row in rows if slot in row["slots"]]
        if mine:
            click.secho(slot, bold=True)
        for row in mine:
            settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
            click.echo(f"  {row['term']}" + (f":{settings}" if settings else ""))
            told = row["documentation"] if name is not None else textwrap.fill(row["equation"], 110)
            click.echo(textwrap.indent(told, " " * 6))
            if row["needs"]:
                click.echo(f"      needs {', '.join(row['needs'])}")


@click.command()
@json_option
@data_root_option
def data(as_json: bool, data_root: str | None) -> None:
    """The data sets: which are at hand, and how to get the others."""
    from genssl import datasets

    rows = datasets.available(data_root)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        where = f"present ({row['location']})" if row["present"] else f"missing; {row['how_to_get']}"
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        click.echo(f"{row['name']:<15} {where}" + (f"; settings {settings}" if settings else ""))
    click.echo("your own        FILE.npz (x, y), FOLDER:size=64 (images by class), or path/to/file.py:function")


def _method(name: str, cls: Any, whole: bool) -> dict[str, Any]:
    import torch

    from genssl.fit.build import settings_of
    from genssl.groups import Groups

    groups = Groups(torch.zeros(2, 2, 1, 8, 8), label=torch.arange(2))
    groups.total = 60_000  # of a data set as they are: some sizes follow it
    slots = cls.build(groups).objective.slots
    row = {
        "method": name,
        **{slot: _with_kind(term) for slot, term in slots.items()},
        "source": cls.source,
        "collapses": cls.collapses,
    }
    return row | {"settings": settings_of(cls), "documentation": inspect.getdoc(cls) or ""} if whole else row


def _with_kind(term: Any) -> str:
    """A slot in words: its term, and how it enters where that is not as a term."""
    kinds = [part.kind for _, part in term.parts if part.kind != "term"]
    return f"{term} [{', '.join(kinds)}]" if kinds else str(term)


def _term(name: str, cls: Any, whole: bool) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters.values() if "__init__" in vars(cls) else ()
    settings = {p.name: "..." if p.default is p.empty else p.default for p in parameters if p.name != "self"}
    row = {
        "term": name,
        "slots": cls.slots,
        "equation": " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()),
        "settings": settings,
        "needs": sorted(cls.needs),
    }
    return row | {"documentation": inspect.getdoc(cls) or ""} if whole else row
