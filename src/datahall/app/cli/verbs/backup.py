"""`datahall backup`: a hall in one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from datahall.app.cli.progress import PlainProgress, RichProgress
from datahall.app.cli.session import connect
from datahall.app.cli.show import AsJson, console, duration, print_json, size
from datahall.app.events import BackedUp
from datahall.app.jobs import Cancel
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False)


@command.command()
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the backup.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE if it is an older backup; anything else is never replaced.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write all of the hall but its keys into FILE, encrypted, while everything goes on.

    FILE is there only once it has been read back and every digest in it was right; until then it is FILE.part.
    Exit status: 1 where objects are damaged or missing, so that the backup holds all but those.
    """
    paths: HallPaths = ctx.obj
    progress = PlainProgress(as_json=as_json) if as_json or not sys.stdout.isatty() else RichProgress()
    with connect(paths, listen=True) as hall, progress:
        made = hall.backup(file.absolute(), force, progress.notify, Cancel())
    if as_json:
        print_json(made)
    else:
        _say(made)
    if made.damaged:
        raise typer.Exit(1)


def _say(made: BackedUp) -> None:
    out = console()
    out.print(f"\n[green]backed up[/green]: {escape(made.file)}, {size(made.size_bytes)} in {duration(made.took_s)}")
    out.print(
        f"point of recovery: {made.at}, {made.num_entries:,} entries, {made.num_signed:,} under a signed checkpoint"
    )
    if made.damaged:
        out.print(f"[red]not in it[/red]: {len(made.damaged):,} objects are damaged or missing; all else is")
        for line in made.damaged:
            out.print(f"  {escape(line)}", soft_wrap=True)
    out.print(
        f"The keys are not in it, and nothing opens it without them. Keep a copy of {escape(made.keys)} elsewhere."
    )
