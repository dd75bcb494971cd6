"""The control process: holds the hall, answers its API, and keeps its replicas and routes as they should be."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from datahall.app.contents import KeptManifests
from datahall.app.control import Control
from datahall.app.decisions import DecisionLog
from datahall.app.gateways import acknowledged
from datahall.app.http.api import make_api
from datahall.app.http.listen import serve_until_told
from datahall.app.lifeline import hold
from datahall.app.owner import ensure_owner
from datahall.app.reconciler import Reconciler
from datahall.app.rules import TeamRules
from datahall.app.sealing import Sealer, seal_on
from datahall.app.supervisor import ControlOrder
from datahall.app.wiring import Hall, open_hall
from datahall.backends.db.telemetry import Telemetry
from datahall.core.errors import DatahallError
from datahall.core.hall import HallPaths
from datahall.serve.confirm import publish_confirmation
from datahall.serve.table import publish_routes

SEAL_SECONDS = 1.0
COLLECT_SECONDS = 600.0


def main() -> int:
    """Hold the hall until told to stop."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=ControlOrder)
    hold(order.lifeline)
    paths = HallPaths(Path(order.hall))
    try:
        with open_hall(paths, lifeline=order.lifeline) as hall:
            return _serve(hall, order.num_gateways)
    except DatahallError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _serve(hall: Hall, num_gateways: int) -> int:
    ensure_owner(hall.catalogue, hall.keys, hall.clock)
    control = Control(hall)
    control.recover()
    telemetry = Telemetry(hall.paths.telemetry)
    control.watch(telemetry.problems)
    rules = TeamRules(hall.paths)
    control.watch(rules.problems)
    reconciler = Reconciler(
        hall.catalogue,
        hall.admission,
        hall.replicas,
        hall.launcher,
        hall.clock,
        publish=partial(publish_routes, hall.paths.routes, signer=hall.keys.signer, key=hall.keys.routes_key),
        acknowledged=partial(acknowledged, hall.paths.runtime()),
        integrate=hall.sequencer.flush,
        manifests=KeptManifests(hall.vault),
        decisions=DecisionLog(telemetry),
        confirm=partial(publish_confirmation, hall.paths.routes, signer=hall.keys.signer),
        teams=rules,
        num_gateways=num_gateways,
    )
    reconciler.start()
    ending = threading.Event()
    problems: list[str] = []
    control.watch(reconciler.problems)
    control.keys_changed = reconciler.settle
    control.watch(lambda: tuple(problems))
    sealer = Sealer(hall.catalogue, hall.vault, hall.paths.answers, hall.keys.answer_key, hall.clock)
    sealing = _beside("sealer", partial(seal_on, sealer, partial(ending.wait, SEAL_SECONDS), problems))
    collecting = _beside("collector", partial(_collect_on, hall, ending, control))
    try:
        serve_until_told(make_api(control, hall.catalogue, hall.clock), hall.paths.control_socket())
    finally:
        ending.set()
        sealing.join()
        collecting.join()
        reconciler.stop()
        telemetry.close()
        sealer.attempt()
    return 0


def _beside(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start work that goes on beside the API."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _collect_on(hall: Hall, ending: threading.Event, control: Control) -> None:
    """Collect garbage and forget old calls until told to end; what goes wrong is shown, and tried again at the next pass."""
    problems: list[str] = []
    control.watch(lambda: tuple(problems))
    while not ending.wait(COLLECT_SECONDS):
        try:
            hall.collector.collect()
            hall.catalogue.forget_calls()
        except (DatahallError, OSError) as error:
            problems[:] = [f"garbage collection: {error.what if isinstance(error, DatahallError) else error}"]
        else:
            problems.clear()
