"""`datahall key`: who may ask."""

from __future__ import annotations

from typing import Annotated

import typer

from datahall.app.cli.session import connect
from datahall.app.cli.show import AsJson, coloured, console, print_json, table
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False, no_args_is_help=True, help="Issue, list and revoke API keys.")


@command.command("issue")
def issue(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[list[str], typer.Option("--scope", help="What it may do: predict, predict:APP, read or admin.")],
    team: Annotated[str, typer.Option(help="Whose applications it reaches.")] = "main",
    days: Annotated[float | None, typer.Option(help="Days until it expires; without, it does not.", min=0.0)] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key. Its text is shown once; the hall keeps only a hash."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        made = hall.issue_key(name, tuple(scope), team, days)
    if as_json:
        print_json(made)
        return
    typer.echo(made.key)
    typer.echo(f"{made.status.id}: {', '.join(made.status.scopes)}; expires {made.status.expires or 'never'}", err=True)


@command.command("list")
def list_keys(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List every key that was issued."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        keys = hall.keys()
    if as_json:
        print_json(keys)
        return
    lines = table("key", "name", "team", "scopes", "expires", "state")
    for key in keys:
        lines.add_row(key.id, key.name, key.team, ", ".join(key.scopes), key.expires or "never", coloured(key.state))
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
