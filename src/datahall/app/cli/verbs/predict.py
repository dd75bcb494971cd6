"""`datahall predict`: asks a released application."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer

from datahall.app.cli.session import owner_key
from datahall.app.cli.show import AsJson, console, print_json, table
from datahall.app.supervision import read_state
from datahall.core.errors import DataError, NotFoundError, UnavailableError, UserError
from datahall.core.hall import HallPaths

command = typer.Typer(add_completion=False)


@command.command()
def predict(
    ctx: typer.Context,
    app: Annotated[str, typer.Argument(help="The application's name.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(help="column=value for each column of one row; nothing behind the = is a missing value."),
    ] = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="A JSON file with one row or a list of rows; - is standard input.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a released application, with one row given as column=value or with rows from a JSON file."""
    paths: HallPaths = ctx.obj
    state = read_state(paths)
    if state is None:
        raise UnavailableError(f"no hall is up in {paths.root}", hint="start it with: datahall up -d")
    body = {"rows": _rows(values or [], rows)}
    try:
        said = httpx.post(
            f"{state.url}/predict/{app}",
            content=msgspec.json.encode(body),
            headers={"Authorization": f"Bearer {owner_key(paths)}", "Content-Type": "application/json"},
            timeout=60.0,
        )
    except httpx.HTTPError as error:
        raise UnavailableError(f"the hall does not answer: {error}", hint="see: datahall ps") from error
    answer: dict[str, Any] = msgspec.json.decode(said.content)
    if said.status_code >= 400:
        kind = {404: NotFoundError, 503: UnavailableError}.get(said.status_code, DataError)
        raise kind(str(answer.get("error", said.status_code)), where=app, hint=str(answer.get("hint", "")))
    if as_json:
        print_json(answer)
        return
    show_answer(answer)


def show_answer(answer: dict[str, Any]) -> None:
    """Print an answer as people read it."""
    lines = table("row", "answer", "how sure")
    for number, item in enumerate(answer["predictions"], start=1):
        if "label" in item:
            probabilities = sorted(item.get("probabilities", {}).items(), key=lambda pair: -pair[1])[:3]
            sure = ", ".join(f"{name} {value:.1%}" for name, value in probabilities)
            lines.add_row(str(number), f"[bold]{item['label']}[/bold]", sure)
        else:
            value, *ends = figures(item)
            lines.add_row(str(number), f"[bold]{value}[/bold]", " to ".join(ends))
    console().print(lines)
    console().print(f"\nversion {answer['version']}; its origins: datahall provenance {answer['id']}")


def figures(item: dict[str, Any]) -> list[str]:
    """Return an answer's value and the ends of its interval, alike exact: the width gets three digits."""
    if "lower" not in item:
        return [f"{item['value']:.6g}"]
    width = item["upper"] - item["lower"]
    if not 1e-6 < width < 1e9:
        return [f"{item[name]:.6g}" for name in ("value", "lower", "upper")]
    places = max(0, 2 - math.floor(math.log10(width)))
    return [f"{item[name] + 0.0:.{places}f}" for name in ("value", "lower", "upper")]


def _rows(values: list[str], file: Path | None) -> list[dict[str, Any]]:
    if bool(values) == (file is not None):
        raise UserError("give one row as column=value, or --rows FILE", hint="datahall predict APP --rows rows.json")
    if file is None:
        return [_row(values)]
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        said = msgspec.json.decode(data)
    except OSError as error:
        raise UserError(f"cannot read it: {error.strerror}", where=str(file)) from error
    except msgspec.DecodeError as error:
        hint = 'write rows as JSON: {"rows": [{"column": value, ...}]}; one row can also be given as column=value'
        raise UserError(f"this is not JSON: {error}", where=str(file), hint=hint) from error
    if isinstance(said, dict) and isinstance(said.get("rows"), list):
        said = said["rows"]
    rows = said if isinstance(said, list) else [said]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError("each row is an object of column and value", where=str(file))
    return rows


def _row(values: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for text in values:
        name, value = _pair(text)
        if name in row:
            raise UserError(f"'{name}' is given twice")
        row[name] = value
    return row


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"'{text}' is not column=value")
    if not value:
        return name, None  # as in a CSV file: nothing there is a missing value
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value
