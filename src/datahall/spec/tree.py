"""Turns YAML text into plain values, remembering where each key and value stands."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from datahall.core.errors import Problem

NODE_LIMIT = 10_000
DEPTH_LIMIT = 32
KEY_LIMIT = 200

KeyPath = tuple[str | int, ...]
"""The way to a value: keys, and positions in lists."""

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_API_KEY = re.compile(r"dh_[0-9a-f]{8,}", re.IGNORECASE)
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Place:
    """Where a key and its value begin, counted from 1; in a list, both are the item."""

    key_line: int
    key_column: int
    line: int
    column: int


@dataclass
class Tree:
    """The values of a file, and where they stand."""

    file: str
    value: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bad: set[KeyPath] = field(default_factory=set)
    """Values that already have their problem; what stands there is a stand-in."""

    def place(self, path: KeyPath) -> Place:
        """Return where `path` stands, or the nearest thing around it that stands anywhere."""
        while path not in self.places and path:
            path = path[:-1]
        return self.places.get(path, Place(1, 1, 1, 1))

    def problem(
        self, path: KeyPath, what: str, *, expected: str = "", nearest: str = "", at_key: bool = False
    ) -> Problem:
        """Return a problem with the value (or, `at_key`, with the key) at `path`."""
        place = self.place(path)
        line, column = (place.key_line, place.key_column) if at_key else (place.line, place.column)
        return Problem(
            file=self.file,
            line=line,
            column=column,
            key=dotted(path),
            what=what,
            expected=expected,
            nearest=nearest,
        )

    def report(self, path: KeyPath, what: str, *, expected: str = "", nearest: str = "") -> None:
        """Write down a problem with the value at `path`, which is bad from then on."""
        self.problems.append(self.problem(path, what, expected=expected, nearest=nearest))
        self.bad.add(path)

    def get(self, *path: str | int, default: Any = None) -> Any:
        """Return the value at `path`, `default` where it is left out, empty or bad."""
        value = self.value
        for part in path:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return default
        return default if value is None or self.is_bad(path) else value

    def items(self, *path: str | int) -> Iterator[tuple[KeyPath, Any]]:
        """Yield path and value of each good item of the list at `path`."""
        for number, value in enumerate(self.get(*path, default=[])):
            if not self.is_bad((*path, number)):
                yield (*path, number), value

    def is_bad(self, path: KeyPath) -> bool:
        """Whether `path`, or something around it, already has its problem."""
        return any(path[:length] in self.bad for length in range(len(path) + 1))


def dotted(path: KeyPath) -> str:
    """Return `path` as people write it: `evaluate.claims[0].at_least`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_short(part)}"
    return text.removeprefix(".") or "(file)"


def grow(text: str, file: str) -> Tree:
    """Return the tree of `text`, with every problem of form; never raises.

    Nothing is expanded (anchors and aliases are refused), nothing is constructed (tags are refused), and reading
    stops at NODE_LIMIT values or DEPTH_LIMIT levels, so time and memory grow at most with the text.
    """
    tree = Tree(file)
    builder = _Builder(tree)
    try:
        builder.build(_events(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(str(error.problem or error.context or "cannot be read").split())
        tree.problems.append(
            Problem(file=file, line=line, column=column, key="(file)", what=f"is not YAML: {_short(what)}")
        )
        tree.bad.add(())
    except YAMLError as error:
        what = " ".join(str(error).split())
        tree.problems.append(Problem(file=file, line=1, column=1, key="(file)", what=f"is not YAML: {_short(what)}"))
        tree.bad.add(())
    except _StopReading:
        pass
    return tree


class _StopReading(Exception):  # noqa: N818  (not an error: its problem is already written down)
    pass


def _events(text: str) -> Iterator[Event]:
    yield from YAML(typ="rt", pure=True).parse(text)


@dataclass
class _Frame:
    """A mapping or list that is still open."""

    value: dict[str, Any] | list[Any]
    path: KeyPath
    key: str | None = None
    key_place: tuple[int, int] = (1, 1)
    shadow: bool = False
    """Whether the coming value belongs to a key that stood here before."""


class _Builder:
    """Builds values from parser events with a stack of its own, so depth costs no recursion."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.stack: list[_Frame] = []
        self.num_nodes = 0
        self.num_documents = 0

    def build(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, DocumentStartEvent):
                self._document(event)
            elif isinstance(event, NodeEvent):
                self._node(event)
            elif isinstance(event, CollectionEndEvent):
                self.stack.pop()

    def _document(self, event: DocumentStartEvent) -> None:
        self.num_documents += 1
        if event.version or event.tags:
            self._stop(event, "has a % directive", "plain YAML without directives")
        if self.num_documents > 1:
            self._stop(event, "holds a second document", "one application a file")

    def _node(self, event: Any) -> None:
        self.num_nodes += 1
        if self.num_nodes > NODE_LIMIT:
            self._stop(event, f"holds more than {NODE_LIMIT} values", "an application file, not the data")
        frame = self.stack[-1] if self.stack else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            self._key(frame, event)
            return
        path = self._place(frame, event)
        value = self._value(path, event)
        if frame is None:
            self.tree.value = value
        elif isinstance(frame.value, list):
            frame.value.append(value)
        else:
            assert frame.key is not None, "a value follows its key"
            if not frame.shadow:
                frame.value[frame.key] = value
            frame.key = None
        if isinstance(value, dict | list) and isinstance(event, MappingStartEvent | SequenceStartEvent):
            if len(self.stack) >= DEPTH_LIMIT:
                self._stop(event, f"is nested more than {DEPTH_LIMIT} levels deep", "fewer levels")
            self.stack.append(_Frame(value, path))

    def _key(self, frame: _Frame, event: Any) -> None:
        line, column = _start(event)
        if not isinstance(event, ScalarEvent):
            self._stop(event, "is a key that is not text", "a word before the colon")
        key = event.value
        frame.key, frame.key_place = key, (line, column)
        path = (*frame.path, key)
        assert isinstance(frame.value, dict), "only mappings have keys"
        frame.shadow = key in frame.value
        if frame.shadow:
            first = self.tree.places[path]
            frame.key_place = (line, column)
            self._report(
                event, path, f"stands here a second time; the first is at {first.key_line}:{first.key_column}", "one"
            )
        elif event.anchor is not None or event.ctag is not None:
            self._report(event, path, "has an anchor or a tag", "a plain key")
        elif len(key) > KEY_LIMIT:
            self._report(event, path, f"is a key of {len(key)} characters", f"{KEY_LIMIT} at most")
            self.tree.bad.add(path)
        elif problem := _text_problem(key):
            self._report(event, path, problem)
            self.tree.bad.add(path)

    def _place(self, frame: _Frame | None, event: Event) -> KeyPath:
        line, column = _start(event)
        if frame is None:
            path: KeyPath = ()
            place = Place(line, column, line, column)
        elif isinstance(frame.value, list):
            path = (*frame.path, len(frame.value))
            place = Place(line, column, line, column)
        else:
            assert frame.key is not None, "a value follows its key"
            # what stands under a repeated key gets a path that nothing else has
            path = (*frame.path, frame.key, -line) if frame.shadow else (*frame.path, frame.key)
            empty = isinstance(event, ScalarEvent) and not event.value and event.style is None
            # the parser puts an empty value where the next thing begins, which may be far away
            place = Place(*frame.key_place, *(frame.key_place if empty else (line, column)))
        self.tree.places[path] = place
        return path

    def _value(self, path: KeyPath, event: Any) -> Any:
        if isinstance(event, AliasEvent):
            return self._mark(event, path, f"is an alias (*{_short(event.anchor)})", "the value itself")
        if event.anchor is not None:
            self._mark(event, path, f"has an anchor (&{_short(event.anchor)})", "the value itself")
        elif event.ctag is not None:
            self._mark(event, path, f"has the tag {_short(str(event.ctag))}", "a plain value")
        if isinstance(event, MappingStartEvent):
            return {}
        if isinstance(event, SequenceStartEvent):
            return []
        if problem := _text_problem(event.value):
            return self._mark(event, path, problem)
        if event.style is not None or event.ctag is not None:
            return event.value
        return self._plain(path, event)

    def _plain(self, path: KeyPath, event: Any) -> Any:
        """Resolve an unquoted scalar by the core schema of YAML 1.2, in numbers that JSON can carry."""
        text = event.value
        if text in _WORDS:
            return _WORDS[text]
        if _NOT_FINITE.fullmatch(text):
            return self._mark(event, path, f"is {text}", "a finite number")
        if _INTEGER.fullmatch(text):
            number = int(text, 0 if text[:2] in {"0o", "0x"} else 10) if len(text) <= 25 else 2**64
            if abs(number) < 2**63:
                return number
            return self._mark(event, path, "is a number beyond 64 bits", "a smaller one, or text in quotes")
        if _FLOAT.fullmatch(text):
            value = float(text)
            return value if math.isfinite(value) else self._mark(event, path, f"is {_short(text)}", "a finite number")
        return text

    def _mark(self, event: Event, path: KeyPath, what: str, expected: str = "") -> None:
        self._report(event, path, what, expected)
        self.tree.bad.add(path)

    def _report(self, event: Event, path: KeyPath, what: str, expected: str = "") -> None:
        line, column = _start(event)
        shown = tuple(part for part in path if not (isinstance(part, int) and part < 0))
        self.tree.problems.append(
            Problem(file=self.tree.file, line=line, column=column, key=dotted(shown), what=what, expected=expected)
        )

    def _stop(self, event: Event, what: str, expected: str) -> None:
        self._report(event, (), what, expected)
        self.tree.bad.add(())
        raise _StopReading


def _start(event: Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None, "the parser marks every event"
    return mark.line + 1, mark.column + 1


def _text_problem(text: str) -> str:
    if any(ord(character) < 32 and character not in "\t\n" for character in text):
        return "holds a control character"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        return "holds half of a surrogate pair"
    return ""


def without_keys(text: str) -> str:
    """Return `text` with every API key in it masked: any file can be named as an application's, a key's own too."""
    return _API_KEY.sub("dh_***", text)


def _short(text: str) -> str:
    """Return `text` cut where it is long, keys masked, and with nothing in it that could move a terminal's cursor."""
    text = without_keys(text)
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
