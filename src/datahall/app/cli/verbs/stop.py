"""`datahall stop`: ends the hall and every process of it."""

from __future__ import annotations

import typer

from datahall.app import supervision
from datahall.app.cli.show import AsJson, print_json
from datahall.core.clock import SystemClock
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False)


@command.command()
def stop(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Stop the hall and every process of it; what is in flight is answered first."""
    paths: HallPaths = ctx.obj
    was_up = supervision.stop(paths, SystemClock())
    if as_json:
        print_json({"was_up": was_up, "up": False})
        return
    typer.echo(f"stopped the hall in {paths.root}" if was_up else f"no hall is up in {paths.root}")
