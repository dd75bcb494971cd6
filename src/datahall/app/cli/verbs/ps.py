"""`datahall ps`: the hall at a glance."""

from __future__ import annotations

from typing import Any

import typer

from datahall.app.cli.session import connect, is_up
from datahall.app.cli.show import AsJson, coloured, console, print_json, size, table
from datahall.app.gateways import GatewayState, living, name_of
from datahall.app.supervision import SupervisorState, read_state
from datahall.core.hall import HallPaths
from datahall.serve.cache import CacheStats
from datahall.serve.counters import Counters, read_counters

command = typer.Typer(add_completion=False)

_NONE = GatewayState(gateway="", pid=0, started_at=0.0, port=0, revision=-1, draining=False, problem="")


@command.command()
def ps(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show what is released, what runs, and where."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        status = hall.status()
    state = read_state(paths)
    gateways = _gateways(paths, state)
    if as_json:
        url = state.url if state else None
        print_json({"up": is_up(paths), "url": url, "gateways": gateways, "status": status})
        return
    out = console()
    where = f"up at {state.url} (pid {state.pid})" if state else "not running; start it with: datahall up"
    out.print(f"hall {status.hall}: {where}")
    if gateways:
        lines = table("gateway", "state", "pid", "port", "routes", "problem")
        for each in gateways:
            pid, port = (str(each[name] or "-") for name in ("pid", "port"))
            lines.add_row(each["id"], coloured(each["state"]), pid, port, str(each["revision"]), each["problem"])
        out.print(lines)
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
    if said := _given_again(gateways):
        out.print(said)
    for problem in status.problems:
        out.print(f"[red]problem:[/red] {problem}")


def _gateways(paths: HallPaths, state: SupervisorState | None) -> list[dict[str, Any]]:
    """Return a line for each gateway that ought to run, whether it does or not."""
    if state is None:
        return []
    runtime = paths.runtime()
    found = {each.gateway: each for each in living(runtime)}
    names = map(name_of, range(state.num_gateways))
    states = [(name, found.get(name, _NONE)) for name in names]
    return [_line(name, gateway, read_counters(runtime, name, gateway.pid)) for name, gateway in states]


def _line(name: str, gateway: GatewayState, counters: Counters | None) -> dict[str, Any]:
    state = "not running" if not gateway.pid else "draining" if gateway.draining else "ready"
    if gateway.pid and not gateway.port:
        state = "starting"
    return {
        "id": name,
        "state": state,
        "pid": gateway.pid or None,
        "port": gateway.port or None,
        "revision": gateway.revision,
        "draining": gateway.draining,
        "problem": gateway.problem,
        "cache": counters.cache if counters else None,
        "decisions": counters.decisions if counters else None,
    }


def _given_again(gateways: list[dict[str, Any]]) -> str:
    """Return what the response caches did since their gateways started; empty where nothing was looked up."""
    caches: list[CacheStats] = [each["cache"] for each in gateways if each["cache"]]
    num_hits, num_misses = sum(each.num_hits for each in caches), sum(each.num_misses for each in caches)
    if not num_hits + num_misses:
        return ""
    held = size(sum(each.num_bytes for each in caches))
    return f"response cache: {num_hits:,} hits, {num_misses:,} misses; it holds {held}"
