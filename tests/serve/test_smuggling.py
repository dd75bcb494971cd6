"""Nothing that nginx or uvicorn refuses is accepted here, and nobody behind us sees a request that they do not see.

Every case of `smuggling.py` goes, as the same bytes, to nginx, to uvicorn with both of its parsers, and to a gateway
twice: to a route that it answers itself, and to one that it passes on to control, which is a real uvicorn.
"""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httptools
import pytest

from datahall.serve import http
from tests.serve.peers import QUIET_SECONDS, Nginx, Seen, Server, Uvicorn
from tests.serve.smuggling import FAMILIES, GOOD, TARGET

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
HOT, COLD = b"/predict/flowers", b"/behind"
LAST = b"GET /last HTTP/1.1\r\nHost: hall\r\nConnection: close\r\n\r\n"
PATIENT_SECONDS = 3.0
"""For answers that must come: a busy machine may be late."""
PLAIN = GOOD["plain"].replace(TARGET, HOT)


LATE = "it is whole; uvicorn forgets requests in its pipeline when what follows them is no HTTP"
ROBUST = "RFC 9112 2.2 and 3 let a server skip empty lines and take several spaces as one, as nginx does"
ZEROS = "RFC 9112 7.1 has no limit on leading zeros; all that counts is the value, as nginx has it"
TAB = "RFC 9110 5.6.3 allows a tab before a value, and uvicorn's two parsers take it"
OLD = "uvicorn closes after an answer in HTTP/1.0, where `Connection: keep-alive` lets us go on"
EXCUSED = {
    "transfer_encodings '\\tchunked'": (("nginx",), TAB),
    "transfer_encodings 'Transfer_Encoding:'": (("uvicorn httptools",), LATE),
    "content_lengths '\\t34'": (("nginx",), TAB),
    "content_lengths 'Content_Length:'": (("uvicorn httptools",), LATE),
    "content_lengths shorter than the body": (("uvicorn httptools",), LATE),
    "chunk_sizes '0000000000000000000000000000000000000000000000000000000000+302": (("uvicorn h11",), ZEROS),
    "chunk_ends last '000000000000000000000\\r\\n\\r\\n'": (("uvicorn h11",), ZEROS),
    **{
        f"line_ends before {empty}": (("uvicorn h11",), ROBUST)
        for empty in (r"'\r\n'", r"'\r\n\r\n'", r"'\n'", r"'\r'", r"'\r\n\r\n\r\n\r\n'")
    },
    "first_lines two spaces": (("uvicorn h11",), ROBUST),
    "first_lines two spaces before the version": (("uvicorn h11",), ROBUST),
    "bodies HTTP/1.0 kept alive": (("uvicorn httptools", "uvicorn h11"), OLD),
    "bodies no length at all": (("uvicorn httptools",), LATE),
}
"""Disagreements that are none of ours: which peers, and why."""


class Ring:
    """All servers, asked at the same time."""

    def __init__(self, kit, folder):
        self.world = kit.World(folder)
        self.control = Uvicorn(kit.LoopThread, folder / "control.sock", http="httptools")
        self.world.deploy(kit.TinyPredictor(kit.manifest()))
        self.world.publish()
        self.world.start()
        self.ours = Server("ours", ("127.0.0.1", self.world.gateway.port), self.control.recorder)
        self.peers = [Uvicorn(kit.LoopThread, folder / f"{name}.sock", http=name) for name in ("httptools", "h11")]
        if NGINX is not None:
            self.peers.append(Nginx(kit.LoopThread, folder, NGINX))
        self.names = {peer.name for peer in self.peers}
        self.pool = ThreadPoolExecutor(len(self.peers))

    def close(self):
        self.pool.shutdown()
        for peer in self.peers:
            peer.close()
        self.world.close()
        self.control.close()

    def compare(self, case, *, repeated, quiet_seconds=QUIET_SECONDS):
        """Return what is wrong with how the case was taken, by the peer that disagrees, and a line of all."""
        once = case if not repeated else case + case
        before = PLAIN if repeated else b""

        def stream(target):
            return before + once.replace(TARGET, target) + LAST

        futures = {
            peer.name: self.pool.submit(peer.hear, stream(COLD), quiet_seconds=quiet_seconds) for peer in self.peers
        }
        hot, cold = self.ours.hear(stream(HOT)), self.ours.hear(stream(COLD))
        heard = {name: future.result() for name, future in futures.items()}
        # What is before the case is answered by the gateway, so that control does not see it.
        skip = 1 if repeated else 0
        wrong = self._disagree(heard, hot, cold, skip)
        if wrong:  # a slow peer may only have been late: those who disagree get more time
            slow = {
                peer.name: peer.hear(stream(COLD), quiet_seconds=PATIENT_SECONDS)
                for peer in self.peers
                if peer.name in wrong
            }
            wrong = self._disagree(slow, hot, cold, skip)
        table = {"hot": hot.statuses, "cold": cold.statuses, **{name: one.statuses for name, one in heard.items()}}
        return wrong, "  ".join(f"{name} {list(statuses)}" for name, statuses in table.items())

    @staticmethod
    def _disagree(heard, hot, cold, skip):
        wrong = {}
        for name, one in heard.items():
            behind = one.seen[skip:]
            if hot.num_accepted > len(one.seen):
                wrong[name] = f"{hot.num_accepted} answered, {len(one.seen)} by {name} ({list(one.statuses)})"
            elif cold.seen != behind[: len(cold.seen)]:
                wrong[name] = f"passed on {cold.seen}, but {name} saw {behind}"
        return wrong


@pytest.fixture(scope="module")
def ring(kit):
    folder = Path(tempfile.mkdtemp(prefix="dh-", dir="/tmp"))
    made = Ring(kit, folder)
    yield made
    made.close()
    shutil.rmtree(folder)


def test_nginx_is_one_of_the_peers():
    if NGINX is None:
        pytest.skip("NGINX IS NOT INSTALLED: the corpus is compared with uvicorn alone (apt-get install nginx-light)")
    assert Path(NGINX).exists()


def test_the_corpus_is_large():
    assert sum(len(cases) for cases in FAMILIES.values()) >= 500
    assert len({case for cases in FAMILIES.values() for case in cases.values()}) >= 500


@pytest.mark.parametrize("repeated", [False, True], ids=["alone", "twice after a good one"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_accepted_that_a_peer_refuses(ring, family, repeated):
    wrong = []
    for name, case in FAMILIES[family].items():
        found, line = ring.compare(case, repeated=repeated)
        print(f"{family} {name}: {line}")  # noqa: T201  `pytest -rP` shows what each server says to each case
        excused, reason = EXCUSED.get(f"{family} {name}", ((), ""))
        wrong += [f"{name}: {one}" for peer, one in found.items() if peer not in excused]
        if not repeated and reason != LATE:
            idle = {peer for peer in excused if peer in ring.names} - set(found)
            wrong += [f"{name}: {peer} needs no excuse" for peer in idle]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("form", GOOD)
@pytest.mark.parametrize("repeated", [False, True])
def test_good_requests_are_accepted_by_all(ring, form, repeated):
    """Without this, a server that refuses everything would pass."""
    case = GOOD[form]
    num = 2 if repeated else 1
    wrong, _ = ring.compare(case, repeated=repeated, quiet_seconds=PATIENT_SECONDS)
    assert not wrong
    hot = ring.ours.hear((case * num).replace(TARGET, HOT) + LAST)
    assert hot.statuses == (200,) * (num + 1)
    assert [one.target for one in hot.seen] == [b"/last"]
    cold = ring.ours.hear(case.replace(TARGET, COLD) + LAST)
    for peer in ring.peers:
        heard = peer.hear(case.replace(TARGET, COLD) + LAST, quiet_seconds=PATIENT_SECONDS)
        assert heard.seen == (*cold.seen, Seen("GET", b"/last", b""))
        assert heard.statuses == (200, 200)


LENIENT = {
    "lenient_headers": ("header_syntax", r"'X: a\x00b'"),
    "lenient_chunked_length": ("both_lengths", "4"),
    "lenient_optional_crlf_after_chunk": ("chunk_ends", "''"),
}


@pytest.mark.parametrize("flag", LENIENT)
def test_a_lenient_parser_is_found_out(ring, monkeypatch, flag):
    """Negative controls: with one check of the parser off, and our own rules off too, the law breaks."""
    family, name = LENIENT[flag]
    case = FAMILIES[family][name]
    assert not ring.compare(case, repeated=False)[0]
    strict = httptools.HttpRequestParser

    def lenient(protocol):
        parser = strict(protocol)
        parser.set_dangerous_leniencies(**{flag: True})
        return parser

    monkeypatch.setattr(http.httptools, "HttpRequestParser", lenient)
    monkeypatch.setattr(http, "read_head", trusting)
    found, line = ring.compare(case, repeated=False)
    assert found, line


def trusting(request, version):
    """Read a head as it was read before there were rules beyond the parser's."""
    request.path = request.target.partition(b"?")[0].decode("latin-1")
    length = request.header(b"content-length")
    request.content_length = int(length) if length is not None else None


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("transfer_encodings", "'gzip, chunked'"),
        ("transfer_encodings", "old version"),
        ("methods", "bare 'TRACE'"),
        ("first_lines", "'HTTP/2.0'"),
        ("first_lines", "no version"),
        ("targets", "'{TARGET}#x'"),
        ("targets", "'{TARGET}%zz'"),
        ("targets", "'/../..{TARGET}'"),
        ("hosts", "'a b'"),
        ("hosts", "'hall/x'"),
    ],
)
def test_each_rule_of_ours_is_what_refuses(ring, monkeypatch, family, name):
    case = FAMILIES[family][name]
    assert not ring.compare(case, repeated=False)[0]
    monkeypatch.setattr(http, "read_head", trusting)
    found, line = ring.compare(case, repeated=False)
    assert found, line
