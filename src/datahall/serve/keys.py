"""Whether a JSON document names one key twice, which parsers read differently and msgspec reads as the last one."""

from __future__ import annotations

import json
import re
from typing import Any

from datahall.core.errors import UserError

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_MAX_SEARCHED_BYTES = 1 << 20
"""Of a larger document the place of a key that comes twice is not told: finding it would hold everybody up."""


def refuse_duplicate_keys(body: bytes | bytearray, num_strings: int) -> None:
    """Raise UserError, with the place, where an object in `body` has a key twice.

    `num_strings` is how many strings, keys included, the decoded document holds. A key that a decoder dropped is one
    more in the text, so the document need not be read again to know.
    """
    if count_written(body) != num_strings:
        _search(body)


def count_written(text: bytes | bytearray) -> int:
    """Return how many strings, keys included, are in a JSON text: half of its quotes, but those that are escaped."""
    num_quotes = text.count(b'"')
    if b"\\" in text:
        num_quotes -= _ESCAPE.findall(text).count(b'\\"')
    return num_quotes // 2


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
    if len(body) > _MAX_SEARCHED_BYTES:
        raise UserError("a key comes twice in an object", hint="send each key once")
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
