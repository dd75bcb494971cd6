"""A little HTTP server on this machine that keeps what is PUT to it and compares ETags."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class NoteServer(ThreadingHTTPServer):
    """Holds notes by path. `conditional` False ignores the conditions, `tagged` False gives no ETag: the controls."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.notes: dict[str, bytes] = {}
        self.guard = threading.Lock()
        self.conditional, self.tag_form, self.status = True, '"{}"', None
        self.before_put = lambda: None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/heads"

    def tag(self, path):
        return self.tag_form.format(hashlib.sha256(self.notes[path]).hexdigest())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self):
        with self.server.guard:
            if self.server.status or self.path not in self.server.notes:
                self.answer(self.server.status or 404)
            else:
                tag = self.server.tag(self.path)
                self.answer(200, self.server.notes[self.path], {"ETag": tag} if tag else {})

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.before_put()
        with self.server.guard:
            there = self.path in self.server.notes
            wanted, absent = self.headers["If-Match"], self.headers["If-None-Match"]
            stale = (wanted is not None and (not there or wanted != self.server.tag(self.path))) or (absent and there)
            if self.server.conditional and stale:
                self.answer(412)
                return
            self.server.notes[self.path] = body
            self.answer(204)

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def serving():
    """Yield a running server."""
    with NoteServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
