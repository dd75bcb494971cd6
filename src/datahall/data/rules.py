"""Checks every row against the contract, and says which rows break which rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from datahall.core.errors import DataError
from datahall.core.records import ColumnKind
from datahall.data.kinds import Typed, text_of
from datahall.data.read import RawRows, show
from datahall.spec.schema import ColumnContract

MAX_SHOWN = 10


@dataclass(frozen=True)
class Breach:
    """The rows (indices, ascending) that break one rule in one column."""

    column: str
    rule: str
    rows: np.ndarray


def breaches_of(name: str, typed: Typed, contract: ColumnContract, *, required: bool) -> list[Breach]:
    """Return what one column breaks; `required` (target and subject) forbids missing values whatever the contract."""
    values, found = typed.values, []
    words: dict[ColumnKind, str] = {"number": "is not a number", "boolean": "is not true or false"}
    if len(typed.bad):
        found.append(Breach(name, words[typed.kind], typed.bad))
    missing = values.is_null()
    missing = missing.set(pl.Series(np.isin(np.arange(len(values)), typed.bad)), value=False)
    checks: list[tuple[str, pl.Series]] = []
    if required or not contract.nullable:
        checks.append(("is missing", missing))
    if typed.kind == "number":
        checks.append(("is not finite", values.is_infinite()))
        if contract.min is not None:
            checks.append((f"is below {contract.min:g}", values < contract.min))
        if contract.max is not None:
            checks.append((f"is above {contract.max:g}", values > contract.max))
    if contract.values is not None:
        checks.append((_values_rule(contract.values), ~text_of(values).is_in(_allowed(contract.values))))
    if contract.unique:
        checks.append(("is there more than once", values.is_duplicated() & values.is_not_null()))
    for rule, broken in checks:
        rows = np.flatnonzero(broken.fill_null(value=False).to_numpy())
        if len(rows):
            found.append(Breach(name, rule, rows))
    return found


def contract_error(breaches: Sequence[Breach], raw: RawRows) -> DataError:
    """Return the error that shows at most ten broken rows, in the order of the files, and counts them by rule.

    Values stand only in the hint: the sentence itself names no person's data, so it may be stored.
    """
    num_rows = len(np.unique(np.concatenate([breach.rows for breach in breaches])))
    cells = sorted((int(row), breach.column, breach.rule) for breach in breaches for row in breach.rows[:MAX_SHOWN])
    lines = [
        f"{raw.place(row)}  {column} = {show(raw.frame[column][row])}  {rule}"
        for row, column, rule in cells[:MAX_SHOWN]
    ]
    num_cells = sum(len(breach.rows) for breach in breaches)
    if num_cells > len(lines):
        lines.append(f"... and {num_cells - len(lines):,} more")
    lines += [f"{breach.column} {breach.rule}: {_rows(len(breach.rows))}" for breach in breaches]
    lines.append("mend the file, loosen data.columns, or say on_broken: drop to leave such rows out")
    verb = "row breaks" if num_rows == 1 else "rows break"
    return DataError(
        f"{num_rows:,} of {raw.frame.height:,} {verb} the contract",
        where=raw.place(cells[0][0]),
        hint="\n  ".join(lines),
    )


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _allowed(values: Sequence[bool | float | str]) -> list[str]:
    return [str(text_of(pl.Series([value])).item()) for value in values]


def _values_rule(values: Sequence[bool | float | str]) -> str:
    shown = ", ".join(_allowed(values)[:8])
    return f"is none of: {shown}{', ...' if len(values) > 8 else ''}"
