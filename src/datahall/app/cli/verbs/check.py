"""`datahall check`: every mistake of an application file at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datahall.app.cli.show import AsJson, print_json
from datahall.app.kinds import KINDS
from datahall.app.planning import read_app
from datahall.data.rehearse import rehearse
from datahall.spec.load import Loaded

command = typer.Typer(add_completion=False)
MAX_CHECKED_BYTES = 16 << 20
"""Of tables up to this size every row is checked, which takes about a second."""

AppFile = Annotated[Path, typer.Argument(help="The application file.", metavar="APP.YAML")]


@command.command()
def check(file: AppFile = Path("app.yaml"), as_json: AsJson = False) -> None:
    """Read an application file and name everything that is wrong with it: file:line:column, key, what was expected.

    Of tables up to 16 MiB every row is checked, as a run would do it; of larger ones the head.
    """
    loaded = read_app(file, KINDS)
    spec = loaded.spec
    num_rows = _num_rows(loaded)
    if as_json:
        print_json({"ok": True, "app": spec.name, "digest": spec.digest(), "num_rows_checked": num_rows})
        return
    found = (
        "nor with the head of each table (a run checks every row)"
        if num_rows is None
        else f"nor with its {num_rows:,} rows"
    )
    typer.echo(
        f"{file}: {spec.name} is a {spec.task} of {spec.data.target}; {len(spec.train.candidates)} candidate(s), "
        f"{len(spec.evaluate.claims)} claim(s); nothing is wrong with it, {found}"
    )


def _num_rows(loaded: Loaded) -> int | None:
    """Return how many rows a run would use, None where the tables are too large for a quick look at all of them."""
    if sum(path.stat().st_size for path in loaded.source_paths) > MAX_CHECKED_BYTES:
        return None
    return rehearse(loaded.source_paths, loaded.spec.data, loaded.spec.task).num_rows
