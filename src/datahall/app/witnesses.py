"""Opens the witnesses that an owner names: `file:DIR`, `git:DIR` or a URL."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from datahall.app.settings import without_password
from datahall.core.canonical import digest_bytes
from datahall.core.errors import UserError
from datahall.core.ports import Clock, Witness
from datahall.ledger.witnessing import Prove, Witnesses

_EXPECTED: Final = "name one as file:DIR, git:DIR or https://HOST/PATH"


def open_witness(text: str, prove: Prove) -> Witness:
    """Return the witness that `text` names. Raises UserError where it names none."""
    kind, _, rest = text.partition(":")
    if kind in {"http", "https"}:
        # Imported here: most halls have no witness behind a URL, and the command line starts without an HTTP client.
        return cast("Witness", import_module("datahall.backends.witness.url").UrlWitness(text, prove))
    if kind not in {"file", "git"} or not rest:
        raise UserError(f"'{_shown(text)[:80]}' is no witness", hint=_EXPECTED)
    folder = Path(rest).expanduser()
    if not folder.is_absolute():
        raise UserError(
            f"the folder of the witness '{_shown(text)[:80]}' is not absolute", hint="begin it with / or ~/"
        )
    module = import_module(f"datahall.backends.witness.{kind}")
    return cast("Witness", getattr(module, f"{kind.capitalize()}Witness")(folder, prove))


def open_witnesses(texts: Iterable[str], prove: Prove, clock: Clock) -> Witnesses:
    """Return all the witnesses that are named, as one. Raises UserError where one text names none."""
    return Witnesses({_shown(text): open_witness(text, prove) for text in texts}, clock)


def forgetting(text: str, origin: str) -> str:
    """Return in words how an owner makes a Git repository or a URL forget `origin`; a folder's note can be moved."""
    kind, _, rest = text.partition(":")
    name = digest_bytes(origin.encode())[:32]
    if kind == "git":
        return f"delete the branch datahall/{name} in {Path(rest).expanduser()}, and at its remote where it has one"
    return f"delete {_shown(text).rstrip('/')}/{name}.note"


def _shown(text: str) -> str:
    """Return what to call a witness in a problem: a URL may hold a password."""
    scheme, mark, rest = without_password(text).partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else text
