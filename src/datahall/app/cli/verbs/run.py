"""`datahall run`: an application's whole lifecycle, up to answers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from datahall.app.cli.progress import PlainProgress, RichProgress
from datahall.app.cli.session import connect, is_up
from datahall.app.cli.show import AsJson, console, print_json
from datahall.app.cli.verbs.plan import show_plan
from datahall.app.events import Ended
from datahall.app.jobs import Cancel
from datahall.app.serving import await_answers
from datahall.app.supervision import read_state, start_detached
from datahall.core.clock import SystemClock
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False)
AppFile = Annotated[Path, typer.Argument(help="The application file.", metavar="APP.YAML")]
REFUSED = 3
NOT_WANTED = 130


@command.command()
def run(
    ctx: typer.Context,
    file: AppFile = Path("app.yaml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before acting.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Whether the released version answers once this returns.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Take an application through its lifecycle: data, train, evaluate, gate, register, deploy, serve.

    What was done before is reused; a run that was cut off goes on at the step it was in. Ends with status 3 when
    the gate refuses every candidate: whatever answered before goes on answering.
    """
    paths: HallPaths = ctx.obj
    with connect(paths, create=True, listen=True) as hall:
        if not as_json and not yes and sys.stdin.isatty() and sys.stdout.isatty():
            show_plan(hall.plan(file))
            if not typer.confirm("\nGo on?"):
                raise typer.Exit(NOT_WANTED)
        progress = PlainProgress(as_json=as_json) if as_json or not sys.stdout.isatty() else RichProgress()
        with progress:
            ended = hall.run(file, progress.notify, Cancel())
    url = _serve(paths, ended) if serve and ended.champion else None
    if url is not None and not as_json:
        console().print(f"[green]✓[/green] [bold]{'serve':<20}[/bold] {ended.champion} answers")
    if as_json:
        print_json({"ended": ended, "url": url})
    else:
        _say(paths, ended, url)
    raise typer.Exit(REFUSED if ended.outcome == "refused" else 0)


def _serve(paths: HallPaths, ended: Ended) -> str:
    """Start the hall unless it is up, and return its address once the deployed version answers."""
    state = read_state(paths) if is_up(paths) else None
    if state is None:
        state = start_detached(paths, SystemClock())
    if ended.deployment is not None:
        await_answers(paths, state, ended.deployment, ended.champion or "", SystemClock())
    return state.url


def _say(paths: HallPaths, ended: Ended, url: str | None) -> None:
    out = console()
    if ended.outcome == "refused":
        out.print(f"\n[red]refused[/red]: {ended.reason}")
        answers = f"{ended.champion} goes on answering" if ended.champion else "nothing answers"
        out.print(
            f"{answers}; the gate's reasons stand above, the report has them in full: datahall report {ended.app}"
        )
    elif ended.outcome == "unchanged":
        out.print(f"\n[green]unchanged[/green]: {ended.reason}")
    else:
        out.print(f"\n[green]released[/green]: {ended.version}")
    if url is None:
        if ended.champion:
            out.print("Nothing serves it after this command; to serve it: datahall up -d")
        return
    hall = "" if paths.root == Path.cwd() / ".datahall" else f" --hall {shlex.quote(str(paths.root))}"
    out.print(f"Serving goes on at {url}/predict/{ended.app} after this command; to stop it: datahall{hall} stop")
