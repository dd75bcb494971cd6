"""The demonstration: a table's whole lifecycle in a fresh hall, with the commands that anybody would type."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from datahall.app.cli.show import console, table
from datahall.app.cli.verbs.run import REFUSED
from datahall.app.kinds import KINDS
from datahall.core.errors import DatahallError
from datahall.data.examples import EXAMPLES
from datahall.spec.load import load

BETTER = "    logistic:"
"""Where the second candidate begins in the template's file; the first run goes without it."""


class Demo:
    """One demonstration in a folder of its own; `say` explains, `do` runs a command and shows what it prints."""

    def __init__(self, folder: Path, out: Console) -> None:
        self._folder = folder
        self._out = out
        # Nothing is left outside the folder: the witness, which belongs outside a hall, lies beside it here.
        self._environment = {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "DATAHALL_HOME": str(folder / "hall"),
        }
        self._environment.setdefault("COLUMNS", str(min(out.width, 110)))

    def say(self, title: str, text: str) -> None:
        """Explain what comes next."""
        self._out.print()
        self._out.print(
            Panel(
                escape(text), title=f"[bold]{escape(title)}[/bold]", title_align="left", width=min(self._out.width, 110)
            )
        )

    def do(self, *arguments: str, expect: int = 0, quiet: bool = False) -> str:
        """Run `datahall ARGUMENTS`, show it, and return what it printed.

        Raises DatahallError where it ends with another status than `expect`.
        """
        if not quiet:
            self._out.print(f"\n[bold cyan]$ datahall {escape(' '.join(arguments))}[/bold cyan]")
        done = subprocess.run(  # noqa: S603  (our own interpreter and module)
            [sys.executable, "-m", "datahall.app.cli", *arguments],
            cwd=self._folder,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if not quiet:
            self._out.print(escape(done.stdout.rstrip()))
        if done.returncode != expect:
            raise DatahallError(
                f"'datahall {' '.join(arguments)}' ended with {done.returncode} instead of {expect}",
                where=str(self._folder),
                hint=done.stdout[-500:] if quiet else "its words stand above",
            )
        return done.stdout


def main(arguments: list[str]) -> int:
    """Run the demonstration in the folder that the first argument names; return the exit status."""
    folder = Path(arguments[0] if arguments else "build/demo").resolve()
    out = console()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    demo = Demo(folder, out)
    try:
        _tell(demo, folder, out)
    except DatahallError as error:
        out.print(f"[red]error:[/red] {escape(str(error))}")
        return 1
    finally:
        demo.do("stop", quiet=True)
    _part(folder, out)
    return 0


def _tell(demo: Demo, folder: Path, out: Console) -> None:
    text = EXAMPLES.load("tumours").APP_FILE
    demo.say(
        "1. One file describes the application",
        "569 real cases, 30 measurements each: is the tumour malignant? The file says where the rows are, which "
        "models to try, and, before any of them is fitted, what a model must prove to answer anybody, and why.",
    )
    demo.do("new", "tumours", "--template", "tumours")
    file = folder / "tumours" / "app.yaml"
    assert BETTER in text, "the template has a second candidate"
    before, after = text.split(BETTER, 1)
    file.write_text(before + after[after.index("  seeds:") :])
    _show_claims(file, out)
    demo.say(
        "2. A first candidate",
        "A small forest over three measurements that a person could judge by eye. It is trained under five seeds, "
        "exported, and measured once on rows that no training has seen.",
    )
    demo.do("run", "--yes", "tumours/app.yaml", expect=REFUSED)
    demo.say(
        "3. A better one",
        "Refused: there is no traffic without evidence. Now the file gets a second candidate, a logistic model over all "
        "30 measurements. The claims stay as they were. What was done already is reused; the second look at the held-out "
        "rows costs confidence, so the same proof has become harder.",
    )
    file.write_text(text)
    demo.do("plan", "tumours/app.yaml")
    demo.do("run", "--yes", "tumours/app.yaml")
    demo.say("4. It answers", "Over HTTP, as the Open Inference Protocol or as plain JSON; here from the command line.")
    write_rows(folder)
    answered = demo.do("predict", "tumours", "--rows", "three-cases.json")
    answer_id = re.search(r"ans_[\w-]+", answered)
    assert answer_id, "an answer names its id"
    demo.say(
        "5. Every answer can be followed back",
        "From the answer's id to the process that gave it, the version, the evidence, the run, its seeds and code, "
        "down to the digests of the rows. Each link is proven against a signed Merkle tree; nothing is looked up elsewhere.",
    )
    demo.do("provenance", answer_id.group())
    demo.do("verify")
    demo.do("report", "tumours")


def _show_claims(file: Path, out: Console) -> None:
    lines = table("claim", "must be", "because")
    for claim in load(file, KINDS).spec.evaluate.claims:
        side = claim.direction.replace("_", " ")
        lines.add_row(claim.name, f"{claim.metric} {side} {claim.bound:g}", claim.reason or "")
    out.print(lines)


def write_rows(folder: Path) -> None:
    """Write three of the example's cases, without their diagnosis, as `three-cases.json`."""
    with (folder / "tumours" / "tumours.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[18:21]
    inputs = [{name: float(value) for name, value in row.items() if name != "diagnosis"} for row in rows]
    (folder / "three-cases.json").write_bytes(msgspec.json.encode(inputs))


def _part(folder: Path, out: Console) -> None:
    out.print(
        f"\n[bold green]That was the whole lifecycle.[/bold green] The hall has stopped; everything lies in {folder}"
    )
    out.print(f"  look at   {folder / 'hall' / 'reports' / 'tumours.html'}")
    command = Path(sys.executable).with_name("datahall")
    datahall = os.path.relpath(command) if command.exists() else "datahall"
    out.print(f"  go on     {datahall} new mine --from your.csv && {datahall} run mine/app.yaml")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
