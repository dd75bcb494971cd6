"""`datahall key`: who may ask."""

from __future__ import annotations

from typing import Annotated

import typer

from datahall.app.cli.session import connect
from datahall.app.cli.show import AsJson, coloured, console, print_json, table
from datahall.core.hall import HallPaths
from datahall.core.records import Priority

command = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Issue, list and revoke API keys; rotate the master key."
)


@command.command("issue")
def issue(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option("--scope", help="What it may do: predict, predict:APP, read or admin.")],
    team: Annotated[str, typer.Option(help="Whose applications it reaches.")] = "main",
    days: Annotated[float | None, typer.Option(help="Days until it expires; without, it does not.", min=0.0)] = None,
    priority: Annotated[
        Priority,
        typer.Option(help="Whose requests are refused first while there are too many: low, then normal."),
    ] = "normal",
    as_json: AsJson = False,
) -> None:
    """Issue a key. Its text is shown once; the hall keeps only a hash."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        made = hall.issue_key(name, tuple(scope), team, days, priority=priority)
    if as_json:
        print_json(made)
        return
    typer.echo(made.key)
    scopes, expires = ", ".join(made.status.scopes), made.status.expires or "never"
    typer.echo(f"{made.status.id}: {scopes}; {made.status.priority} priority; expires {expires}", err=True)


@command.command("list")
def list_keys(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List every key that was issued."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        keys = hall.keys()
    if as_json:
        print_json(keys)
        return
    lines = table("key", "name", "team", "scopes", "priority", "expires", "state")
    for key in keys:
        scopes, expires = ", ".join(key.scopes), key.expires or "never"
        lines.add_row(key.id, key.name, key.team, scopes, key.priority, expires, coloured(key.state))
    console().print(lines)


@command.command("revoke")
def revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(help="The key's id, from `datahall key list`.")],
    as_json: AsJson = False,
) -> None:
    """Make a key worthless, now."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        key = hall.revoke_key(key_id)
    if as_json:
        print_json(key)
        return
    typer.echo(f"{key.id} ({key.name}) is revoked")


@command.command("rotate")
def rotate(
    ctx: typer.Context,
    retire: Annotated[
        bool, typer.Option("--retire", help="Destroy the old master keys: backups made before can then not be read.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before old master keys are destroyed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new master key and wrap every data key under it, while the hall goes on."""
    if retire and not yes:
        typer.confirm("Backups made before can then not be restored. Destroy the old master keys?", abort=True)
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        done = hall.rotate_keys(retire=retire)
    if as_json:
        print_json(done)
        return
    typer.echo(f"{done.num_rewrapped} data keys lie under the new master key")
    if done.num_retired:
        typer.echo(f"{done.num_retired} old master key(s) destroyed")
    else:
        typer.echo(f"{done.num_masters} master keys can open something; backups made before stay readable")
    typer.echo(f"copy the keys folder to a safe place again: {paths.keys}")
