"""What a gateway still answers when far more is asked than its model can do, on a timetable that waits for nobody.

`python -m benchmarks.overload` starts a real gateway and a real replica on one core and asks from another. Before each load
the most that can be answered is found (closed loop), then 0.8, 2, 5 and 10 times that is offered (open loop: latency
counts from when a request was due). A refusal costs r of an answer, so at k times the peak no server can do better than
(1 - k r) / (1 - r) of it; this bound is printed beside. `work` is what the replica computed for each answer that
somebody got, in units of one row: above 1 where it worked for clients who had given up, as retry storms make it do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.overload_hall import REQUEST, Hall, raise_file_limit
from datahall.evaluate.load import Connect, LoadReport, LoadSettings, offer, poisson, saturate

FACTORS = (0.8, 2.0, 5.0, 10.0)
RECOVERY_SECONDS = 30.0
_NUM_NORMAL = 10
"""So many answers in a row, each as fast as at 0.8 times the peak, are called normal."""


class Bench:
    """One hall under load, and what came of each load."""

    def __init__(self, hall: Hall, connect: Connect, *, seconds: float, seed: int) -> None:
        self._hall, self._connect, self._seconds = hall, connect, seconds
        self._draw = random.Random(seed)  # noqa: S311  arrivals, no secrets
        self.peak_per_s = 0.0
        self._num_at_peak = 1
        self._normal_ms = math.inf
        self._gateway_us = self._answer_us = math.nan

    async def find_peak(self) -> dict[str, Any]:
        """Ask without pause over 4, 16 and 64 connections; the best is the peak."""
        await saturate([REQUEST], self._connect, seconds=0.5, settings=LoadSettings(max_connections=4))
        found = {}
        for num in (4, 16, 64):
            settings = LoadSettings(max_connections=num)
            report = await saturate([REQUEST], self._connect, seconds=self._seconds, settings=settings)
            found[num] = report.goodput_per_s
        self._num_at_peak = max(found, key=lambda num: found[num])
        self.peak_per_s = found[self._num_at_peak]
        return {"load": "closed", "goodput_per_s": found, "peak_per_s": self.peak_per_s}

    async def _find_peak_again(self) -> None:
        """Measure the peak anew before each load: machines become faster and slower while one measures."""
        settings = LoadSettings(max_connections=self._num_at_peak)
        report = await saturate([REQUEST], self._connect, seconds=max(self._seconds / 4, 0.5), settings=settings)
        self.peak_per_s = report.goodput_per_s

    async def at(self, factor: float, **client: Any) -> dict[str, Any]:
        """Offer `factor` times the peak."""
        await self._find_peak_again()
        settings = LoadSettings(max_connections=1000, **client)
        arrivals = poisson(factor * self.peak_per_s, self._draw)
        found = await self._measured(
            offer([REQUEST], arrivals, self._connect, seconds=self._seconds, settings=settings, draw=self._draw)
        )
        if factor < 1:  # all later loads are compared with this one
            self._normal_ms = found["p99_ms"]
            self._gateway_us = found["gateway_cpu_s"] * 1e6 / found["num_answered"]
            self._answer_us = self._gateway_us + found["replica_cpu_s"] * 1e6 / found["num_answered"]
        else:
            found |= self._bound(factor, found)
            found["p99_ratio"] = found["p99_ms"] / self._normal_ms
            found["recovery_s"] = await self._recovery()
        return {"load": f"{factor:g}x", **found}

    async def crowd(self, num_connections: int) -> dict[str, Any]:
        """Let many clients ask without pause, each again at once, whether answered or refused."""
        settings = LoadSettings(max_connections=num_connections)
        found = await self._measured(saturate([REQUEST], self._connect, seconds=self._seconds, settings=settings))
        return {"load": f"{num_connections} conns", **found, "recovery_s": await self._recovery()}

    async def storm(self, factor: float, num_retries: int) -> dict[str, Any]:
        """Offer too much, by clients who repeat what is refused and do not wait as long as they are told."""
        found = await self.at(
            factor, max_retries=num_retries, honour_retry_after=False, retry_seconds=0.1, timeout_seconds=2.0
        )
        return {**found, "load": f"storm {factor:g}x"}

    async def _measured(self, load: Coroutine[Any, Any, LoadReport]) -> dict[str, Any]:
        hall, names = self._hall, ("gateway", "replica")
        before = {name: (hall.cpu_s(name), hall.memory_mb(name)) for name in names}
        own_s = time.process_time()
        report = await load
        own_s = time.process_time() - own_s
        found = _figures(report)
        for name in names:
            found[f"{name}_cpu_s"] = hall.cpu_s(name) - before[name][0]
            found[f"{name}_mb"] = (before[name][1], hall.memory_mb(name))
        found["of_peak"] = report.goodput_per_s / self.peak_per_s if self.peak_per_s else math.nan
        found["peak_per_s"] = self.peak_per_s
        found["generator_cpu"] = own_s / max(report.seconds, 1e-9)
        return found

    def _bound(self, factor: float, found: dict[str, Any]) -> dict[str, float]:
        """Return the price of a refusal, and the best that a server with this price could do.

        What the gateway used beyond its price for the answers went into refusals; with repetitions, into all of them.
        """
        num_refused = found["attempts"].get("503", 0) + found["attempts"].get("429", 0)
        spent_us = found["gateway_cpu_s"] * 1e6 - found["num_answered"] * self._gateway_us
        refusal_us = max(spent_us, 0.0) / num_refused if num_refused else math.nan
        r = refusal_us / self._answer_us
        work = found["replica_cpu_s"] * 1e6 / max(found["num_answered"], 1) / (self._answer_us - self._gateway_us)
        return {
            "refusal_us": refusal_us,
            "answer_us": self._answer_us,
            "r": r,
            "bound": max(0.0, (1 - factor * r) / (1 - r)) if r != 1 else 0.0,
            "work_amplification": work,
        }

    async def _recovery(self) -> float:
        """Return the seconds from the end of a load until answers are normal again; infinity where they never are."""
        begin, last, normal = time.monotonic(), time.monotonic(), 0
        while time.monotonic() - begin < RECOVERY_SECONDS:
            settings = LoadSettings(max_connections=1)
            report = await offer([REQUEST], [0.0], self._connect, seconds=0.01, settings=settings)
            good = report.outcomes["200"] == 1 and report.answered.max_us / 1e3 <= 2 * self._normal_ms
            normal = normal + 1 if good else 0
            if normal == 0:
                last = time.monotonic()
            if normal == _NUM_NORMAL:
                return last - begin
            await asyncio.sleep(0.01)
        return math.inf


def _figures(report: LoadReport) -> dict[str, Any]:
    answered = sum(count for status, count in report.outcomes.items() if status.startswith("2"))
    return {
        "seconds": report.seconds,
        "num_offered": report.num_offered,
        "num_attempts": report.num_attempts,
        "num_answered": answered,
        "goodput_per_s": report.goodput_per_s,
        "outcomes": dict(Counter(report.outcomes)),
        "attempts": dict(Counter(report.attempts)),
        "p50_ms": report.answered.quantile_ms(0.5),
        "p99_ms": report.answered.quantile_ms(0.99),
        "refused_p99_ms": report.refused.quantile_ms(0.99),
        "attempts_per_request": report.amplification,
        "lag_p99_ms": report.lag.quantile_ms(0.99),
    }


async def measure(
    cost_us: float, arguments: argparse.Namespace, cores: tuple[int, int], *, full: bool
) -> dict[str, Any]:
    """Return everything about a model of this price; only the bound and 10 times the peak unless `full`."""
    loop = asyncio.get_running_loop()
    with Hall(cost_us=cost_us, core=cores[0]) as hall:

        async def connect(make: Any) -> object:
            return await loop.create_connection(make, "127.0.0.1", hall.port)

        bench = Bench(hall, connect, seconds=arguments.seconds, seed=arguments.seed)
        await _until_ready(connect)
        loads = [await bench.find_peak()]
        loads += [await bench.at(factor) for factor in (FACTORS if full else (FACTORS[0], FACTORS[-1]))]
        if full:
            loads.append(await bench.storm(2.0, 3))
            loads.append(await bench.crowd(arguments.connections))
    return {"cost_us": cost_us, "peak_per_s": bench.peak_per_s, "loads": loads}


async def _until_ready(connect: Connect) -> None:
    for _ in range(500):
        report = await offer([REQUEST], [0.0], connect, seconds=0.01)
        if report.outcomes["200"]:
            return
        await asyncio.sleep(0.02)
    raise SystemExit(f"the hall does not answer: {dict(report.outcomes)}")


def table(found: list[dict[str, Any]]) -> str:
    """Return all loads as text, one a line."""
    lines = []
    for model in found:
        lines.append(
            f"\na model of {model['cost_us']:g} us a row: at most {model['peak_per_s']:,.0f} answers/s (closed loop)"
        )
        heads = (
            "load",
            "answered/s",
            "of peak",
            "bound",
            "p50 ms",
            "p99 ms",
            "work",
            "tries",
            "normal s",
            "gateway MB",
        )
        lines.append("".join(f"{head:>12}" for head in heads) + "  outcomes")
        for load in model["loads"][1:]:
            before, after = load["gateway_mb"]
            cells = [
                load["load"],
                f"{load['goodput_per_s']:,.0f}",
                f"{load['of_peak']:.1%}",
                f"{load['bound']:.1%}" if load.get("refusal_us", math.nan) > 0 else "",
                f"{load['p50_ms']:.1f}",
                f"{load['p99_ms']:.1f}",
                f"{load['p99_ratio']:.2f}x" if "p99_ratio" in load else "",
                f"{load['work_amplification']:.2f}x" if "work_amplification" in load else "",
                f"{load['attempts_per_request']:.2f}x",
                f"{load['recovery_s']:.2f}" if "recovery_s" in load else "",
                f"{before:.0f}->{after:.0f}",
            ]
            outcomes = ", ".join(f"{count} {name}" for name, count in sorted(load["outcomes"].items()))
            lines.append("".join(f"{cell:>12}" for cell in cells) + f"  {outcomes}")
        priced = [load for load in model["loads"] if load.get("refusal_us", math.nan) > 0]
        if priced:
            prices = ", ".join(f"{load['refusal_us']:.1f} us at {load['load']}" for load in priced)
            lines.append(f"a refusal costs {prices}; an answer costs {priced[0]['answer_us']:.0f} us in all")
        late = max(load["lag_p99_ms"] for load in model["loads"][1:] if not math.isnan(load["lag_p99_ms"]))
        lines.append(f"the generator itself was late by at most {late:.1f} ms (p99)")
    return "\n".join(lines)


def main() -> int:
    """Measure, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--cost-us", type=float, default=3000.0, help="processor time of a row in the model")
    parser.add_argument(
        "--cheaper-us", type=float, nargs="*", default=[500.0, 100.0], help="models for the bound alone"
    )
    parser.add_argument("--connections", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this benchmark needs two cores: one for the hall, one for the clients")
    raise_file_limit()
    os.sched_setaffinity(0, {cores[1]})
    found = []
    for cost_us in (arguments.cost_us, *arguments.cheaper_us):
        full = cost_us == arguments.cost_us
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found.append(runner.run(measure(cost_us, arguments, (cores[0], cores[1]), full=full)))
        print(table(found[-1:]), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
