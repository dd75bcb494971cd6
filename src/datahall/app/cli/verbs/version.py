"""`datahall version`: what is installed."""

from __future__ import annotations

import platform

import typer

from datahall import __version__
from datahall.app.cli.show import AsJson, print_json

command = typer.Typer(add_completion=False)


@command.command()
def version(as_json: AsJson = False) -> None:
    """Show the version of Datahall and of what it stands on."""
    facts = {"datahall": __version__, "python": platform.python_version(), "platform": platform.platform()}
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        typer.echo(f"{name} {value}")
