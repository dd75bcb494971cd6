"""`datahall new`: an application to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from datahall.app.cli.show import AsJson, print_json
from datahall.core.errors import UserError
from datahall.data.draft import app_file, app_name
from datahall.data.examples import EXAMPLES
from datahall.data.guess import guess

command = typer.Typer(add_completion=False)


@command.command()
def new(
    folder: Annotated[Path, typer.Argument(help="The folder to make.", metavar="DIR")],
    template: Annotated[
        str | None, typer.Option("--template", "-t", help=f"What to start from: {', '.join(EXAMPLES.names)}.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="A file of yours; its target and task are guessed, and said.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start an application: from a template, or from a file of yours."""
    if (template is None) == (source is None):
        raise UserError("say --template NAME or --from FILE", hint=f"templates: {', '.join(EXAMPLES.names)}")
    file = folder / "app.yaml"
    if file.exists():
        raise UserError(f"{file} is there already", hint="choose another folder, or remove it first")
    made, notes = _from_template(template, folder) if template else _from_file(source or Path(), folder)
    if as_json:
        print_json({"app_file": str(made), "notes": notes})
        return
    for note in notes:
        typer.echo(f"  {note}")
    typer.echo(f"wrote {made}; look it over, then: datahall run {shlex.quote(str(made))}")


def _from_template(name: str, folder: Path) -> tuple[Path, list[str]]:
    example = EXAMPLES.load(name)
    folder.mkdir(parents=True, exist_ok=True)
    data = example.write(folder)
    file = folder / "app.yaml"
    file.write_text(example.APP_FILE, encoding="utf-8")
    return file, [f"wrote {data}"]


def _from_file(source: Path, folder: Path) -> tuple[Path, list[str]]:
    guessed = guess(source)
    place = folder.resolve()
    named = f"name: {app_name(place.name)}, after the folder '{place.name}'; it becomes part of the address"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "app.yaml"
    file.write_text(app_file(source.resolve(), place, guessed), encoding="utf-8")
    return file, [named, *guessed.reasons]
