"""The log of decisions: whole, in order, private."""

import stat

import msgspec
import pytest

from datahall.app.decisions import DecisionLog, read_decisions
from datahall.backends.db.telemetry import Telemetry
from datahall.core.records import Decided


@pytest.fixture
def path(tmp_path):
    return tmp_path / "telemetry.db"


@pytest.fixture
def telemetry(path):
    opened = Telemetry(path)
    yield opened
    opened.close()


def decided(number):
    return Decided(
        policy="rollout",
        state={},
        view={"revision": number},
        event={"type": "Tick"},
        now=number,
        draw=0.0,
        new_state={},
        decision={"start": [f"dep_{number}"]},
        reason="one is missing",
    )


def test_what_was_decided_is_read_back_in_order_while_it_is_written(path, telemetry):
    log = DecisionLog(telemetry)
    for number in range(5):
        log.append(decided(number))
    assert [one.now for one in read_decisions(path)] == list(range(5))
    assert next(read_decisions(path)) == decided(0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_figure_that_is_no_number_is_refused_rather_than_logged_as_nothing(telemetry):
    with pytest.raises(ValueError, match="nan"):
        DecisionLog(telemetry).append(msgspec.structs.replace(decided(0), decision={"x": float("nan")}))
