"""`datahall check`: every mistake of an application file at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datahall.app.cli.show import AsJson, print_json
from datahall.app.kinds import KINDS
from datahall.app.planning import read_app

command = typer.Typer()
AppFile = Annotated[Path, typer.Argument(help="The application file.", metavar="APP.YAML")]


@command.command()
def check(file: AppFile = Path("app.yaml"), as_json: AsJson = False) -> None:
    """Read an application file and name everything that is wrong with it: file:line:column, key, what was expected."""
    spec = read_app(file, KINDS).spec
    if as_json:
        print_json({"ok": True, "app": spec.name, "digest": spec.digest()})
        return
    typer.echo(
        f"{file}: {spec.name} is a {spec.task} of {spec.data.target}; {len(spec.train.candidates)} candidate(s), "
        f"{len(spec.evaluate.claims)} claim(s); nothing is wrong with it"
    )
