"""`datahall report`: what is proven about an application, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datahall.app.cli.session import connect
from datahall.app.cli.show import AsJson, print_json
from datahall.core.hall import HallPaths
from datahall.registry.page import render_page

command = typer.Typer(add_completion=False)


@command.command()
def report(
    ctx: typer.Context,
    app: Annotated[str, typer.Argument(help="The application's name.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the page; else into the hall's reports.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of an application's newest verdicts as one HTML page; with --json, print it as data."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        found = hall.report(app)
    if as_json:
        print_json(found)
        return
    path = output or paths.reports / f"{app}.html"
    path.write_text(render_page(found), encoding="utf-8")
    typer.echo(f"wrote {path}")
