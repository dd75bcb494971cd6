"""Whether a JSON document names one key twice, which parsers read differently and msgspec reads as the last one."""

from __future__ import annotations

import json
from typing import Any

from datahall.core.errors import UserError


def refuse_duplicate_keys(body: bytes | bytearray, num_strings: int) -> None:
    """Raise UserError, with the place, where an object in `body` has a key twice.

    `num_strings` is how many strings, keys included, the decoded document holds. Each stands between two quotes, and
    so does each key that a decoder dropped, so where there are just twice as many quotes nothing was dropped and
    the document need not be read again. Quotes within strings only make a second look more frequent.
    """
    if body.count(b'"') != 2 * num_strings:
        _search(body)


def count_strings(value: Any) -> int:
    """Return how many strings, keys included, are in a decoded JSON value."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            count += 1
        elif isinstance(one, dict):
            count += len(one)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return count


class _Members(list[tuple[str, Any]]):
    """An object as its members in order, each as often as it comes."""


def _search(body: bytes | bytearray) -> None:
    try:
        tree = json.loads(body.decode(), object_pairs_hook=_Members, parse_int=str, parse_float=str, parse_constant=str)
    except RecursionError:
        raise UserError("the JSON is nested too deeply", hint="a row is one flat object") from None
    except ValueError as error:  # what one parser takes and another does not is nothing to build an answer on
        raise UserError(f"the JSON can be read in two ways: {error}", hint="send plain JSON in UTF-8") from None
    waiting = [("$", tree)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, _Members):
            seen: set[str] = set()
            for key, inner in value:
                if key in seen:
                    raise UserError(f"the key `{key[:80]}` comes twice - at `{place[:200]}`", hint="send each key once")
                seen.add(key)
                if isinstance(inner, list):
                    waiting.append((f"{place}.{key}", inner))
        else:
            waiting += [(f"{place}[{index}]", inner) for index, inner in enumerate(value) if isinstance(inner, list)]
