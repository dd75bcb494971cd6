"""The small changes that a mutation study makes to a module: comparisons, boundaries, constants, lost checks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

_SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitXor: (ast.BitAnd,),
}
_SILENT = (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One small change: the `number`-th of a module, and its name, which outlives changes elsewhere in the file."""

    module: str
    number: int
    name: str


class _Place(NamedTuple):
    """Where a node stands; the parser shares operator nodes, so the node itself does not say."""

    parent: ast.AST
    field: str
    at: int | None
    node: ast.AST


def path_of(module: str) -> Path:
    """Return the source file of a module."""
    return ROOT / "src" / (module.replace(".", "/") + ".py")


def mutants_of(module: str) -> list[Mutant]:
    """Return every mutant of a module, in the order of the file."""
    counts: dict[str, int] = {}
    found: list[Mutant] = []
    tree = ast.parse(path_of(module).read_text(encoding="utf-8"))
    for number, (where, place, new) in enumerate(_changes(tree)):
        name = f"{module}:{where}: {_shown(place.node)} -> {_shown(new)}"
        if not isinstance(place.node, ast.stmt):
            name += f" in {_shown(place.parent)}"
        counts[name] = counts.get(name, 0) + 1
        found.append(Mutant(module, number, name if counts[name] == 1 else f"{name} #{counts[name]}"))
    return found


def mutate(module: str, number: int) -> ast.Module:
    """Return the module's tree with its `number`-th change made; -1 changes nothing."""
    tree = ast.parse(path_of(module).read_text(encoding="utf-8"))
    if number >= 0:
        _, place, new = list(_changes(tree))[number]
        value = getattr(place.parent, place.field)
        if place.at is None:
            setattr(place.parent, place.field, new)
        else:
            value[place.at] = new
    return ast.fix_missing_locations(tree)


def _changes(tree: ast.Module) -> Iterator[tuple[str, _Place, ast.AST]]:
    """Yield (function, place, replacement) for every change that could matter."""
    for where, place in _walk(tree, "module"):
        for new in _variants(place.node):
            yield where, place, new


def _walk(parent: ast.AST, where: str) -> Iterator[tuple[str, _Place]]:
    """Yield the nodes that do something: no types, docstrings, messages, assertions of our own, class options."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        if isinstance(parent, ast.ClassDef) and field in ("keywords", "bases"):
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or isinstance(node, _SILENT):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            yield where, _Place(parent, field, index if isinstance(value, list) else None, node)
            if isinstance(node, ast.Raise):
                continue  # what an error says is for people
            inside = where
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                inside = node.name if where == "module" else f"{where}.{node.name}"
            yield from _walk(node, inside)


def _variants(node: ast.AST) -> list[ast.AST]:
    """Return what a node is replaced by, once each."""
    match node:
        case ast.Constant():
            return _other_constants(node)
        case ast.UnaryOp(op=ast.Not()):
            return [node.operand]
        case ast.IfExp():
            return [ast.IfExp(node.test, node.orelse, node.body)]
        case ast.Name(id=name) if name in _NAMES:
            return [ast.Name(_NAMES[name], node.ctx)]
    return _other_statements(node) or [new() for new in _SWAPS.get(type(node), ())]


def _other_statements(node: ast.AST) -> list[ast.AST]:
    """Return a lost error, a check that never holds, an answer turned round or lost."""
    match node:
        case ast.Raise():
            return [ast.Pass()]
        case ast.If(body=[*_, ast.Raise() | ast.Return() | ast.Continue() | ast.Break()]):
            return [ast.If(ast.Constant(False), node.body, node.orelse)]
        case ast.Return(value=ast.Compare() | ast.BoolOp() as value):
            return [ast.Return(ast.UnaryOp(ast.Not(), value))]
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            return [ast.Return(ast.Constant(None))]
    return []


def _other_constants(node: ast.Constant) -> list[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        return [ast.Constant(not value)]
    if isinstance(value, int):
        return [ast.Constant(value + 1)]
    if isinstance(value, float):
        return [ast.Constant(value * 2 or 1.0)]
    return [ast.Constant(value + b"\0")] if isinstance(value, bytes) else []


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split()) or type(node).__name__
    return text if len(text) <= 100 else text[:97] + "..."
