"""Reads the code for its durable steps: which failpoints there are, and who goes around `core/durable.py`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "datahall"
DOOR = SRC / "core" / "durable.py"
OS_CALLS = "fsync fdatasync sync rename renames replace link unlink remove symlink truncate"
SYSTEM_CALLS = {"shutil.move", *(f"os.{name}" for name in OS_CALLS.split())}
PATH_CALLS = {"rename": 1, "replace": 1, "hardlink_to": 1, "unlink": 0, "symlink_to": 1}
"""Methods of a Path, with how many arguments they take: `str.replace` takes two."""
COMMIT = re.compile(r"(^|;)\s*(COMMIT|END)\b", re.IGNORECASE)


class Step(NamedTuple):
    """One durable step that the code names: its failpoint without `:before` and `:after`, and where it is."""

    name: str
    place: str


def trees(folder: Path = SRC) -> dict[Path, ast.Module]:
    """Return every module of the product."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


def steps(modules: dict[Path, ast.Module]) -> list[Step]:
    """Return the steps of every call that names one, through helpers that hand their own `at` on."""
    helpers = _helpers(modules)
    return [
        Step(name, f"{path.relative_to(SRC)}:{call.lineno}")
        for path, module in modules.items()
        if path != DOOR
        for call in _calls(module)
        for name in _named_by(call, helpers)
    ]


def unnamed(modules: dict[Path, ast.Module]) -> list[str]:
    """Return each call of a durable step whose name is neither a literal nor its function's own `at`."""
    helpers = _helpers(modules)
    return [
        f"{path.relative_to(SRC)}:{call.lineno}"
        for path, module in modules.items()
        if path != DOOR
        for call in _calls(module)
        if _is_step(call) or (_name(call) in helpers and _at(call) is not None)
        if not list(_named_by(call, helpers)) and not _hands_on(call)
    ]


def goes_around(modules: dict[Path, ast.Module]) -> list[str]:
    """Return each call that syncs, renames, links, removes or commits without going through `core/durable.py`."""
    return [
        f"{path.relative_to(SRC)}: {ast.unparse(found)}"
        for path, module in modules.items()
        if path != DOOR
        for found in _around(module)
    ]


def _around(module: ast.Module) -> Iterator[ast.AST]:
    names, steps = _imported(module), [call for call in _calls(module) if _is_step(call)]
    handed = {id(argument) for call in steps for argument in call.args}
    yield from (call for call in _calls(module) if id(call) not in handed and _is_around(call, names))
    contexts = (node for node in ast.walk(module) if isinstance(node, ast.withitem))
    yield from (context for context in contexts if _commits_at_its_end(context.context_expr))


def _is_around(call: ast.Call, names: dict[str, str]) -> bool:
    return _full_name(call.func, names) in SYSTEM_CALLS or _is_path_call(call) or _is_commit(call)


def _imported(module: ast.Module) -> dict[str, str]:
    """Return what a module's names stand for: `from os import fsync as sync` makes `sync` stand for `os.fsync`."""
    names = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    return names


def _full_name(called: ast.expr, names: dict[str, str]) -> str:
    first, dot, rest = ast.unparse(called).partition(".")
    return f"{names.get(first, first)}{dot}{rest}"


def _is_path_call(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in PATH_CALLS:
        return False
    if any(isinstance(part, ast.Call) and ast.unparse(part.func).startswith("pl.") for part in ast.walk(call.func)):
        return False
    named = {keyword.arg for keyword in call.keywords}
    num = len(call.args) + ("target" in named)
    return num == PATH_CALLS[call.func.attr] and named <= {"missing_ok", "target"} and not _is_frame(call)


def _is_frame(call: ast.Call) -> bool:
    """Whether this renames columns of a table: with a dictionary."""
    return bool(call.args) and isinstance(call.args[0], ast.Dict | ast.DictComp)


def _is_commit(call: ast.Call) -> bool:
    """Whether this commits outside a step: `connection.commit()`, or COMMIT as a statement or in a script."""
    name = _name(call)
    if (name == "commit" and not call.args) or name == "executescript":  # which commits before it begins
        return True
    if name == "partial" and call.args:
        name = _name(ast.Call(call.args[0], [], []))
    said = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant)]
    texts = [
        text.decode("latin-1") if isinstance(text, bytes) else text for text in said if isinstance(text, str | bytes)
    ]
    return name.startswith("exec") and any(COMMIT.search(text) for text in texts)


def _commits_at_its_end(context: ast.expr) -> bool:
    """Whether leaving `with` commits: a connection of sqlite3 or psycopg itself, or a transaction of SQLAlchemy."""
    if isinstance(context, ast.Call):
        return _name(context) in {"begin", "begin_nested"} or ast.unparse(context.func) == "sqlite3.connect"
    return ast.unparse(context).rpartition(".")[2].strip("_") in {"connection", "conn", "database", "db"}


def _helpers(modules: dict[Path, ast.Module]) -> dict[str, list[str]]:
    """Return name to suffixes of every function that takes `at` and hands it on to durable steps."""
    takers = [
        node
        for module in modules.values()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef) and any(arg.arg == "at" for arg in node.args.kwonlyargs)
    ]
    found: dict[str, list[str]] = {}
    for _ in range(5):  # helpers of helpers: nobody is further from the door
        for function in takers:
            inner = [call for call in _calls(function) if call is not function]
            found[function.name] = [suffix for call in inner for suffix in _handed(call, found)]
    return {name: suffixes for name, suffixes in found.items() if suffixes}


def _handed(call: ast.Call, found: dict[str, list[str]]) -> list[str]:
    if _is_step(call) and isinstance(call.args[0], ast.JoinedStr):
        return [part.value for part in call.args[0].values if isinstance(part, ast.Constant)]
    return found.get(_name(call), []) if _hands_on(call) else []


def _named_by(call: ast.Call, helpers: dict[str, list[str]]) -> Iterator[str]:
    if _is_step(call) and isinstance(call.args[0], ast.Constant):
        yield call.args[0].value
    at = _at(call)
    if _name(call) in helpers and isinstance(at, ast.Constant):
        yield from (f"{at.value}{suffix}" for suffix in helpers[_name(call)])


def _hands_on(call: ast.Call) -> bool:
    at = _at(call)
    return (isinstance(at, ast.Name) and at.id == "at") or (
        _is_step(call) and ast.unparse(call.args[0]).startswith("f'{at}/")
    )


def _at(call: ast.Call) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == "at"), None)


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _is_step(call: ast.Call) -> bool:
    """Whether this is `step(name, work)` of `core/durable.py`; methods of that name are others."""
    return isinstance(call.func, ast.Name) and call.func.id == "step" and len(call.args) == 2


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def defaults(modules: dict[Path, ast.Module]) -> list[Step]:
    """Return the steps that a helper names by the default of its own `at`."""
    helpers = _helpers(modules)
    return [
        Step(f"{default.value}{suffix}", f"{path.relative_to(SRC)}:{node.lineno}")
        for path, module in modules.items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef)
        for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if arg.arg == "at" and isinstance(default, ast.Constant)
        for suffix in helpers.get(node.name, [])
    ]
