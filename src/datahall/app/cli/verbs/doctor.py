"""`datahall doctor`: is everything as it should be, and if not, what to run; takes a hall from schema to schema."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from datahall.app.cli.show import AsJson, coloured, console, print_json, table
from datahall.app.doctor import examine
from datahall.app.settings import read_settings
from datahall.backends.db.lock import HallLock
from datahall.backends.db.migrate import migrate_sqlite
from datahall.backends.db.tables import REVISION
from datahall.core.errors import NotFoundError, UserError
from datahall.core.hall import HallPaths
from datahall.security.keys import KeyRing

command = typer.Typer(add_completion=False)


@command.command()
def doctor(
    ctx: typer.Context,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Take the database to another schema; stop the hall first.")
    ] = False,
    to: Annotated[
        str, typer.Option("--to", metavar="REVISION", help="Which schema; the way back is one too.")
    ] = REVISION,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before migrating.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look the hall over: exit 0 when all is well, 1 with the command to run for what is not."""
    paths: HallPaths = ctx.obj
    if not paths.exists:
        raise NotFoundError(f"there is no hall in {paths.root}", hint="make one with: datahall run app.yaml")
    if migrate:
        _migrate(paths, to, yes=yes, as_json=as_json)
        return
    findings = examine(paths)
    if as_json:
        print_json(findings)
    else:
        lines = table("check", "state", "what", "run")
        for one in findings:
            lines.add_row(one.check, coloured("good" if one.ok else "fail"), escape(one.said), escape(one.run))
        console().print(lines)
    raise typer.Exit(0 if all(one.ok for one in findings) else 1)


def _migrate(paths: HallPaths, to: str, *, yes: bool, as_json: bool) -> None:
    """Migrate under the hall's lock. Raises HallBusyError while a process has it, UserError where nobody can be asked."""
    if read_settings(paths).database is not None:
        raise UserError(f"halls in Postgres began with schema {REVISION}", hint="there is no other to go to")
    if not yes and not sys.stdin.isatty():
        raise UserError("a migration changes the hall's database", hint="say that you want it with: --yes")
    with HallLock(paths.lock):
        entry_key = KeyRing.open(paths.keys).entry_key
        if not yes:
            typer.confirm(f"Take {paths.db} to schema {to}, after a snapshot of it?", abort=True)
        snapshot = migrate_sqlite(paths.db, to, entry_key=entry_key)
    if as_json:
        print_json({"schema": to, "snapshot": None if snapshot is None else str(snapshot)})
    elif snapshot is None:
        typer.echo(f"the hall has schema {to} already")
    else:
        typer.echo(f"the hall has schema {to} now; as it was before, it is in {snapshot}")
