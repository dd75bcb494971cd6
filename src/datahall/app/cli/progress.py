"""How a lifecycle looks while it runs: bars where a person looks, lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from datahall.app.cli.show import coloured, console, duration
from datahall.app.events import BackedUp, Ended, Event, Judged, StepBegan, StepEnded, StepProgressed
from datahall.core.clock import SystemClock
from datahall.core.ports import Clock

SAY_EVERY_S = 20


class PlainProgress:
    """A line for each step that ended, and one in 20 s of a long one; with `as_json`, each event on standard error."""

    def __init__(self, *, as_json: bool = False, clock: Clock | None = None) -> None:
        self._as_json = as_json
        self._console = console()
        self._clock = clock or SystemClock()
        self._said_ns = self._clock.monotonic_ns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def notify(self, event: Event) -> None:
        """Show one event."""
        if self._as_json:
            sys.stderr.write(msgspec.json.encode(event).decode() + "\n")
        elif isinstance(event, StepProgressed):
            self._show_progress(event)
        else:
            self._said_ns = self._clock.monotonic_ns()
            show_event(event, self._console)

    def _show_progress(self, event: StepProgressed) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._said_ns >= SAY_EVERY_S * 10**9:
            self._said_ns = now_ns
            progress = event.progress
            self._console.print(
                f"  [dim]{event.name}: {progress.done:g} of {progress.total:g} {progress.message}[/dim]"
            )


class RichProgress:
    """A bar for the running step, a line for each that ended."""

    def __init__(self) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[said]}", style="dim"),
            TimeElapsedColumn(),
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, trace)

    def notify(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, StepBegan):
            self._task = self._bars.add_task(event.name, total=None, said="")
        elif isinstance(event, StepProgressed) and self._task is not None:
            progress = event.progress
            self._bars.update(
                self._task, completed=progress.done, total=progress.total or None, said=progress.message[:60]
            )
        elif isinstance(event, StepEnded) and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        show_event(event, self._bars.console)


def show_event(event: Event, out: Console) -> None:
    """Print what an event leaves behind for good: a step that ended, a verdict."""
    if isinstance(event, StepEnded):
        mark = {"ran": "[green]✓[/green]", "reused": "[blue]=[/blue]", "skipped": "[yellow]-[/yellow]"}[event.how]
        took = f" [dim]({duration(event.took_s)})[/dim]" if event.how == "ran" else ""
        summary = event.summary if event.how == "ran" else f"{event.how}{': ' if event.summary else ''}{event.summary}"
        out.print(f"{mark} [bold]{event.name:<20}[/bold] {escape(summary)}{took}")
    elif isinstance(event, Judged):
        show_verdict(event, out)
    elif isinstance(event, Ended | BackedUp):
        return


def show_verdict(event: Judged, out: Console) -> None:
    """Print what the gate said about one candidate, claim by claim, with the reason of each bound."""
    out.print(f"  [bold]{event.name}[/bold] ({event.candidate}): {coloured(event.outcome)}")
    for finding in event.findings:
        line = f"{coloured(finding['outcome'])} [bold]{finding['claim']}[/bold]: {escape(finding['reason'])}"
        out.print(Padding(line, (0, 0, 0, 4), expand=False))
        if finding.get("why") and finding["outcome"] != "pass":
            out.print(Padding(f"[dim]why this bound: {escape(finding['why'])}[/dim]", (0, 0, 0, 6), expand=False))
