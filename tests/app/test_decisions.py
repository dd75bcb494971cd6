"""The log of decisions: whole lines, in order, bounded."""

import stat

import msgspec
import pytest

from datahall.app import decisions
from datahall.app.decisions import Decided, DecisionLog, read_decisions


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


def test_what_was_decided_is_read_back_in_order(tmp_path):
    path = tmp_path / "decisions.jsonl"
    log = DecisionLog(path)
    for number in range(5):
        log.append(decided(number))
    assert [one.now for one in read_decisions(path)] == list(range(5))
    assert next(read_decisions(path)) == decided(0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_figure_that_is_no_number_is_refused_rather_than_logged_as_nothing(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        DecisionLog(tmp_path / "d.jsonl").append(msgspec.structs.replace(decided(0), decision={"x": float("nan")}))


def test_a_full_log_starts_anew_and_keeps_the_one_before(tmp_path):
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b" " * (decisions.MAX_BYTES + 1))
    DecisionLog(path).append(decided(7))
    assert [one.now for one in read_decisions(path)] == [7]
    assert path.with_suffix(".1.jsonl").stat().st_size == decisions.MAX_BYTES + 1
