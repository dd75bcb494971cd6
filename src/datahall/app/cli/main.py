"""The `datahall` command: finds the verb, runs it, and turns errors into words and exit codes."""

from __future__ import annotations

import difflib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from datahall import __version__
from datahall.core.errors import DatahallError, NotFoundError, SpecError, UserError
from datahall.core.hall import HallPaths
from datahall.core.registry import Registry

VERBS: dict[str, str] = {
    "new": "Start an application: from a template, or from a file of yours.",
    "check": "Read an application file and name everything that is wrong with it.",
    "plan": "Show what a run would do, what it would reuse, and why.",
    "run": "Take an application through its lifecycle, up to answers.",
    "up": "Start the hall: control, gateway, and whatever is released.",
    "ps": "Show what is released, what runs, and where.",
    "predict": "Ask a released application.",
    "provenance": "Follow an answer back to its origins, and prove every link.",
    "verify": "Check the whole ledger, and everything it speaks of.",
    "backup": "Write all of a hall but its keys into one file, while it works.",
    "restore": "Make a hall out of a backup, once all of it is checked.",
    "report": "Write the report of an application's newest verdict as a page.",
    "key": "Issue, list and revoke API keys; rotate the master key.",
    "doctor": "Look the hall over, and take it to the schema of this version.",
    "logs": "Show what a process of the hall has written.",
    "stop": "Stop the hall and every process of it.",
    "version": "Show the version of Datahall and of what it stands on.",
}
"""Verb to its line in the help; the help imports none of their modules."""

STOPPED = 130
"""What a shell makes of SIGINT: 128 + 2."""

_MODULES: Registry[typer.Typer] = Registry("verb", {verb: f"datahall.app.cli.verbs.{verb}:command" for verb in VERBS})


class LazyGroup(TyperGroup):
    """A group that knows its verbs by name and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order of a lifecycle."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what the help needs of a verb."""
        del ctx
        return TyperCommand(name=cmd_name, help=VERBS[cmd_name]) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb that is about to run, imported now. Raises NotFoundError for one that does not exist."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see them all with: datahall --help"
            raise NotFoundError(f"there is no verb '{args[0]}'", hint=hint)
        name, stub, rest = super().resolve_command(ctx, args)
        return name, get_command(_MODULES.load(name)) if stub is not None and name else stub, rest


app = typer.Typer(
    name="datahall",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A self-hosted AI data centre: no traffic without evidence, every answer traceable to its origins.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"datahall {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    hall: Annotated[
        Path | None,
        typer.Option("--hall", metavar="DIR", help="The hall's folder; else DATAHALL_HOME, else ./.datahall."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    del version
    ctx.obj = HallPaths.choose(hall)


def main() -> None:
    """Run the command line; never returns."""
    sys.exit(_exit_code(sys.argv[1:]))


def _exit_code(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        result = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that has left is no error, not at the interpreter's end
    except DatahallError as error:
        _say_error(error, as_json=as_json)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = STOPPED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say_error(
            UserError(f"cannot use it: {error.strerror or error}", where=str(error.filename or "")), as_json=as_json
        )
        return UserError.exit_code
    except Exception as error:  # click's own usage errors have no common base outside typer
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", 2))
    if result == STOPPED:
        print("stopped", file=sys.stderr)  # noqa: T201  (the command line speaks on standard error)
    return result if isinstance(result, int) else 0


def _say_error(error: DatahallError, *, as_json: bool) -> None:
    if as_json:
        said: dict[str, Any] = {
            "error": type(error).__name__,
            "what": error.what,
            "where": error.where,
            "hint": error.hint,
        }
        if isinstance(error, SpecError):
            said["problems"] = [problem.as_dict() for problem in error.problems]
        print(json.dumps(said), file=sys.stderr)  # noqa: T201  (as above)
        return
    print(f"error: {error}", file=sys.stderr)  # noqa: T201  (as above)
