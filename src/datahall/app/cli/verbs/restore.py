"""`datahall restore`: a hall out of a backup."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from datahall.app.backup.reader import Archive
from datahall.app.backup.restore import Restore, Restored
from datahall.app.backup.telling import Teller
from datahall.app.cli.progress import PlainProgress, RichProgress
from datahall.app.cli.show import AsJson, console, duration, print_json, size
from datahall.app.jobs import Cancel
from datahall.app.settings import read_settings
from datahall.app.stores import open_witness, witness_files
from datahall.app.witnesses import forgetting
from datahall.core.clock import SystemClock
from datahall.core.errors import IntegrityError, UnavailableError
from datahall.core.hall import HallPaths
from datahall.security.keys import KeyRing

command = typer.Typer(add_completion=False)


@command.command()
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
    keys: Annotated[
        Path,
        typer.Option("--keys", metavar="DIR", help="Your copy of the keys folder of the hall that it was made of."),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Move what is in the hall's place aside; without, nothing may be there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a hall out of FILE, in the place that --hall names, once every byte of it is checked.

    Until then it lies in DIR.restoring beside that place; killed at any moment, run it again.
    """
    paths: HallPaths = ctx.obj
    ring, clock = KeyRing.open(keys), SystemClock()
    progress = PlainProgress(as_json=as_json) if as_json or not sys.stdout.isatty() else RichProgress()
    with progress, Archive.open(file, ring) as archive:
        settings, origin = read_settings(paths), archive.header.origin
        witness = open_witness(settings, paths, lambda _old, _new: [], clock)
        try:
            witnessed, away = witness.newest(origin), ""
        except (UnavailableError, IntegrityError, UnicodeDecodeError) as error:
            witnessed, away = None, str(error)  # no reason to leave people without their hall
        work = Restore(archive, ring, keys, clock, witnessed=witnessed)
        made = work.into(paths, Teller(progress.notify, Cancel(), clock), replace=force)
    notes = [str(note) for note in witness_files(settings, origin) if note.exists()] if made.lost else []
    accept = " && ".join(shlex.join(["mv", note, f"{note}.before-restore"]) for note in notes)
    others = [forgetting(name, origin) for name in settings.witness if made.lost and not name.startswith("file:")]
    unasked = away or made.unknown
    if witnessed is None and not unasked:
        unasked = "no witness that was reached knows this hall"
    if as_json:
        print_json({"restored": made, "accept": accept, "forget": others, "unasked": unasked})
    else:
        _say(made, [accept, *others] if accept else others, unasked)


def _say(made: Restored, accept: list[str], unasked: str) -> None:
    out = console()
    where = escape(shlex.quote(made.hall))
    out.print(f"\n[green]restored[/green]: {escape(made.hall)}, {size(made.size_bytes)} in {duration(made.took_s)}")
    out.print(
        f"point of recovery: {made.at}, {made.num_entries:,} entries, {made.num_signed:,} under a signed checkpoint"
    )
    if made.aside:
        out.print(f"what was there before lies in {escape(made.aside)}")
    if made.num_witnesses:
        out.print("It asks the same witnesses; whatever else its hall.toml said lies there too.")
    if made.lost:
        first, stop = made.lost
        out.print(
            f"[red]lost[/red]: {stop - first:,} entries ({first} to {stop - 1}) were witnessed and are not in this backup. "
            f"If there is a newer one, restore that. The hall writes nothing until you accept the loss with:"
        )
        for step in accept:
            out.print(f"  {escape(step)}", soft_wrap=True)
    if made.damaged:
        out.print(f"[red]not in the backup[/red]: {len(made.damaged):,} objects, damaged or missing when it was made")
        for line in made.damaged:
            out.print(f"  {escape(line)}", soft_wrap=True)
    if unasked:
        out.print(f"[yellow]whether anything was lost is not known[/yellow]: {escape(unasked)}")
    if made.migrate:
        out.print(f"It was made by an older Datahall; migrate it with: {made.migrate}")
    out.print(f"check it with: datahall --hall {where} verify", soft_wrap=True)
    out.print(f"serve it with: datahall --hall {where} up -d", soft_wrap=True)
