"""Every server in turn, in another order each round, so that what else the machine does meets all of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.cases import DIGITS, DIGITS_SKLEARN, SLOW_ONE, SLOW_TWO, TUMOURS, TUMOURS_SKLEARN
from benchmarks.serving.drive import load
from benchmarks.serving.hall import Hall
from benchmarks.serving.machine import pss_mb
from benchmarks.serving.results import Crowd, Results, Sample
from benchmarks.serving.servers import ECHOES, PEERS, Running, StartError, WrongAnswerError, echo, peer

ALL = (1, 16, 64, 256)
CROWD = 1500
_HALLS = (
    ("datahall", DIGITS, 1, ALL),
    ("datahall, scikit-learn", DIGITS_SKLEARN, 1, (64,)),
    ("datahall", TUMOURS, 1, (1, 64)),
    ("datahall, scikit-learn", TUMOURS_SKLEARN, 1, (64,)),
    ("one gateway", SLOW_ONE, 1, (64,)),
    ("two gateways", SLOW_TWO, 2, (64,)),
    ("two gateways", DIGITS, 2, (64,)),
)
"""By which name, which application, behind how many gateways (two have both cores), at which numbers of connections."""
FAILURES = (StartError, WrongAnswerError, RuntimeError, OSError, HTTPException)
"""What one server does wrong, which ends nobody else's measurement."""
_CROWD_SECONDS = 5
_CROWD_TIMEOUT_S = 5.0


class Contestant(NamedTuple):
    """A server with a model, and the numbers of connections at which it is measured."""

    server: str
    model: str
    levels: tuple[int, ...]
    start: Callable[[], AbstractContextManager[Running]]
    fresh: bool = False
    """Whether each request has a header that no other one has, whatever the others have."""


def contestants(peers: list[str], *, cores: tuple[int, int], environments: Path, build: Path) -> list[Contestant]:
    """Return everybody who is measured; halls are taken through their lifecycle here, two at a time.

    The last three are one gateway and two of them, before a slow model and before a cheap one.
    """
    one, both = {cores[0]}, set(cores)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda given: Hall(given[1], build, num_gateways=given[2]), _HALLS))

    def hall(number: int, on: set[int]) -> Callable[[], AbstractContextManager[Running]]:
        return lambda: made[number].serving(on)

    def other(name: str, template: str) -> Callable[[], AbstractContextManager[Running]]:
        return lambda: peer(name, template, core=cores[0], environments=environments, build=build)

    def limit(name: str) -> Callable[[], AbstractContextManager[Running]]:
        return lambda: echo(name, core=cores[0], build=build)

    found = [Contestant(name, "digits", ALL, limit(name)) for name in ECHOES]
    for number, (server, case, num_gateways, levels) in enumerate(_HALLS):
        model = "slow" if case.name.startswith("slow") else case.template
        found.append(Contestant(server, model, levels, hall(number, one if num_gateways == 1 else both)))
    found.append(Contestant("datahall, new heads", "digits", (64,), hall(0, one), fresh=True))
    found += [Contestant(name, "digits", ALL, other(name, "digits")) for name in peers]
    found += [Contestant(name, "tumours", (1, 64), other(name, "tumours")) for name in peers]
    return found


def warm_up(everybody: list[Contestant], results: Results) -> list[Contestant]:
    """Start everybody once, so that models are fitted and bytecode is compiled; return who answers rightly."""
    able = []
    for each in everybody:
        try:
            with each.start():
                able.append(each)
        except FAILURES as error:
            results.missing[f"{each.server}, {each.model}"] = str(error)
            print(f"  {each.server} ({each.model}) is left out: {error}", flush=True)
    return able


def play(
    able: list[Contestant], results: Results, *, rounds: int, seconds: int, core: int, fresh: bool, seed: int
) -> None:
    """Measure everybody once a round, and add what was seen to `results`."""
    draw = random.Random(seed)  # noqa: S311  an order, no secret
    for number in range(1, rounds + 1):
        for each in draw.sample(able, len(able)):
            try:
                with each.start() as server:
                    results.samples.append(_sample(each, server, number, seconds=seconds, core=core, fresh=fresh))
            except FAILURES as error:
                results.missing[f"{each.server}, {each.model}, round {number}"] = str(error)
                print(f"  round {number}: {each.server} ({each.model}): {error}", flush=True)
                continue
            shown = ", ".join(
                f"{level.num_connections}: {level.answers_per_s:,.0f}/s" for level in results.samples[-1].levels
            )
            print(f"  round {number}: {each.server} ({each.model}): {shown}", flush=True)


def crowd(able: list[Contestant], results: Results, *, core: int) -> None:
    """Put far more connections than usual before the hall and each peer once, and see what is left of them."""
    for each in able:
        if each.model != "digits" or each.server not in ("datahall", *PEERS):
            continue
        try:
            with each.start() as server:
                before = server.tree.pss_mb()
                level = load(server, CROWD, seconds=_CROWD_SECONDS, core=core, timeout_s=_CROWD_TIMEOUT_S)
                recovery_s = server.seconds_to_answer()
                growth_mb = server.tree.pss_mb() - before
        except FAILURES as error:
            results.missing[f"{each.server}, {CROWD} connections"] = str(error)
            continue
        results.crowds.append(Crowd(server=each.server, level=level, recovery_s=recovery_s, growth_mb=growth_mb))
        print(f"  {CROWD} connections: {each.server}: {level.answers_per_s:,.0f}/s", flush=True)


def _sample(each: Contestant, server: Running, number: int, *, seconds: int, core: int, fresh: bool) -> Sample:
    memory, processes = server.tree.pss_mb(), len(server.tree.pids())
    fresh = fresh or each.fresh
    levels = tuple(load(server, level, seconds=seconds, core=core, fresh=fresh) for level in each.levels)
    _, body = server.target.ask()
    server.target.check(body)  # right after the load too
    return Sample(
        server=each.server,
        model=each.model,
        round=number,
        cold_start_s=server.cold_start_s,
        pss_mb=memory,
        num_processes=processes,
        levels=levels,
        replica_mb=max(map(pss_mb, server.tree.matching("datahall.app.mains replica")), default=0.0),
        gateway_mb=max(map(pss_mb, server.tree.matching("datahall.app.mains gateway")), default=0.0),
    )
