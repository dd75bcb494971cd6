"""Takes decisions again that were taken before, and compares: the same code on the same view decides the same."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec

from datahall.app.decisions import logged_decisions
from datahall.core.hall import HallPaths
from datahall.serve.decisions import Logged, decision_files, policy_code, read_decision_file

_ARGUMENTS = ("state", "view", "event", "now", "draw")
_encode = msgspec.msgpack.Encoder(order="deterministic").encode
Form = Literal["json", "msgpack"]
"""In which a decision's fields are encoded."""
_DECODERS = {"json": msgspec.json.Decoder, "msgpack": msgspec.msgpack.Decoder}


class Policy(NamedTuple):
    """A policy's function, and how to read what it takes and returns, by the names in `Logged`."""

    decide: Callable[..., tuple[object, object, str]]
    read: dict[str, Callable[[msgspec.Raw], Any]]


class Difference(NamedTuple):
    """A decision that came out otherwise."""

    place: str
    """The file, and which decision in it, from 0."""
    policy: str
    what: str


class Replayed:
    """What came of taking decisions again; sums up over several files."""

    def __init__(self) -> None:
        self.num_same = 0
        self.num_by_policy: dict[str, int] = {}
        self.differences: list[Difference] = []
        """Of decisions of the code that runs here: each is a fault."""
        self.num_other_code = self.num_other_code_differing = 0
        """Taken by other code: what the policies would do otherwise today is worth knowing, and no fault."""
        self.num_lost_bytes = 0
        self.problems: list[str] = []
        """Files that could not be read."""

    @property
    def num_decisions(self) -> int:
        """How many decisions were taken again, those of other code included."""
        return self.num_same + len(self.differences) + self.num_other_code

    @property
    def faults(self) -> list[str]:
        """What is wrong, in words: files that cannot be read, and the first decision that came out otherwise."""
        first = [f"{one.place}: policy {one.policy} decided otherwise: {one.what}" for one in self.differences[:1]]
        return self.problems + first

    def as_dict(self) -> dict[str, object]:
        """Return it for `--json`."""
        first = self.differences[0]._asdict() if self.differences else None
        return {
            "num_decisions": self.num_decisions,
            "num_differing": len(self.differences),
            "first": first,
            "num_by_policy": dict(sorted(self.num_by_policy.items())),
            "num_other_code": self.num_other_code,
            "num_other_code_differing": self.num_other_code_differing,
            "num_lost_bytes": self.num_lost_bytes,
            "problems": self.problems,
        }


class Replayer:
    """Takes logged decisions again with the policies that run here."""

    def __init__(self, policies: Mapping[str, ModuleType] | None = None) -> None:
        """`policies` are asked before the modules of `datahall.policy` of the same name."""
        self.replayed = Replayed()
        self._modules = policies or {}
        self._policies: dict[tuple[str, Form], Policy | None] = {}

    def take(self, decisions: Iterable[Logged], form: Form, place: str) -> None:
        """Take each decision again; `place` says where they are from."""
        done, code = self.replayed, policy_code()
        for number, one in enumerate(decisions):
            what = self._differs(one, form)
            done.num_by_policy[one.policy] = done.num_by_policy.get(one.policy, 0) + 1
            if one.code != code:
                done.num_other_code += 1
                done.num_other_code_differing += bool(what)
            elif what:
                done.differences.append(Difference(f"{place}#{number}", one.policy, what))
            else:
                done.num_same += 1

    def _differs(self, one: Logged, form: Form) -> str:
        """Return how the decision comes out otherwise, nothing where it is the same."""
        policy = self._policy(one.policy, form)
        if policy is None:
            return "there is no such policy"
        read = policy.read
        try:
            state, view, event = read["state"](one.state), read["view"](one.view), read["event"](one.event)
            before = (read["new_state"](one.new_state), read["decision"](one.decision), one.reason)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"its view is not this policy's: {error}"
        try:
            again = policy.decide(state, view, event, one.now, one.draw)
        except Exception as error:  # noqa: BLE001  whatever a policy raises, it did not before
            return f"it raises {type(error).__name__}: {error}"
        # Encoded, for not-a-number is then equal to itself, and a whole number differs from one with a fraction.
        for name, new, old in zip(("new_state", "decision", "reason"), again, before, strict=True):
            if _encode(new) != _encode(old):
                return f"{name} was {str(old)[:200]}, and is {str(new)[:200]}"
        return ""

    def _policy(self, name: str, form: Form) -> Policy | None:
        if (name, form) not in self._policies:
            self._policies[name, form] = _load(name, form, self._modules)
        return self._policies[name, form]


def replay_hall(paths: HallPaths) -> Replayed:
    """Take again every decision that the hall has kept: of its gateways, then of its reconciler."""
    replayer = Replayer()
    done = replayer.replayed
    for path in decision_files(paths.decisions):
        try:
            found = read_decision_file(path)
        except OSError as error:
            done.problems.append(f"{path.name} cannot be read: {error.strerror}")
            continue
        done.num_lost_bytes += found.num_lost_bytes
        replayer.take(found.decisions, "msgpack", f"{paths.decisions.name}/{path.name}")
    if paths.telemetry.exists():
        try:
            replayer.take(logged_decisions(paths.telemetry), "json", paths.telemetry.name)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            done.problems.append(f"{paths.telemetry.name} cannot be read: {error}")
    return done


def _load(name: str, form: Form, modules: Mapping[str, ModuleType]) -> Policy | None:
    """Return a policy by its name, None where there is none that takes what policies take."""
    module = modules.get(name)
    if module is None:
        try:
            module = importlib.import_module(f"datahall.policy.{name}") if name.isidentifier() else None
        except ModuleNotFoundError:
            return None
    decide = getattr(module, "decide", None)
    if decide is None:
        return None
    hints = get_type_hints(decide)
    result = get_args(hints.get("return"))
    if set(hints) != {*_ARGUMENTS, "return"} or len(result) != 3:
        return None
    types = {name: hints[name] for name in _ARGUMENTS[:3]} | {"new_state": result[0], "decision": result[1]}
    return Policy(decide, {name: _DECODERS[form](kind).decode for name, kind in types.items()})
