"""The gateway's speed beside other servers of models and beside bare echoes.

    make bench-serve                    with every peer, installed into .venv-peers
    make bench-serve PEERS="mlserver"   with some of them; PEERS= with none

Servers take turns in an order that is shuffled each round; each server's processes share one core and wrk has the
other. Figures are medians over the rounds, and go to build/bench-serve too: results.json, report.txt, results.svg.
Only ratios mean anything on another machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import msgspec

import datahall
from benchmarks.serving import duties, parts, report, rounds
from benchmarks.serving.cases import DIGITS, TUMOURS
from benchmarks.serving.drive import require_wrk
from benchmarks.serving.hall import Hall
from benchmarks.serving.install import install
from benchmarks.serving.machine import adopt_orphans, two_cores
from benchmarks.serving.results import Results
from benchmarks.serving.servers import PEERS

BUILD = Path("build/bench-serve")
ENVIRONMENTS = Path(".venv-peers")


def main() -> int:
    """Measure, print, write; return 0, or 1 where anything but a peer could not be measured."""
    options = _options()
    require_wrk()
    cores = two_cores()
    adopt_orphans()
    build, environments = BUILD.resolve(), ENVIRONMENTS.resolve()
    build.mkdir(parents=True, exist_ok=True)
    results = Results(machine=_machine(), seconds=options.seconds, fresh=options.fresh, seed=options.seed)
    began = time.monotonic()
    peers = _installed(options.peers, environments, results)

    print("the applications go through their lifecycle, and every server starts once", flush=True)
    everybody = rounds.contestants(peers, cores=cores, environments=environments, build=build)
    able = rounds.warm_up(everybody, results)
    rounds.play(
        able,
        results,
        rounds=options.rounds,
        seconds=options.seconds,
        core=cores[1],
        fresh=options.fresh,
        seed=options.seed,
    )
    rounds.crowd(able, results, core=cores[1])
    _look_inside(results, build, cores)

    shown = report.text(results)
    (build / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    (build / "report.txt").write_text(shown, encoding="utf-8")
    (build / "results.svg").write_text(report.svg(results), encoding="utf-8")
    print(f"\n{shown}\n{time.monotonic() - began:.0f} s in all; {BUILD}/results.json has every round", flush=True)
    return int(any(name.partition(",")[0] not in PEERS for name in results.missing))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default=" ".join(PEERS), help=f"which of: {' '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each level of load")
    parser.add_argument("--fresh", action="store_true", help="give every request a header that no other one has")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which servers take turns")
    options = parser.parse_args()
    options.peers = options.peers.split()
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        parser.error(f"there is no peer '{unknown[0]}'; there are: {', '.join(PEERS)}")
    return options


def _installed(names: list[str], environments: Path, results: Results) -> list[str]:
    able = []
    for name in names:
        problem = install(name, environments)
        if problem:
            results.missing[name] = f"not installed: {problem}"
            print(f"{name} is left out: {problem}", flush=True)
        else:
            able.append(name)
    return able


def _look_inside(results: Results, build: Path, cores: tuple[int, int]) -> None:
    """Start replicas alone, feed models growing batches, and time the gateway's duties."""
    net, forest = Hall(DIGITS, build), Hall(TUMOURS, build)
    results.replica_cold_start_s = parts.replica_starts(net, core=cores[0], count=3)
    for model, hall in (("digits", net), ("tumours", forest)):
        results.rows_us[model], results.caps[model] = parts.batches(hall, core=cores[0])
    try:
        results.duties_us = duties.measure(net, cores=cores)
    except LookupError as error:
        results.missing["the duties of an answer"] = str(error)


def _machine() -> dict[str, str]:
    packages = ("uvloop", "uvicorn", "onnxruntime", "scikit-learn", "numpy")
    return {
        "Datahall": datahall.__version__,
        "Python": platform.python_version(),
        **{name: version(name) for name in packages},
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
    }


if __name__ == "__main__":
    sys.exit(main())
