"""`datahall provenance`: where an answer came from."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding

from datahall.app.cli.session import connect
from datahall.app.cli.show import AsJson, console, print_json
from datahall.core.hall import HallPaths
from datahall.registry.provenance import Link, Provenance

command = typer.Typer(add_completion=False)


@command.command()
def provenance(
    ctx: typer.Context,
    answer_id: Annotated[str, typer.Argument(help="The answer's id, from the header Datahall-Answer-Id.")],
    as_json: AsJson = False,
) -> None:
    """Follow an answer back to its origins, and prove every link against the signed ledger."""
    paths: HallPaths = ctx.obj
    with connect(paths) as hall:
        found = hall.provenance(answer_id)
    if as_json:
        print_json(found)
    else:
        show_provenance(found)
    raise typer.Exit(0 if found.verified else 1)


def show_provenance(found: Provenance) -> None:
    """Print the way of an answer, the answer first, each link below the one that came of it."""
    out = console()
    for link in found.links:
        indent = 4 if link.noun == "evidence" else 0
        mark = "[green]✓[/green]" if link.proven else "[red]✗[/red]"
        out.print(
            Padding(f"{mark} [bold]{link.noun}[/bold] {escape(_short(link.id))}", (0, 0, 0, indent), expand=False)
        )
        out.print(Padding(f"[dim]{escape(_facts(link))}[/dim]", (0, 0, 0, indent + 2), expand=False))
    out.print(f"\nthe answer's own record: {_record(found)}")
    for problem in found.problems:
        out.print(f"[red]problem:[/red] {escape(problem)}")
    word = "[green]verified[/green]" if found.verified else "[red]NOT verified[/red]"
    out.print(f"{word}: {sum(link.proven for link in found.links)} of {len(found.links)} links proven")


def _record(found: Provenance) -> str:
    if found.record == "kept":
        return "sealed in the ledger" if found.sealed else "not sealed yet; its id proves version and bundle until then"
    versions: list[str] = next((link.facts["versions"] for link in found.links if link.noun == "routes"), [])
    proves = "which version gave it" if len(versions) == 1 else "that one of the versions above gave it"
    why = " (a power cut can take the last 0.1 s)" if found.record == "lost" else ""
    return f"record {found.record}{why}; its id proves {proves}"


def _facts(link: Link) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in link.facts.items() if value not in (None, "", [], {}))


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    text = str(value)
    is_digest = len(text) == 64 and all(character in "0123456789abcdef" for character in text)
    return f"{text[:12]}…" if is_digest else text
