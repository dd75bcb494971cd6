"""How long a replica, and a whole hall, take from their start to the first answer, and what memory each process holds.

Run it on a quiet machine: `python benchmarks/process_start.py`. The hall is a fresh one with the released example
`tumours`, started by `datahall up -d`; every figure is the median of its runs. Memory is the proportional set size
(PSS): a page that several processes share counts in parts. Beside them: an empty Python and one that has imported
FastAPI, the least that any peer's process holds.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import psutil
from rich.console import Console

from datahall.app.cli.session import owner_key
from datahall.app.demo import Demo, write_rows
from datahall.app.replicas import Replicas, wait_ready
from datahall.app.supervision import read_state
from datahall.app.wiring import open_hall
from datahall.backends.launch.local import LocalLauncher
from datahall.backends.transport.unix import UnixAnswerer
from datahall.core.hall import HallPaths
from datahall.core.records import Bundle, Deployment
from datahall.engines.bundle import unpack
from datahall.serve.replica import sample_columns

RUNS = 5
GIVE_UP_S = 60.0
EMPTY = "import time; time.sleep(60)"


def main() -> None:
    """Print seconds and megabytes."""
    folder = Path(tempfile.mkdtemp(prefix="dh"))
    demo = Demo(folder, Console(quiet=True))
    try:
        demo.do("new", "tumours", "--template", "tumours")
        demo.do("run", "--yes", "tumours/app.yaml")
        demo.do("stop")
        write_rows(folder)
        paths = HallPaths(folder / "hall")
        replica = [_replica(paths, folder / f"r{number}") for number in range(RUNS)]
        halls = [_hall(demo, paths, folder) for _ in range(RUNS)]
    finally:
        demo.do("stop", quiet=True)
        shutil.rmtree(folder)
    print(f"{'':<42}{'seconds':>9}{'goal':>7}   ({RUNS} runs)")
    print(f"{'replica: start to first answer':<42}{statistics.median(replica):>9.2f}{0.7:>7}")
    print(f"{'hall: datahall up to first answer over HTTP':<42}{statistics.median(s for s, _ in halls):>8.2f}{3.0:>7}")
    print(f"\n{'':<42}{'MB, PSS':>9}{'goal':>7}")
    for name in sorted({name for _, held in halls for name in held}):
        figure = statistics.median(held[name] for _, held in halls if name in held)
        print(f"{name:<42}{figure:>9.1f}" + (f"{80:>7}" if name in ("gateway", "replica") else ""))
    print(f"{'empty python':<42}{_python(EMPTY):>9.1f}")
    print(f"{'python with fastapi imported (the peers)':<42}{_python(f'import fastapi; {EMPTY}'):>9.1f}")


def _replica(paths: HallPaths, folder: Path) -> float:
    folder.mkdir()
    with open_hall(paths) as hall:
        (deployment,) = hall.catalogue.find(Deployment, state="live")
        bundle = hall.catalogue.get(Bundle, deployment.bundle)
        launcher = LocalLauncher(folder / "logs", folder / "work")
        replicas = Replicas(launcher, hall.vault, folder)
        manifest, _ = unpack(hall.vault.read(deployment.team, bundle.artifact))
        start = time.perf_counter()
        wait_ready(replicas.start("r", bundle, deployment.team))
        answerer = UnixAnswerer(replicas.address("r"))
        answerer.answer(sample_columns(manifest, 1))
        seconds = time.perf_counter() - start
        answerer.close()
        launcher.stop_all()
    return seconds


def _hall(demo: Demo, paths: HallPaths, folder: Path) -> tuple[float, dict[str, float]]:
    body = msgspec.json.encode({"rows": msgspec.json.decode((folder / "three-cases.json").read_bytes())})
    key = owner_key(paths)
    start = time.perf_counter()
    demo.do("up", "-d")
    state = read_state(paths)
    assert state is not None, "the hall is up"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with httpx.Client() as client:
        while client.post(f"{state.url}/predict/tumours", content=body, headers=headers).status_code != 200:
            assert time.perf_counter() - start < GIVE_UP_S, "the hall does not answer"
            time.sleep(0.01)
    seconds = time.perf_counter() - start
    held = {"supervisor": _pss(state.pid)}
    for process in psutil.Process(state.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            held[process.cmdline()[-1]] = _pss(process.pid)
    demo.do("stop")
    return seconds, held


def _pss(pid: int) -> float:
    """Return a process's proportional set size in megabytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _python(code: str) -> float:
    with _running(code) as process:
        before = -1.0
        while (now := _pss(process.pid)) != before:
            before = now
            time.sleep(1.0)
        return now


@contextlib.contextmanager
def _running(code: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", code])  # noqa: S603  our own interpreter and words
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
