"""`datahall plan`: what a run would do, before it does anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datahall.app.cli.session import connect
from datahall.app.cli.show import AsJson, console, duration, print_json, table
from datahall.app.events import Planned
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False)
AppFile = Annotated[Path, typer.Argument(help="The application file.", metavar="APP.YAML")]


@command.command()
def plan(ctx: typer.Context, file: AppFile = Path("app.yaml"), as_json: AsJson = False) -> None:
    """Show what a run would do, what it would reuse, and why."""
    paths: HallPaths = ctx.obj
    with connect(paths, create=True) as hall:
        planned = hall.plan(file)
    if as_json:
        print_json(planned)
        return
    show_plan(planned)


def show_plan(planned: Planned) -> None:
    """Print a plan as people read it."""
    lines = table("step", "", "why", "takes about")
    for line in planned.lines:
        runs = line.action == "runs"
        takes = duration(line.expected_s) if runs and line.expected_s is not None else "unknown" if runs else ""
        action = "[yellow]runs[/yellow]" if runs else "[green]reused[/green]"
        lines.add_row(line.name, action, line.why, takes)
    console().print(lines)
    num_runs = sum(line.action == "runs" for line in planned.lines)
    console().print(f"\n{planned.app}: {num_runs} step(s) to run, {len(planned.lines) - num_runs} reused")
