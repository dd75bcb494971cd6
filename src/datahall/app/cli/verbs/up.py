"""`datahall up`: starts the hall."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer

from datahall.app.cli.session import connect
from datahall.app.cli.show import AsJson, console, print_json
from datahall.app.serving import await_answers
from datahall.app.settings import read_settings
from datahall.app.supervision import DEFAULT_PORT, SupervisorState, read_state, start_detached
from datahall.app.supervisor import supervise
from datahall.core.clock import SystemClock
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False)


@command.command()
def up(
    ctx: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start in the background and return.")] = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback lets others reach the hall.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; the next free one if it is busy.", min=1, max=65535)
    ] = DEFAULT_PORT,
    gateways: Annotated[
        int | None, typer.Option(help="How many gateways share the port; without, what hall.toml says.", min=1, max=64)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the hall: control, gateways, and whatever is released."""
    paths: HallPaths = ctx.obj
    paths.create()
    read_settings(paths)  # here, where whoever starts the hall sees what is wrong with them
    running = read_state(paths)
    if running is not None:
        _say(running, "is up already", as_json=as_json)
        return
    if not _is_loopback(host):
        typer.echo(
            f"warning: others can reach {host}; requests are not encrypted, so put a TLS proxy in front", err=True
        )
    if detach:
        state = start_detached(paths, SystemClock(), host=host, port=port, num_gateways=gateways)
        with connect(paths) as hall:
            for app in hall.status().apps:
                if app.deployment is not None:
                    await_answers(paths, state, app.deployment, app.version or app.app, SystemClock())
        _say(state, "is up", as_json=as_json)
        return
    code = supervise(
        paths,
        host,
        port,
        num_gateways=gateways,
        started=lambda state: _say(state, "is up; Ctrl-C stops it", as_json=as_json),
    )
    raise typer.Exit(code)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: only this one is known to stay here
        return host == "localhost"


def _say(state: SupervisorState, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(state)
        return
    console().print(f"the hall {what}: {state.url}")
