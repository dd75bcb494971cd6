"""`datahall verify`: the whole ledger, and everything that it speaks of."""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from datahall.app.audit import write_kit
from datahall.app.cli.progress import PlainProgress, RichProgress
from datahall.app.cli.show import AsJson, console, print_json, size
from datahall.app.events import StepProgressed
from datahall.app.origin import origin_of
from datahall.app.replay import Replayed, replay_hall
from datahall.app.scrubbing import Scrubbed, scrub_hall
from datahall.app.settings import Settings, read_settings
from datahall.app.stores import database_file, open_truth, open_witness
from datahall.backends.db.snapshot import snapshot
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.clock import SystemClock
from datahall.core.errors import NotFoundError
from datahall.core.hall import HallPaths
from datahall.core.jobs import Progress
from datahall.ledger.verify import Report, lines, verify_hall
from datahall.security.keys import KeyRing

command = typer.Typer(add_completion=False)


@command.command()
def verify(
    ctx: typer.Context,
    kit: Annotated[
        Path | None,
        typer.Option("--kit", metavar="DIR", help="Write what an auditor needs to check without Datahall, and leave."),
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Read every stored object too: each frame and each digest. Takes a while.")
    ] = False,
    decisions: Annotated[
        bool, typer.Option("--decisions", help="Take every logged decision again too: the same must come of it.")
    ] = False,
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
        scrubbed = _scrub(database, settings, paths, keys, as_json=as_json) if objects else None
    replayed = replay_hall(paths) if decisions else None
    ok = report.ok and not (scrubbed and scrubbed.problems) and not (replayed and replayed.faults)
    if as_json:
        said = {"objects": scrubbed.teams if scrubbed else None, "decisions": replayed.as_dict() if replayed else None}
        print_json({**report.as_dict(), "ok": ok, **said})
        raise typer.Exit(0 if ok else 1)
    _say(report, scrubbed, replayed)
    raise typer.Exit(0 if ok else 1)


def _scrub(database: Path, settings: Settings, paths: HallPaths, keys: KeyRing, *, as_json: bool) -> Scrubbed:
    """Read the objects that one moment of the database names, so that what is acknowledged meanwhile is not missed."""
    progress = PlainProgress(as_json=as_json) if as_json or not sys.stdout.isatty() else RichProgress()
    with progress, tempfile.TemporaryDirectory(dir=paths.work) as folder:
        copy = Path(folder) / "hall.db"
        snapshot(database, copy)
        with closing(SqliteCatalogue(copy, SystemClock(), entry_key=keys.entry_key)) as catalogue:

            def told(team: str, done: Progress) -> None:
                progress.notify(StepProgressed(name=f"objects of {team}", progress=done))

            return scrub_hall(catalogue, open_truth(settings, paths), keys, paths, told)


def _say(report: Report, scrubbed: Scrubbed | None, replayed: Replayed | None) -> None:
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
    problems = scrubbed.problems if scrubbed else []
    if scrubbed is not None:
        out.print(f"{scrubbed.num_objects:,} objects, {size(scrubbed.num_bytes)}, read to the last byte")
    for problem in problems:
        out.print(f"[red]problem:[/red] {escape(problem)}")
    faults = [] if replayed is None else _say_replayed(replayed)
    num_problems = len(report.problems) + len(problems) + len(faults)
    out.print(
        "[green]verified[/green]: nothing was changed" if not num_problems else f"[red]{num_problems} problem(s)[/red]"
    )


def _say_replayed(replayed: Replayed) -> list[str]:
    out = console()
    out.print(f"replayed {replayed.num_decisions:,} decisions, {len(replayed.differences):,} differ")
    if replayed.num_other_code:
        out.print(
            f"{replayed.num_other_code:,} of them were taken by other policies than those installed, which would take "
            f"{replayed.num_other_code_differing:,} otherwise"
        )
    if replayed.num_lost_bytes:
        out.print(f"{replayed.num_lost_bytes:,} bytes are no whole decisions, as after a crash, and were passed over")
    for fault in replayed.faults:
        out.print(f"[red]problem:[/red] {escape(fault)}")
    return replayed.faults
