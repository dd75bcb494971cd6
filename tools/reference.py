"""Write docs/reference from the code, so that no page can say what the code does not.

Usage: python tools/reference.py   (`make docs`)
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast, get_args

from typer.main import get_command

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE = "<!-- Written by `make docs` from the code; change that, not this. -->\n"

ENTRY_MEANINGS = {
    "hall.created": "a hall was made: its keys and its owner",
    "key.issued": "an API key was made; only the SHA-256 of its text is kept",
    "key.revoked": "an API key holds no longer",
    "app.declared": "an application file was accepted, with the policy that follows from it",
    "environment.seen": "packages, interpreter and machine class under which steps run from here on",
    "step.started": "a step of a lifecycle began",
    "step.completed": "a step ended and its outputs are there; with it come the records that it made",
    "step.failed": "a step ended without outputs, with the reason",
    "step.interrupted": "a step was found running though its process was gone",
    "holdout.opened": "a look at a holdout began; counted before any figure exists",
    "verdict.given": "the gate decided over a candidate",
    "version.registered": "a candidate passed and got its number",
    "version.revoked": "a version may not have traffic any more",
    "deployment.opened": "a version is to have traffic",
    "deployment.retired": "a deployment has no traffic any more",
    "replica.started": "a replica process was started",
    "replica.changed": "a replica became ready, drains or is gone",
    "routes.published": "the route table has a new revision",
    "blobs.condemned": "objects that no artifact names may be removed; nothing can name them any more",
    "blobs.pardoned": "condemned objects were named by an act just before, and stay",
    "artifact.erased": "an artifact was erased: the only copy of its data key is gone, and its object follows",
    "keys.rotated": "a new master key wraps data keys from now on, or the old ones were destroyed",
    "keys.rewrapped": "data keys were wrapped anew under the newest master key",
    "keys.retired": "old master keys are about to be destroyed; no act can name a data key under one any more",
    "run.answered": "a lifecycle that was asked for with an idempotency key has ended; its answer is kept",
    "answers.sealed": "a closed segment of the answer log was taken into the blob store; the entry holds its Merkle root",
    "answers.erased": "records of answers were erased from a segment; their leaves and the segment's root stay",
    "entry.void": "no act: a number whose transaction ended without one, closed so that the tree can go on (Postgres)",
}

HTTP_MEANINGS = {
    "healthz": "200 while the process lives",
    "readyz": "200 while it takes requests, with the revision of its route table; 503 while it drains",
    "server": "Open Inference Protocol: name, version and extensions of the server",
    "live": "Open Inference Protocol: liveness",
    "ready": "Open Inference Protocol: readiness",
    "model": "Open Inference Protocol: versions, inputs and outputs of an application",
    "model_ready": "Open Inference Protocol: whether an application has a replica that answers",
    "infer": "Open Inference Protocol: an inference; tensors in, tensors out",
    "predict": 'plain JSON: `{"rows": [{"column": value, ...}]}` in, one prediction a row out',
    "invoke": 'MLflow\'s scoring protocol, version 2: rows in, `{"predictions": [...]}` out',
    "version": "the version of Datahall",
}

PROTOCOLS_TEXT = """### Open Inference Protocol

Tensors may be binary, in requests and in answers (the extension `binary_tensor_data`, which tritonclient uses unless told otherwise):
numbers are little-endian, and a NaN stands for a missing value, as null does in JSON. An answer to a request with `binary_data_output`, or
with `binary_data` at an output, has the header `Inference-Header-Content-Length` and the type `application/octet-stream`. The parameters
`classification`, `sequence_id` and `shared_memory_region` are refused; others say nothing here.

### MLflow

An application whose `serve.protocols` lists `mlflow` takes a JSON object (`Content-Type: application/json`) with one of
`dataframe_split`, `dataframe_records`, `instances` and `inputs`. Rows without names have the model's order of columns. `params` are refused, and
NaN, which MLflow's clients write, is null. Predictions are labels or values. Errors have `error_code` and `message` too.
`/invocations` alone asks the application that the header `Datahall-App` names or, without it, the only one that the key may ask in this protocol.
For clients that have no place for a bearer, every route of the gateway takes the key as the password of `Authorization: Basic` too (a URL
`http://key:dh_...@host:7400`); `mlflow.deployments` takes it from `MLFLOW_TRACKING_TOKEN`."""

HTTP_EXAMPLES = """## Examples

The hall of the [tutorial](../tutorial.md) answers, and `rows.json` is the file from there. A program gets a key of its own; its text is
shown once, and the hall keeps only a hash:

```console
$ KEY=$(datahall key issue "my program" --scope predict:tumours --scope read --days 30)
```

Plain JSON, a list of rows in, one prediction a row out:

```console
$ curl -s -H "Authorization: Bearer $KEY" -d @rows.json http://127.0.0.1:7400/predict/tumours
{"id":"ANSWER_ID",...benign...
```

The Open Inference Protocol takes one tensor a feature or, where every feature is a number, one tensor `input` with the features in the
order of the table. `GET /v2/models/tumours` tells names, types and order.

```json v2.json
{"inputs": [{"name": "input", "shape": [1, 30], "datatype": "FP64", "data": [
  13.54, 14.36, 87.46, 566.3, 0.09779, 0.08129, 0.06664, 0.04781, 0.1885, 0.05766,
  0.2699, 0.7886, 2.058, 23.56, 0.008462, 0.0146, 0.02387, 0.01315, 0.0198, 0.0023,
  15.11, 19.26, 99.7, 711.2, 0.144, 0.1773, 0.239, 0.1288, 0.2977, 0.07259
]}]}
```

```console
$ curl -s -H "Authorization: Bearer $KEY" http://127.0.0.1:7400/v2/models/tumours
{"name":"tumours",...
$ curl -s -H "Authorization: Bearer $KEY" -d @v2.json http://127.0.0.1:7400/v2/models/tumours/infer
{"model_name":"tumours",...benign...
```

Where an answer came from, each link proven (scope `read`):

```console
$ curl -s -H "Authorization: Bearer $KEY" http://127.0.0.1:7400/api/v1/answers/ANSWER_ID/provenance
{...ANSWER_ID...
```

What is wrong is said:

```console
$ curl -s -H "Authorization: Bearer $KEY" -d "{}" http://127.0.0.1:7400/predict/tumours
{"error":...
```"""

CONTROL_TEXT = (
    "The gateway passes everything else on to control, byte for byte. While control is down these answer 503, and the routes "
    "above go on.\n\nEvery call that changes something, but a backup, takes the header `Idempotency-Key: TEXT` (a UUID, say): sent again with the same "
    "key, by the same caller, it does nothing and gets the first answer once more, with `Idempotency-Replayed: true`; the same key with "
    "another request is 409. Answers are kept for the last 100,000 acts, sealed."
)
CONTROL_MEANINGS = {
    "healthz": "200 while control lives",
    "plan": "what a run of `file` would do, what it would reuse, and why",
    "run": "runs `file` through its lifecycle; the body is one JSON event a line, and whoever leaves stops it",
    "status": "what is released, what runs, and where",
    "provenance": "an answer's way back to its origins, each link proven",
    "report": "the report of an application's newest verdict, as a page",
    "backup": "writes all of the hall but its keys into `file` on its machine, one that is there only if it is a backup and "
    "`replace` is true; the body is one JSON event a line, and whoever leaves stops it",
    "list_keys": "the API keys, without their text",
    "issue_key": "a new API key; its text is shown this once",
    "rotate_keys": "every data key lies under a new master key; `retire` destroys the old ones",
    "revoke_key": "the key holds no longer",
}

KIND_NAMES = {int: "whole number", float: "number", Path: "path"}


def main() -> int:
    """Write every page; return the exit status."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / f"{name}.md").write_text(page(), encoding="utf-8")
    return 0


def entries_page() -> str:
    """The kinds of ledger entries."""
    from datahall.core.records import EntryKind  # noqa: PLC0415  (each page imports what it shows)

    rows = [(f"`{kind}`", ENTRY_MEANINGS[kind]) for kind in get_args(EntryKind)]
    text = (
        "Every act that changes the catalogue writes one entry, in the same transaction. An entry names the actor, the "
        "application, the time, and each record that it touched with that record's digest; its canonical JSON is one "
        "leaf of the Merkle tree (RFC 6962). `datahall verify` recomputes all of it."
    )
    return page_of("Ledger entries", text, table(("kind", "when"), rows))


def ports_page() -> str:
    """The ports, their methods and what these promise."""
    from datahall.core import ports  # noqa: PLC0415  (each page imports what it shows)

    text = (
        "Packages know these Protocols; `app/wiring` hands in a backend that fulfils them. A backend is one file, and done "
        "when it passes the contract suite of its port in `datahall.testing`."
    )
    parts = [text]
    for name in ports.__all__:
        port = getattr(ports, name)
        if not getattr(port, "_is_protocol", False):
            continue
        parts.append(f"## {name}\n\n{inspect.getdoc(port)}")
        methods = [(key, value) for key, value in vars(port).items() if not key.startswith("_")]
        rows = [(f"`{signature(key, value)}`", one_line(doc_of(value))) for key, value in methods]
        parts.append(table(("method", "does"), rows))
    return page_of("Ports", *parts)


def cli_page() -> str:
    """The verbs of the command line and their options."""
    from datahall.app.cli.main import VERBS, app  # noqa: PLC0415  (each page imports what it shows)

    text = (
        "`datahall VERB --help` says the same. Every verb takes the hall from `--hall DIR` (before the verb), then from "
        "`DATAHALL_HOME`, then from `./.datahall`. Exit codes: 0 done, 1 something failed, 2 the input is wrong, 3 the gate "
        "refused, 4 try again later, 130 stopped by Ctrl-C."
    )
    root = get_command(app)
    parts = [text, table(("option", "type", "default", "meaning"), option_rows(root))]
    for verb, meaning in VERBS.items():
        parts.append(f"## {verb}\n\n{meaning}")
        if importlib.util.find_spec(f"datahall.app.cli.verbs.{verb}") is None:
            continue
        command = get_command(importlib.import_module(f"datahall.app.cli.verbs.{verb}").command)
        parts.append(f"```text\n{usage(verb, command)}\n```")
        for name, below in getattr(command, "commands", {}).items():
            parts.append(
                f"### {verb} {name}\n\n{first_line(below.help)}\n\n```text\n{usage(f'{verb} {name}', below)}\n```"
            )
            parts += [table(("option", "type", "default", "meaning"), rows) for rows in [option_rows(below)] if rows]
        if not hasattr(command, "commands"):
            parts += [table(("option", "type", "default", "meaning"), rows) for rows in [option_rows(command)] if rows]
    return page_of("Command line", *parts)


def usage(verb: str, command: Any) -> str:
    """One line: the verb and its arguments."""
    words = ["datahall", verb]
    if any(parameter.param_type_name == "option" for parameter in command.params):
        words.append("[OPTIONS]")
    words += [argument_name(each) for each in command.params if each.param_type_name == "argument"]
    return " ".join(words)


def argument_name(argument: Any) -> str:
    """An argument as the help shows it, without typer's colours."""
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name.strip('[]')}]"


def option_rows(command: Any) -> list[tuple[str, str, str, str]]:
    """One row an argument or option; what every command has (`--help`) is left out."""
    rows = []
    for each in command.params:
        if each.name in {"help", "install_completion", "show_completion"}:
            continue
        argument = each.param_type_name == "argument"
        names = argument_name(each) if argument else ", ".join([*each.opts, *each.secondary_opts])
        kind = "flag" if getattr(each, "is_flag", False) else KIND_NAMES.get(each.type_descriptor.annotation, "text")
        empty = each.default in (None, False, (), []) or callable(each.default)
        default = "required" if each.required else ("" if empty else f"`{each.default}`")
        rows.append((f"`{names}`", kind, default, getattr(each, "help", "") or ""))
    return rows


def first_line(text: str | None) -> str:
    """The first paragraph of a help text."""
    return (text or "").split("\n\n")[0]


def http_page() -> str:
    """The routes and their permissions."""
    from datahall.serve.routes import HOT_ROUTES  # noqa: PLC0415  (each page imports what it shows)

    text = (
        "One port (7400, or the next free one) serves everything. A key goes into `Authorization: Bearer dh_...` or "
        "`X-API-Key`, which counts where there is no bearer; a route without `public` answers 401 without one, 403 where the "
        "key lacks the permission, and 404 where the application belongs to another team. A key reaches and sees what is its "
        "team's alone; the owner's key reaches every team. Each answer carries its id in the header `Datahall-Answer-Id`. An error's "
        "body is JSON: `error` says what was wrong, `hint` what to do.\n\n"
        "Refused for now, with `Retry-After` in seconds: 429 where the own quota is used up, 503 where there is no room "
        "([why and when](../explanation/gateway.md#who-may-come-in)). An answer that is given again from the "
        "[cache](../capabilities/25-throughput.md#answers-given-again) has `Datahall-Cache: hit`; a request with "
        "`Cache-Control: no-cache` gets one of its own."
    )
    rows = [(route.method, f"`{route.path}`", route.permission, HTTP_MEANINGS[route.action]) for route in HOT_ROUTES]
    head = ("method", "path", "permission", "answers")
    parts = [text, "## Routes of the gateway", table(head, rows), PROTOCOLS_TEXT]
    if importlib.util.find_spec("datahall.app.http.api") is not None:
        parts += ["## Routes of control", CONTROL_TEXT, table(head, control_rows())]
    parts.append(HTTP_EXAMPLES)
    return page_of("HTTP", *parts)


def control_rows() -> list[tuple[str, str, str, str]]:
    """One row a route of the control API; nothing is called, so it needs no hall."""
    from datahall.app.http.api import make_api  # noqa: PLC0415  (each page imports what it shows)

    nothing: Any = None
    return [
        (method, f"`{route.path}`", route.endpoint.permission, CONTROL_MEANINGS[route.name])
        for route in cast("Any", make_api(nothing, nothing, nothing).routes)
        for method in sorted(route.methods - {"HEAD"})
    ]


def spec_page() -> str:
    """The keys of the application file."""
    from datahall.spec.describe import describe  # noqa: PLC0415  (each page imports what it shows)

    text = (
        "The whole file, key by key. `<name>` stands for a name that you choose, `[]` for each item of a list. Every key has "
        "a default but those marked required. An unknown key, a wrong type or an impossible bound is an error with file, line "
        "and column; all errors are named at once. The settings of each model and each claim stand on their own pages: "
        "[models](models.md), [claims](claims.md)."
    )
    parts = [text]
    keys = list(describe())
    sections = [key.path for key in keys if key.type == "section" and "." not in key.path]
    for title in ["Head", *sections]:
        below = [key for key in keys if key.path.partition(".")[0] == title]
        if title == "Head":
            below = [key for key in keys if "." not in key.path and key.path not in sections]
        rows = [(f"`{key.path}`", key.type, code(key.default), key.description) for key in below]
        parts.append(f"## {title}\n\n{table(('key', 'takes', 'default', 'meaning'), rows)}")
    return page_of("The application file", *parts)


def models_page() -> str:
    """The model kinds and their settings."""
    from datahall.train import MODELS  # noqa: PLC0415  (each page imports what it shows)

    text = "What a candidate's `model` may be. The keys `model` and `search` belong to every candidate; the others are the model's own."
    parts = [text]
    for name in MODELS.names:
        config = MODELS.load(name)
        parts.append(f"## {name}\n\n{inspect.getdoc(config)}\n\nTasks: {', '.join(config.TASKS)}.")
        parts.append(settings_table(config))
    return page_of("Models", *parts)


def claims_page() -> str:
    """The claim kinds, their metrics and their settings."""
    from datahall.evaluate import CLAIMS  # noqa: PLC0415  (each page imports what it shows)

    text = (
        "What a policy may demand. Every claim has `kind`, `metric`, a bound (`at_least` or `at_most`), `confidence` and a "
        "`reason`; the gate compares the one-sided confidence bound with the bound, never the estimate. The other keys are "
        "the claim's own."
    )
    parts = [text]
    for name in CLAIMS.names:
        config = CLAIMS.load(name)
        parts.append(f"## {name}\n\n{inspect.getdoc(config)}\n\nTasks: {', '.join(config.TASKS)}.")
        defaults = {metric: task for task, metric in config.DEFAULT_METRIC.items()}
        rows = [
            (
                f"`{metric}`",
                direction,
                ", ".join(config.METRIC_TASKS.get(metric, config.TASKS)),
                "yes" if metric in defaults else "",
            )
            for metric, direction in config.METRICS.items()
        ]
        parts.append(table(("metric", "bound", "tasks", "default"), rows))
        parts.append(settings_table(config))
    return page_of("Claims", *parts)


def settings_table(config: Any) -> str:
    """The fields of a pydantic class, one a row."""
    from datahall.spec.fields import type_text  # noqa: PLC0415  (each page imports what it shows)

    rows = [
        (f"`{name}`", type_text(field.annotation), default_of(field), field.description or "")
        for name, field in config.model_fields.items()
    ]
    return table(("key", "type", "default", "meaning"), rows) if rows else "It has no settings of its own."


def default_of(field: Any) -> str:
    """A field's default as the application file would write it."""
    return code("required" if field.is_required() else plain_value(field.get_default(call_default_factory=True)))


def code(default: str) -> str:
    """A default as a cell: what has to be typed in code, `required` in words."""
    return default if default in {"", "required"} else f"`{default}`"


def plain_value(value: Any) -> str:
    """A default as YAML would write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value in ((), []) else str(value)


def signature(name: str, value: Any) -> str:
    """A method's call, without `self`; a property's name alone."""
    if isinstance(value, property):
        return name
    whole = inspect.signature(value)
    own = whole.replace(parameters=list(whole.parameters.values())[1:])
    return f"{name}{own}".replace("'", "").replace("|", "or")


def doc_of(value: Any) -> str:
    """The docstring of a method or a property."""
    return inspect.getdoc(value.fget if isinstance(value, property) else value) or ""


def one_line(text: str) -> str:
    """Text that fits into a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    names = list(head)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(one_line(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def page_of(title: str, *parts: str) -> str:
    """A page: title, note, parts."""
    return "\n\n".join([f"# {title}", NOTE.rstrip(), *parts]) + "\n"


def settings_page() -> str:
    """The keys of `hall.toml`."""
    from datahall.app.settings import describe  # noqa: PLC0415  (each page imports what it shows)

    text = (
        "A hall may have a file `hall.toml` in its folder. Every key has a default, so a hall on one machine needs none. An "
        "unknown key, a wrong value, and a store that this Datahall cannot use are errors with file and key, never passed "
        "over. Nobody else may be able to change the file; where it holds a secret nobody else may be able to read it. It "
        "belongs to the machine, so it is in no [backup](../backup.md).\n\n"
        "What it says of teams is taken up within a second while the hall runs; a file that is wrong by then leaves the rules "
        "of before, and `datahall ps` says so. Everything else is read when the hall starts. `datahall up --gateways N` goes "
        "before `gateways`."
    )
    rows = [(f"`{setting.key}`", setting.takes, setting.description) for setting in describe()]
    return page_of("Settings", text, table(("key", "takes", "meaning"), rows))


PAGES: dict[str, Callable[[], str]] = {
    "claims": claims_page,
    "cli": cli_page,
    "entries": entries_page,
    "http": http_page,
    "models": models_page,
    "ports": ports_page,
    "settings": settings_page,
    "spec": spec_page,
}

if __name__ == "__main__":
    sys.exit(main())
