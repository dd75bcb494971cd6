"""The hall's own keys: one folder of private files, made once, never part of a data backup."""

from __future__ import annotations

import base64
import binascii
import fcntl
import hmac
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from datahall.core.canonical import digest_bytes
from datahall.core.durable import link, sync_folder, write_atomic
from datahall.core.errors import ConflictError, IntegrityError, NotFoundError, UserError
from datahall.security.access import hash_key, is_key_text, new_key_text
from datahall.security.signing import Ed25519Signer

MASTER_FILE: Final = "master.key"
SIGNING_FILE: Final = "signing.key"
ANSWER_FILE: Final = "answers.key"
OWNER_FILE: Final = "owner.key"
LOCK_FILE: Final = ".lock"

_KEY_BYTES: Final = 32
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_FORMAT: Final = b"\x01"
_MAX_FILE_BYTES: Final = 1 << 20


class KeyRing:
    """The keys of one hall.

    `master.key` has one base64 line a key, the newest last: it wraps new data keys, the older ones still unwrap.
    `signing.key` signs checkpoints and route tables, `answers.key` authenticates answer ids, and `owner.key` is the
    owner's API key as text, for the CLI.

    Any threads and processes: whoever changes the master keys starts from the file, alone.
    """

    __slots__ = ("_changing", "_folder", "_masters", "answer_key", "owner_key", "signer")

    def __init__(
        self, folder: Path, *, masters: list[bytes], signer: Ed25519Signer, answer_key: bytes, owner_key: str
    ) -> None:
        self._folder = folder
        self._masters = _by_id(masters)
        self._changing = threading.Lock()
        self.signer = signer
        self.answer_key = answer_key
        self.owner_key = owner_key

    @classmethod
    def open(cls, folder: Path, *, create: bool = False) -> KeyRing:
        """Read the keys; with `create`, make those that are missing, at the hall's first start.

        Raises NotFoundError where a key is missing, UserError where others can read one, and IntegrityError for a
        file that holds no key or where the master key is gone while other keys are still there.
        """
        if create:
            _create(folder)
        owner_key = _read(folder / OWNER_FILE).decode("utf-8", "replace").strip()
        if not is_key_text(owner_key):
            raise IntegrityError("this file holds no API key", where=str(folder / OWNER_FILE), hint=_RESTORE)
        return cls(
            folder,
            masters=_keys(folder / MASTER_FILE),
            signer=Ed25519Signer.from_private(_one_key(folder / SIGNING_FILE)),
            answer_key=_one_key(folder / ANSWER_FILE),
            owner_key=owner_key,
        )

    def __repr__(self) -> str:
        return f"KeyRing({str(self._folder)!r})"

    @property
    def owner_key_hash(self) -> str:
        """The SHA-256 of the owner's API key, as an ApiKey record keeps it."""
        return hash_key(self.owner_key)

    @property
    def entry_key(self) -> bytes:
        """The key that shows which ledger entries the hall itself wrote, derived from the answer key; 32 bytes."""
        return hmac.digest(self.answer_key, b"datahall ledger entry\0", "sha256")

    @property
    def routes_key(self) -> bytes:
        """The key that seals route tables, derived from the answer key; 32 bytes. Gateways are given it."""
        return hmac.digest(self.answer_key, b"datahall route table\0", "sha256")

    @property
    def call_key(self) -> bytes:
        """The key that seals kept answers to mutating calls, derived from the answer key; 32 bytes."""
        return hmac.digest(self.answer_key, b"datahall call\0", "sha256")

    def wrap(self, data_key: bytes, *, team: str, object: str) -> bytes:
        """Return the data key of one object under the newest master key: format, key id, nonce, ciphertext.

        AES-256-GCM with a random nonce of 96 bits stays safe for 2^32 wraps under one key (NIST SP 800-38D, 8.3).
        """
        key_id, master = next(reversed(self._masters.items()))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = _FORMAT + key_id
        return head + nonce + AESGCM(master).encrypt(nonce, data_key, _bound(head, team, object))

    def unwrap(self, wrapped: bytes, *, team: str, object: str) -> bytes:
        """Return the data key. Raises IntegrityError where bytes, master key, team or object is another."""
        head, rest = wrapped[: 1 + _ID_BYTES], wrapped[1 + _ID_BYTES :]
        if head[:1] == _FORMAT and head[1:] not in self._masters:  # another process of this hall may have rotated
            with self._changing:  # what was read before a rotation of this process must not come after it
                self._masters = _by_id(_keys(self._folder / MASTER_FILE))
        master = self._masters.get(head[1:])
        if head[:1] != _FORMAT or master is None:
            raise IntegrityError(
                "the data key is wrapped under a master key that this hall does not have", where=object, hint=_RESTORE
            )
        try:
            return AESGCM(master).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], _bound(head, team, object))
        except (InvalidTag, ValueError) as error:  # ValueError: too short for a nonce
            raise IntegrityError("the data key is not the one of this object and team", where=object) from error

    def is_newest(self, wrapped: bytes) -> bool:
        """Return whether a data key lies under the newest master key."""
        return wrapped[1 : 1 + _ID_BYTES] == next(reversed(self._masters))

    @property
    def num_masters(self) -> int:
        """How many master keys can unwrap: one, unless a rotation kept older ones."""
        return len(self._masters)

    @property
    def older(self) -> tuple[str, ...]:
        """The ids of every master key but the newest, in hex: they only unwrap."""
        return tuple(key_id.hex() for key_id in list(self._masters)[:-1])

    def retire(self, ids: Iterable[str]) -> int:
        """Destroy these master keys and return how many; what only they can open is gone, in backups too.

        Call it once no data key lies under one of them, and none can come (`RetiredMaster`). Any other key stays,
        also one that came meanwhile. Raises ConflictError where the newest is among them: new data keys need it.
        """
        doomed = {bytes.fromhex(key_id) for key_id in ids}
        with self._alone() as masters:
            if list(masters)[-1] in doomed:
                raise ConflictError("the newest master key cannot be destroyed", hint="make another one first")
            kept = {key_id: master for key_id, master in masters.items() if key_id not in doomed}
            self._write(kept, at="keys.retire")
            return len(masters) - len(kept)

    def rotate(self) -> None:
        """Make a new master key for all wraps from now on; the old ones go on unwrapping."""
        with self._alone() as masters:
            master = secrets.token_bytes(_KEY_BYTES)
            self._write({**masters, _id_of(master): master}, at="keys.rotate")

    @contextmanager
    def _alone(self) -> Iterator[dict[bytes, bytes]]:
        """Yield the master keys that the file holds while no other thread or process changes them."""
        with self._changing:
            descriptor = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield _by_id(_keys(self._folder / MASTER_FILE))
            finally:
                os.close(descriptor)

    def _write(self, masters: dict[bytes, bytes], *, at: str) -> None:
        write_atomic(self._folder / MASTER_FILE, b"".join(_line(key) for key in masters.values()), at=at)
        self._masters = masters  # replaced, not changed: others may be reading it


_RESTORE: Final = "restore the keys folder from your own copy of it; it is not part of data backups"


def _create(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    others = [name for name in (SIGNING_FILE, ANSWER_FILE, OWNER_FILE) if (folder / name).exists()]
    if others and not (folder / MASTER_FILE).exists():
        # The master key is made first, so it was lost: a new one would open nothing that is stored.
        raise IntegrityError("the master key is gone", where=str(folder / MASTER_FILE), hint=_RESTORE)
    _write_once(folder / MASTER_FILE, _line(secrets.token_bytes(_KEY_BYTES)))
    _write_once(folder / SIGNING_FILE, _line(Ed25519Signer.generate().private_raw()))
    _write_once(folder / ANSWER_FILE, _line(secrets.token_bytes(_KEY_BYTES)))
    _write_once(folder / OWNER_FILE, f"{new_key_text()}\n".encode())


def _write_once(path: Path, data: bytes) -> None:
    """Create a file with mode 0600, whole or not at all; one that exists stays, also in a race."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_atomic(temporary, data, at="keys.stage")
    try:
        link(temporary, path, at="keys.create")  # fails where another process was first; a rename would replace its key
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    sync_folder(path.parent, at="keys.create")


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFoundError("this hall has no such key", where=str(path), hint=_RESTORE) from error
    except PermissionError as error:
        raise UserError("this key belongs to somebody else", where=str(path), hint="run as the hall's owner") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)  # of the file that is open, not of what the name may have become
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError("this is not a file", where=str(path), hint=_RESTORE)
        if status.st_mode & 0o077:
            raise UserError(
                f"others can use this key (mode {stat.S_IMODE(status.st_mode):04o})",
                where=str(path),
                hint=f"close it with: chmod 600 '{path}'; if anybody else uses this machine, make new keys",
            )
        if status.st_uid not in {os.geteuid(), 0}:
            raise UserError("this key belongs to somebody else", where=str(path), hint="run as the hall's owner")
        return file.read(_MAX_FILE_BYTES)


def _keys(path: Path) -> list[bytes]:
    try:
        keys = [base64.b64decode(line, validate=True) for line in _read(path).split()]
    except (binascii.Error, ValueError) as error:
        raise IntegrityError("this file holds no key", where=str(path), hint=_RESTORE) from error
    if not keys or any(len(key) != _KEY_BYTES for key in keys):
        raise IntegrityError(f"this file holds no key of {_KEY_BYTES} bytes", where=str(path), hint=_RESTORE)
    return keys


def _one_key(path: Path) -> bytes:
    keys = _keys(path)
    if len(keys) != 1:
        raise IntegrityError("this file must hold one key", where=str(path), hint=_RESTORE)
    return keys[0]


def _line(key: bytes) -> bytes:
    return base64.b64encode(key) + b"\n"


def _by_id(masters: list[bytes]) -> dict[bytes, bytes]:
    return {_id_of(master): master for master in masters}


def _id_of(master: bytes) -> bytes:
    return bytes.fromhex(digest_bytes(b"datahall master key id\0" + master))[:_ID_BYTES]


def _bound(head: bytes, team: str, object_name: str) -> bytes:
    # Length-prefixed, so that no team and object can be spelled as another pair.
    parts = [team.encode(), object_name.encode()]
    return head + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
