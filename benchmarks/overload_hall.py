"""A gateway and a replica as processes of their own, with a model of a chosen price; and what the kernel knows of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from datahall.backends.transport.unix import UnixTransport
from datahall.core.canonical import digest_bytes, digest_of
from datahall.core.clock import SystemClock
from datahall.core.ports import Columns
from datahall.core.records import BundleManifest, Column, KeyGrant, Route, RouteReplica, RouteTable
from datahall.security.signing import Ed25519Signer
from datahall.serve.config import GatewayConfig
from datahall.serve.gateway import serve
from datahall.serve.replica import ReplicaRequest, run
from datahall.serve.table import publish_routes

KEY = "dh_benchmark"
ROUTES_KEY = bytes(range(32))
FEATURES = 8
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BLOCK = bytes(1 << 14)
_BODY = json.dumps({f"x{index}": 0.5 for index in range(FEATURES)}).encode()
REQUEST = (
    f"POST /predict/priced HTTP/1.1\r\nHost: hall\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(_BODY)}\r\n\r\n"
).encode() + _BODY


class PricedPredictor:
    """Says the sum of a row, and takes a fixed processor time for each row, as a model that batching does not help."""

    def __init__(self, cost_us: float) -> None:
        self.manifest = _manifest()
        self._cost_ns = cost_us * 1000

    def predict(self, columns: Columns) -> dict[str, np.ndarray]:
        """Return `label` for each row."""
        values = np.column_stack(list(columns.values())).sum(axis=1)
        end = time.thread_time_ns() + self._cost_ns * len(values)
        while time.thread_time_ns() < end:
            hashlib.sha256(_BLOCK)  # without the interpreter's lock, as numerics work
        return {"label": values}


class Hall:
    """The processes, both on one core; use it as a context manager."""

    def __init__(self, *, cost_us: float, core: int) -> None:
        self._cost_us, self._core = cost_us, core
        self._folder = Path(tempfile.mkdtemp(prefix="dh-"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = 0

    def __enter__(self) -> Self:
        """Start both and return once the route is ready."""
        try:
            signer = Ed25519Signer.generate()
            for name in ("answers", "run"):
                (self._folder / name).mkdir()
            manifest = _manifest()
            replica = str(self._folder / "replica.sock")
            order = ReplicaRequest(bundle=digest_of(manifest), address=replica, replica="r1")
            self._start("replica", {"request": msgspec.to_builtins(order), "cost_us": self._cost_us})
            self._publish(manifest, replica, signer)
            self.port = int(self._start("gateway", msgspec.to_builtins(self._config(signer))))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def cpu_s(self, name: str) -> float:
        """Return the processor time that a process has used, in seconds (proc(5), fields 14 and 15)."""
        fields = Path(f"/proc/{self.processes[name].pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def memory_mb(self, name: str) -> float:
        """Return the resident memory of a process in MB."""
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text("utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024 / 1e6

    def _start(self, name: str, told: object) -> str:
        process = subprocess.Popen(  # noqa: S603  (our own program)
            [sys.executable, "-m", "benchmarks.overload_hall", name, str(self._core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.processes[name] = process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(told))
        process.stdin.close()
        said = process.stdout.readline().decode().strip()
        if not said:
            raise SystemExit(f"the {name} did not start; it ended with {process.wait()}")
        return said

    def _publish(self, manifest: BundleManifest, address: str, signer: Ed25519Signer) -> None:
        route = Route(
            app="priced",
            team="main",
            deployment="dep-priced",
            version="1.0.0",
            manifest=manifest,
            bundle=digest_of(manifest),
            replicas=(RouteReplica(id="r1", address=address),),
            protocols=("predict", "v2"),
        )
        grant = KeyGrant(key_id="k1", principal="benchmark", team="main", scopes=("predict",), expires_at_ns=None)
        table = RouteTable(
            id="current",
            revision=1,
            routes=(route,),
            keys={digest_bytes(KEY.encode()): grant},
            published_at_ns=time.time_ns(),
        )
        publish_routes(self._folder / "routes.json", table, signer, ROUTES_KEY)

    def _config(self, signer: Ed25519Signer) -> GatewayConfig:
        return GatewayConfig(
            gateway="g1",
            control_address=str(self._folder / "control.sock"),
            routes=str(self._folder / "routes.json"),
            answers=str(self._folder / "answers"),
            runtime=str(self._folder / "run"),
            answer_key=b"k" * 32,
            routes_key=ROUTES_KEY,
            route_keys={signer.key_id: signer.public_key},
        )


def _manifest() -> BundleManifest:
    return BundleManifest(
        app="priced",
        task="regression",
        engine="sklearn",
        engine_settings={},
        features=tuple(Column(name=f"x{index}", kind="number") for index in range(FEATURES)),
        target=Column(name="y", kind="number"),
        threshold=None,
        environment="e" * 64,
        files={},
    )


def raise_file_limit() -> None:
    """Let this process have as many sockets as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(name: str, core: int) -> int:
    """Be the gateway or the replica, on one core, as standard input tells."""
    os.sched_setaffinity(0, {core})
    raise_file_limit()
    told = sys.stdin.buffer.read()
    if name == "gateway":
        config = msgspec.json.decode(told, type=GatewayConfig)
        return serve(
            config, transport=UnixTransport(), clock=SystemClock(), listening=lambda port: print(port, flush=True)
        )
    order = json.loads(told)
    return run(
        msgspec.convert(order["request"], ReplicaRequest),
        b"",
        open_predictor=lambda _, **__: PricedPredictor(order["cost_us"]),
        listening=lambda: print("ready", flush=True),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
