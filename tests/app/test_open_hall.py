"""Opening a hall: one control a catalogue, and never with the keys of another hall."""

from __future__ import annotations

import shutil

import msgspec
import pytest

from datahall.app.control import Control
from datahall.app.leasing import leased
from datahall.app.owner import ensure_owner
from datahall.app.wiring import open_hall
from datahall.core.errors import HallBusyError
from datahall.core.hall import HallPaths
from datahall.core.records import Act, Change, Step
from datahall.testing.catalogue import app, declare

STORES = ["sqlite", "postgres"]
STEP = Step(id="step_1", app="x", stage="train", name="n", state="running", outputs={}, started_at_ns=1)


@pytest.fixture
def make(tmp_path, monkeypatch, request):
    """Return what makes the folder of a hall whose settings name its store."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def one(name, store):
        paths = HallPaths(tmp_path / name)
        paths.create()
        if store == "postgres":
            paths.settings.write_text(f"database = '{request.getfixturevalue('postgres_url')}'\n")
            paths.settings.chmod(0o600)
        return paths

    return one


def test_a_second_control_on_one_catalogue_is_refused_and_interrupts_nothing(make):
    first, second = make("first", "postgres"), make("second", "postgres")
    with open_hall(first) as hall:
        shutil.rmtree(second.keys)
        shutil.copytree(first.keys, second.keys)
        with leased(hall.catalogue, hall.catalogue.leases, "run/x", "busy", clock=hall.clock) as fenced:
            fenced.act(Act(kind="step.started", actor="control", app="x", changes=(Change(new=STEP),)))
            with pytest.raises(HallBusyError), open_hall(second) as other:
                Control(other).recover()
            done = msgspec.structs.replace(STEP, state="done")
            fenced.act(Act(kind="step.completed", actor="control", app="x", changes=(Change(old=STEP, new=done),)))
    with open_hall(second) as other:  # the control: once the first has ended
        Control(other).recover()
        assert other.catalogue.get(Step, STEP.id) == done


@pytest.mark.parametrize("store", STORES)
def test_a_hall_that_is_opened_again_waits_for_nobody(make, store):
    paths = make("hall", store)
    for name in "abc":
        with open_hall(paths) as hall:
            ensure_owner(hall.catalogue, hall.keys, hall.clock)
            declare(hall.catalogue, app(name))
            before_ns = hall.clock.monotonic_ns()
            assert hall.sequencer.flush().size == len(hall.catalogue.entries())
            assert hall.clock.monotonic_ns() - before_ns < 5e9  # a lease that nobody gave back takes 10 s to run out
