"""Checks a hall's database against its signed tree heads; stands alone: standard library and `cryptography` only.

    python verify.py hall.db --key public.pem [--checkpoint FILE]... [--json]

It shares no code with the programs that wrote the database, so that a mistake of theirs is not repeated here.
Exit status: 0 everything holds, 1 something was changed, 2 it could not be checked.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

_NOTE = re.compile(
    r"(([^\s+]+)\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n)\n((?:— [^\s+]+ [A-Za-z0-9+/]+={0,2}\n)+)"
)
_NUM_PROBLEMS_SHOWN = 100


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold: what it is, and where in the database."""

    what: str
    where: str


@dataclass
class Report:
    """What the check found."""

    num_entries: int = 0
    size: int = 0
    """Entries under the newest checkpoint that the hall's key signed."""
    witnessed_size: int = 0
    """Entries under the newest of the checkpoints that were handed in."""
    num_records: int = 0
    problems: list[Finding] = field(default_factory=list)
    """Changed entries first, then what else does not hold, at the end the `num_following`."""
    num_following: int = 0
    """How many of the problems follow from an entry that was changed, and are mended with it."""
    covers: list[range] = field(default_factory=list)
    """For each problem the entries any of which, changed, would explain it; a root's begin at -1, so that they are many."""

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    @property
    def unwitnessed(self) -> tuple[int, int]:
        """The entries start <= seq < stop that nobody outside the hall has witnessed yet."""
        return min(self.witnessed_size, self.num_entries), self.num_entries

    def add(self, what: str, where: str, covers: range = range(0)) -> None:
        """Note one problem."""
        self.problems.append(Finding(what, where))
        self.covers.append(covers)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data for `--json`."""
        said = {"ok": self.ok, **asdict(self), "unwitnessed": list(self.unwitnessed)}
        del said["covers"]
        return said


@dataclass(frozen=True)
class Head:
    """A tree head as a note says it."""

    origin: str
    size: int
    root: bytes


class VerifyError(Exception):
    """The check could not be made."""


def verify_hall(db_path: Path | str, public_key_raw: bytes, held_notes: Sequence[str] = ()) -> Report:
    """Check the database at `db_path`, read only, in one consistent view.

    `public_key_raw` is the hall's Ed25519 key (32 bytes), `held_notes` the checkpoints kept outside the hall.
    Raises VerifyError where the file cannot be read as a hall's database.
    """
    try:
        with closing(_open(Path(db_path))) as connection:
            connection.execute("BEGIN")
            return verify_connection(connection, public_key_raw, held_notes)
    except sqlite3.DatabaseError as error:
        raise VerifyError(f"{db_path}: {error}") from error


def verify_connection(connection: sqlite3.Connection, public_key_raw: bytes, held_notes: Sequence[str] = ()) -> Report:
    """Check an open database; as `verify_hall`."""
    report = Report()
    newest = _newest_head(connection, public_key_raw, report)
    held = [head for note in held_notes if (head := _held_head(note, public_key_raw, newest, report))]
    stored = _stored_heads(connection, report)
    sizes = {*stored, *(head.size for head in held)}
    entries = _Entries(connection, report)
    roots = _recompute(connection, entries, sizes, report)
    report.num_entries = entries.num
    for size, root in sorted(stored.items()):
        _check_root(size, root, roots, f"checkpoint {size}", report)
    for head in held:
        _check_root(head.size, head.root, roots, f"held checkpoint {head.size}", report)
    report.size = newest.size if newest else 0
    report.witnessed_size = max((head.size for head in held), default=0)
    _check_schema(connection, report)
    _check_records(connection, entries.digests, report)
    _check_index(connection, entries.touches, report)
    _order(report)
    return report


def read_key(pem: bytes) -> bytes:
    """Return the raw Ed25519 key in `pem`. Raises VerifyError for anything else."""
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise VerifyError("the key file holds no PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise VerifyError("the key is not an Ed25519 key")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


class _Entries:
    """Reads the entries in order once, and gathers what they say about records."""

    def __init__(self, connection: sqlite3.Connection, report: Report) -> None:
        self.num = 0
        self.digests: dict[tuple[str, str], tuple[str | None, int]] = {}
        """(kind, id) to the digest that its newest entry gives, and that entry's number."""
        self.touches: set[tuple[str, str, int]] = set()
        self._connection, self._report = connection, report

    def bodies(self) -> Iterator[bytes]:
        rows = self._connection.execute("SELECT seq, kind, app, body FROM entries ORDER BY seq")
        for number, (seq, kind, app, stored) in enumerate(rows):
            body = stored if isinstance(stored, bytes) else str(stored).encode()
            where = f"entry {seq}"
            if seq != number:
                self._report.add(f"it stands where entry {number} should", where)
            self.num = max(self.num, seq + 1)
            self._read(body, (seq, kind, app), where)
            yield body

    def _read(self, body: bytes, columns: tuple[int, str, str | None], where: str) -> None:
        seq = columns[0]
        try:
            entry = json.loads(body)
            if (entry["seq"], entry["kind"], entry["app"]) != columns:
                self._report.add("its columns differ from its body", where)
            for mark in entry["touched"]:
                place = (mark["kind"], mark["id"])
                self.digests[place] = (mark["digest"], seq)
                self.touches.add((*place, seq))
        except (ValueError, KeyError, TypeError, RecursionError):
            self._report.add("its body is not an entry", where)


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise VerifyError(f"{path}: no such file")
    connection = _connect(path, "mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        # A copy on a read-only medium: SQLite cannot make its log's index there, and needs none.
        connection = _connect(path, "immutable=1")
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)
    # Bytes that are no text must show as a difference, not end the check; JSON never holds such an escape.
    connection.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
    return connection


def _stored_heads(connection: sqlite3.Connection, report: Report) -> dict[int, bytes]:
    heads = {}
    for size, origin, root, note in connection.execute("SELECT size, origin, root, note FROM checkpoints"):
        heads[size] = root
        if _head(note) != Head(origin, size, root):
            report.add("its columns differ from its signed text", f"checkpoint {size}")
    return heads


def _newest_head(connection: sqlite3.Connection, key: bytes, report: Report) -> Head | None:
    row = connection.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    if row is None:
        return None
    size, note = row
    head = _signed_head(note, key)
    if head is None:
        report.add("it is not signed by the hall's key", f"checkpoint {size}")
    return head


def _held_head(note: str, key: bytes, newest: Head | None, report: Report) -> Head | None:
    head = _signed_head(note, key)
    where = f"held checkpoint {head.size if head else note[:60]!r}"
    if head is None:
        report.add("it is not signed by the hall's key", where)
        return None
    if newest is None or newest.size < head.size:
        size = newest.size if newest else 0
        report.add(f"the hall's newest checkpoint has {size} entries: the ledger was cut off or rolled back", where)
    elif newest.origin != head.origin:
        report.add(f"it is of '{head.origin}', the hall is '{newest.origin}'", where)
    return head


def _head(note: object) -> Head | None:
    match = _NOTE.fullmatch(str(note))
    return Head(match[2], int(match[3]), base64.b64decode(match[4])) if match else None


def _signed_head(note: object, key: bytes) -> Head | None:
    """Return what `note` says if `key` signed it (C2SP signed-note, tlog-checkpoint)."""
    match, head = _NOTE.fullmatch(str(note)), _head(note)
    if match is None or head is None:
        return None
    text, origin = match[1], match[2]
    key_hash = hashlib.sha256(origin.encode() + b"\n\x01" + key).digest()[:4]
    for line in match[5].splitlines():
        _, name, encoded = line.split(" ")
        try:
            signature = base64.b64decode(encoded, validate=True)
            if name == origin and signature[:4] == key_hash:
                Ed25519PublicKey.from_public_bytes(key).verify(signature[4:], text.encode())
                return head
        except (InvalidSignature, binascii.Error):
            continue
    return None


def _recompute(
    connection: sqlite3.Connection, entries: _Entries, sizes: Iterable[int], report: Report
) -> dict[int, bytes]:
    """Hash every entry into the tree (RFC 6962), compare the stored nodes, return the root at each of `sizes`."""
    wanted, roots = set(sizes), {}
    size = max(wanted, default=0)
    (stored_size,) = connection.execute("SELECT coalesce(max(size), 0) FROM checkpoints").fetchone()
    frontier: list[bytes] = []
    num_nodes = 0
    for index, body in enumerate(entries.bodies()):
        if index >= size:
            continue  # read for what it says about records; no checkpoint covers it yet
        value, level, place = hashlib.sha256(b"\x00" + body).digest(), 0, index
        while True:
            if index < stored_size:
                num_nodes += 1
                _check_node(connection, level, place, value, report)
            if not place & 1:
                break
            value = hashlib.sha256(b"\x01" + frontier.pop() + value).digest()
            level, place = level + 1, place >> 1
        frontier.append(value)
        if index + 1 in wanted:
            roots[index + 1] = _fold(frontier)
    (num_stored,) = connection.execute("SELECT count(*) FROM nodes").fetchone()
    if num_stored > num_nodes:
        report.add(f"it holds {num_stored - num_nodes} nodes that belong to no entry", "tree")
    return roots


def _fold(frontier: Sequence[bytes]) -> bytes:
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = hashlib.sha256(b"\x01" + left + root).digest()
    return root


def _check_node(connection: sqlite3.Connection, level: int, place: int, value: bytes, report: Report) -> None:
    row = connection.execute("SELECT hash FROM nodes WHERE level = ? AND idx = ?", (level, place)).fetchone()
    if row is None or row[0] != value:
        report.add(
            "it is missing" if row is None else "it is not the hash of its entries",
            f"node {level}/{place}",
            _below(level, place),
        )


def _below(level: int, place: int) -> range:
    return range(place << level, (place + 1) << level)


def _check_root(size: int, root: bytes, roots: dict[int, bytes], where: str, report: Report) -> None:
    if size not in roots:
        report.add(f"it covers {size} entries, which are not all there", where)
    elif roots[size] != root:
        report.add("its root is not that of the entries: one of them was changed", where, range(-1, size))


def _check_schema(connection: sqlite3.Connection, report: Report) -> None:
    """Note what could show one thing to this check and another to the hall, or write behind an act's back."""
    for kind, name in connection.execute("SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view')"):
        report.add("it is no part of a hall", f"{kind} {name}")


def _check_records(
    connection: sqlite3.Connection, digests: dict[tuple[str, str], tuple[str | None, int]], report: Report
) -> None:
    """Compare every record's row with the digest that the newest entry about it gives."""
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    left = {place for place, (digest, _) in digests.items() if digest is not None}
    for kind in sorted(name.removeprefix("record_") for name in tables if name.startswith("record_")):
        quoted = kind.replace('"', '""')
        cursor = connection.execute(f'SELECT * FROM "record_{quoted}"')  # noqa: S608  (a table of this file, quoted)
        names = [column[0] for column in cursor.description]
        for values in cursor:
            row = dict(zip(names, values, strict=True))
            report.num_records += 1
            left.discard((kind, row["id"]))
            _check_row(kind, row, digests.get((kind, row["id"]), (None, -1)), report)
    for kind, record_id in sorted(left, key=str):
        report.add("its row is gone, but no entry deleted it", f"{kind} {record_id}")


def _check_row(kind: str, row: dict[str, Any], said: tuple[str | None, int], report: Report) -> None:
    where, (digest, seq) = f"{kind} {row['id']}", said
    body = str(row["body"]).encode()
    if digest is None:
        report.add("its row is there, but no entry wrote it", where)
    elif hashlib.sha256(body).hexdigest() != digest:
        report.add(f"its row is not what entry {seq} wrote", where, range(seq, seq + 1))
    else:
        fields = {**json.loads(body), "seq": seq, "body": row["body"]}
        differing = sorted(name for name, value in row.items() if value != fields.get(name))
        if differing:
            report.add(f"its columns differ from its body: {', '.join(differing)}", where)


def _check_index(connection: sqlite3.Connection, touches: set[tuple[str, str, int]], report: Report) -> None:
    stored = set(connection.execute("SELECT kind, id, seq FROM touched"))
    for kind, record_id, seq in sorted(stored ^ touches, key=str):
        what = "is missing in" if (kind, record_id, seq) in touches else "does not belong in"
        report.add(f"entry {seq} {what} its history", f"{kind} {record_id}", range(seq, seq + 1))


def _order(report: Report) -> None:
    """Put changed entries first and what follows from them last: one changed byte unsettles every hash above it."""
    noted = list(zip(report.problems, report.covers, strict=True))
    leaves = {problem.where: seq for problem, covers in noted for seq in covers[:1] if problem.where == f"node 0/{seq}"}
    wider = [covers for _, covers in noted if len(covers) > 1]
    # A leaf alone was itself changed; where a hash above disagrees too, it was the entry.
    changed = {where: seq for where, seq in leaves.items() if any(seq in covers for covers in wider)}
    entries = [Finding("it was changed", f"entry {seq}") for seq in sorted(changed.values())]
    rest = [(problem, covers) for problem, covers in noted if problem.where not in changed]
    following = [problem for problem, covers in rest if any(seq in covers for seq in changed.values())]
    others = [problem for problem, covers in rest if not any(seq in covers for seq in changed.values())]
    report.problems, report.num_following = [*entries, *others, *following], len(following)
    report.covers.clear()


def lines(report: Report) -> Iterator[str]:
    """Yield the problems as people read them; those that follow from others are only counted."""
    causes = report.problems[: len(report.problems) - report.num_following]
    for problem in causes[:_NUM_PROBLEMS_SHOWN]:
        yield f"{problem.where}: {problem.what}"
    if len(causes) > _NUM_PROBLEMS_SHOWN:
        yield f"... and {len(causes) - _NUM_PROBLEMS_SHOWN} more"
    if report.num_following:
        yield f"... and {report.num_following} more that follow from the changed entries"


def _lines(report: Report) -> Iterator[str]:
    yield from (f"CHANGED  {line}".replace("CHANGED  ...", "...") for line in lines(report))
    yield f"{report.num_entries} entries, {report.size} of them under a signed checkpoint; {report.num_records} records"
    start, stop = report.unwitnessed
    if start == stop:
        yield "every entry lies under a checkpoint that you hold"
    else:
        yield f"nobody has witnessed entries {start} to {stop - 1} yet: cutting these off would not be seen"
    yield (
        "everything holds" if report.ok else f"{len(report.problems)} problems: the hall was changed behind its ledger"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="verify.py", description="Check a Datahall database against its ledger.")
    parser.add_argument("db", type=Path, help="the hall's hall.db; it is only read")
    parser.add_argument("--key", type=Path, required=True, help="the hall's public key (PEM, Ed25519)")
    parser.add_argument(
        "--checkpoint", type=Path, action="append", default=[], metavar="FILE", help="a checkpoint that you kept"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    try:
        notes = [path.read_text("utf-8") for path in options.checkpoint]
        report = verify_hall(options.db, read_key(options.key.read_bytes()), notes)
    except (VerifyError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"cannot verify: {error}\n")
        return 2
    text = json.dumps(report.as_dict(), indent=2) if options.json else "\n".join(_lines(report))
    sys.stdout.write(text + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
