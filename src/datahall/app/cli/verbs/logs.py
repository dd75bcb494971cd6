"""`datahall logs`: what a process of the hall has written."""

from __future__ import annotations

from typing import Annotated

import typer

from datahall.core.errors import NotFoundError
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False)


@command.command()
def logs(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A process, such as control, gateway or a replica's id.")] = None,
    num_lines: Annotated[int, typer.Option("--lines", "-n", help="How many lines from the end.", min=1)] = 50,
) -> None:
    """Show what a process of the hall has written; without a name, list the logs."""
    paths: HallPaths = ctx.obj
    if not paths.exists:
        raise NotFoundError(f"there is no hall in {paths.root}", hint="make one with: datahall run app.yaml")
    found = {path.stem: path for path in sorted(paths.logs.glob("*.log"))} if paths.logs.is_dir() else {}
    if name is None:
        for stem, path in found.items():
            typer.echo(f"{stem}  {path.stat().st_size:,} bytes")
        return
    if name not in found:
        raise NotFoundError(f"there is no log of '{name}'", hint=f"choose one of: {', '.join(found) or 'none yet'}")
    for line in found[name].read_text(errors="replace").splitlines()[-num_lines:]:
        typer.echo(line)
