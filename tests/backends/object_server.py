"""A real S3 server on this machine (moto's), and a proxy in front of it that fails as it is told."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from moto.server import ThreadedMotoServer

OPTIONS = {"region": "us-east-1", "access_key_id": "test", "secret_access_key": "test"}
Fault = Callable[[str, str], str]
"""Is told method and path of a request; answers "" to let it pass, or how it fails: "503", "lost" (the server never
sees it), "unheard" (the server does it, the answer is lost) or "cut" (the answer ends half-way)."""


class Server:
    """moto's S3 server with one bucket, and what lies in it."""

    def __init__(self) -> None:
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.host, self.port = self._moto.get_host_and_port()
        self._client = boto3.client(
            "s3",
            endpoint_url=f"http://{self.host}:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self._num_buckets = 0

    def bucket(self) -> str:
        """Make a bucket of its own and return its name."""
        self._num_buckets += 1
        name = f"hall-{self._num_buckets}"
        self._client.create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Return what lies in a bucket, as the server has it."""
        found = self._client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {item["Key"]: self._client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}

    def close(self) -> None:
        self._client.close()
        self._moto.stop()


class Proxy:
    """Passes requests on to a server, unless its `fault` says how they fail; keeps what it was asked."""

    def __init__(self, host: str, port: int) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fault: Fault = lambda *_: ""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.asked.append((self.command, self.path))
                how = proxy.fault(self.command, self.path)
                if how == "503":
                    self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
                    return
                if how == "lost":
                    self.close_connection = True
                    return
                connection = http.client.HTTPConnection(host, port, timeout=20)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if how == "unheard":
                    self.close_connection = True
                    return
                kept = [item for item in answer.getheaders() if item[0].lower() not in {"connection", "content-length"}]
                size = answer.headers.get("Content-Length", str(len(data)))
                self._answer(answer.status, kept, data[: len(data) // 2] if how == "cut" else data, size)
                self.close_connection = self.close_connection or how == "cut"

            def _answer(
                self, status: int, headers: list[tuple[str, str]], data: bytes, size: str | None = None
            ) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", size or str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)
                    self.wfile.flush()

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that hung up is what these tests are about."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
