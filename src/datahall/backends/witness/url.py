"""A witness behind a URL: any HTTP server that keeps what is PUT to it and compares ETags (RFC 9110, 13.1)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from datahall.core.canonical import digest_bytes
from datahall.core.errors import UserError
from datahall.ledger.witnessing import Prove, check_head, out_of_reach

_MAX_NOTE_BYTES = 64 << 10
_MAX_PIECES = 64  # a server that trickles must not hold up a checkpoint for long
_MAX_TRIES = 5


class UrlWitness:
    """Remembers each hall's newest tree head at `<url>/<digest of the origin>.note`.

    A note is only ever replaced under `If-Match` with the tag of the one that was checked, so of two writers one is
    refused and looks again. The server must give strong ETags and honour `If-Match` and `If-None-Match`. Any threads
    and processes may share it.
    """

    def __init__(self, url: str, prove: Prove, *, timeout_s: float = 5.0) -> None:
        """Raises UserError for a URL that is not https, or plain http beyond this machine."""
        self._url, self._prove = _checked(url), prove
        self._client = httpx.Client(
            timeout=timeout_s,
            follow_redirects=False,
            limits=httpx.Limits(max_keepalive_connections=0),  # nothing is left open between two heads
            headers={"Accept-Encoding": "identity"},
            trust_env=not _is_loopback(self._url.host),  # no proxy stands between this machine and itself
        )

    def newest(self, origin: str) -> str | None:
        """Return the newest checkpoint note seen of `origin`, None if there is none. Raises UnavailableError."""
        return self._read(origin)[0]

    def publish(self, origin: str, note: str) -> None:
        """Remember `note` as the newest of `origin`.

        Raises IntegrityError, and remembers nothing, where `check_head` does. Raises UnavailableError where the server
        cannot be reached or does not do as it should, or others write all the time.
        """
        check_head(origin, None, note, self._prove, where=self._place(origin), forget="")
        for _ in range(_MAX_TRIES):
            seen, tag = self._read(origin)
            forget = "delete the note named above"
            check_head(origin, seen, note, self._prove, where=self._place(origin), forget=forget)
            if seen == note or self._write(origin, note, tag):
                return
        raise out_of_reach("others write to it all the time", self._place(origin))

    def _read(self, origin: str) -> tuple[str | None, str | None]:
        """Return the note and its tag, both None where there is none."""
        try:
            with self._client.stream("GET", self._at(origin)) as response:
                if response.status_code == 404:
                    return None, None
                self._expect(response, origin, {200})
                body = b""
                for number, chunk in enumerate(response.iter_raw()):
                    body += chunk
                    if len(body) > _MAX_NOTE_BYTES or number >= _MAX_PIECES:
                        raise out_of_reach("what lies there is no note", self._place(origin))
                tag = response.headers.get("ETag", "")
        except httpx.HTTPError as error:
            raise out_of_reach(_said(error), self._place(origin)) from error
        if not tag or tag.startswith("W/"):
            raise out_of_reach(
                "its server gives no strong ETag, so writers could not see each other", self._place(origin)
            )
        return body.decode("utf-8", "replace"), tag

    def _write(self, origin: str, note: str, tag: str | None) -> bool:
        """Put the note in the place of the one with that tag; return whether nobody else was first."""
        condition = {"If-None-Match": "*"} if tag is None else {"If-Match": tag}
        headers = {"Content-Type": "text/plain; charset=utf-8", **condition}
        try:
            response = self._client.put(self._at(origin), content=note.encode(), headers=headers)
        except httpx.HTTPError as error:
            raise out_of_reach(_said(error), self._place(origin)) from error
        if response.status_code == 412:
            return False
        self._expect(response, origin, {200, 201, 204})
        return True

    def _expect(self, response: httpx.Response, origin: str, statuses: set[int]) -> None:
        if response.status_code not in statuses:
            raise out_of_reach(f"its server answers {response.status_code}", self._place(origin))

    def _at(self, origin: str) -> httpx.URL:
        # Named by digest: an origin may hold slashes.
        name = f"{digest_bytes(origin.encode())[:32]}.note"
        return self._url.copy_with(path=f"{self._url.path.rstrip('/')}/{name}")

    def _place(self, origin: str) -> str:
        """Return where the note of an origin lies, without a password that the URL may hold."""
        return str(self._at(origin).copy_with(userinfo=b""))


def _checked(url: str) -> httpx.URL:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UserError("a witness's URL begins with https:// and names a host", hint="for example https://host/path")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise UserError("a witness beyond this machine needs https", where=parts.hostname)
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(f"this is no URL: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _said(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


if TYPE_CHECKING:
    from datahall.core.ports import Witness

    _: Witness = UrlWitness("", lambda _old, _new: [])
