"""`datahall verify`: the whole ledger, and everything that it speaks of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from datahall.app.audit import write_kit
from datahall.app.cli.show import AsJson, console, print_json
from datahall.app.origin import origin_of
from datahall.app.settings import read_settings
from datahall.app.stores import database_file, open_witness
from datahall.core.clock import SystemClock
from datahall.core.errors import NotFoundError
from datahall.core.hall import HallPaths
from datahall.ledger.verify import lines, verify_hall
from datahall.security.keys import KeyRing

command = typer.Typer(add_completion=False)


@command.command()
def verify(
    ctx: typer.Context,
    kit: Annotated[
        Path | None,
        typer.Option("--kit", metavar="DIR", help="Write what an auditor needs to check without Datahall, and leave."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the whole ledger, and everything it speaks of, against the newest tree head witnessed outside the hall."""
    paths: HallPaths = ctx.obj
    if not paths.exists:
        raise NotFoundError(f"there is no hall in {paths.root}", hint="make one with: datahall run app.yaml")
    settings, keys, clock = read_settings(paths), KeyRing.open(paths.keys), SystemClock()
    signer = keys.signer
    held = open_witness(settings, paths, lambda _old, _new: [], clock).newest(origin_of(signer))
    if kit is not None:
        typer.echo(f"check it with: {write_kit(kit, paths, signer.public_key, held)}")
        return
    with database_file(settings, paths, clock, keys) as database:
        report = verify_hall(database, signer.public_key, [held] if held else [])
    if as_json:
        print_json(report.as_dict())
        raise typer.Exit(0 if report.ok else 1)
    out = console()
    out.print(
        f"{report.num_entries:,} entries, {report.size:,} under a signed checkpoint; {report.num_records:,} records"
    )
    first, stop = report.unwitnessed
    if first == stop:
        out.print("every entry has been witnessed outside the hall")
    else:
        out.print(f"[yellow]entries {first} to {stop - 1} have not been witnessed yet[/yellow]")
    for line in lines(report):
        out.print(f"[red]problem:[/red] {escape(line)}")
    out.print(
        "[green]verified[/green]: nothing was changed" if report.ok else f"[red]{len(report.problems)} problem(s)[/red]"
    )
    raise typer.Exit(0 if report.ok else 1)
