"""`datahall ps`: the hall at a glance."""

from __future__ import annotations

import typer

from datahall.app.cli.session import connect, is_up
from datahall.app.cli.show import AsJson, coloured, console, print_json, size, table
from datahall.app.supervision import read_state
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False)


@command.command()
def ps(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show what is released, what runs, and where."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        status = hall.status()
    state = read_state(paths)
    if as_json:
        print_json({"up": is_up(paths), "url": state.url if state else None, "status": status})
        return
    out = console()
    where = f"up at {state.url} (pid {state.pid})" if state else "not running; start it with: datahall up"
    out.print(f"hall {status.hall}: {where}")
    apps = table("application", "version", "state", "replicas", "verdict", "running step")
    for app in status.apps:
        replicas = f"{app.num_ready}/{app.num_replicas}" if app.version else ""
        apps.add_row(
            app.app, app.version or "-", coloured(app.state), replicas, app.verdict or "-", app.running_step or "-"
        )
    out.print(apps)
    if status.replicas:
        replicas_table = table("replica", "state", "pid", "isolation", "since")
        for replica in status.replicas:
            replicas_table.add_row(
                replica["id"], coloured(replica["state"]), str(replica["pid"]), replica["isolation"], replica["since"]
            )
        out.print(replicas_table)
    out.print(f"ledger: {status.num_entries} entries; routes: revision {status.route_revision}")
    if status.cache:
        held = f"{size(status.cache.held_bytes)} of {size(status.cache.limit_bytes)}"
        out.print(f"read cache: {status.cache.hits:,} hits, {status.cache.misses:,} misses; it holds {held}")
    for problem in status.problems:
        out.print(f"[red]problem:[/red] {problem}")
