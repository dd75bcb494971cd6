"""Rules of teams are taken up while the hall runs; a file that is wrong leaves those of before, and says so."""

from __future__ import annotations

import pytest

from datahall.app.rules import TeamRules
from datahall.core.hall import HallPaths
from datahall.core.records import Quota, TeamRule


@pytest.fixture
def paths(tmp_path):
    made = HallPaths(tmp_path / "hall")
    made.create()
    return made


def write(paths, text, mode=0o600):
    """Replace the file as an editor does: by another one."""
    new = paths.settings.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(paths.settings)


def test_a_change_is_taken_up_and_the_end_of_the_file_too(paths):
    rules = TeamRules(paths)
    assert rules() == {}
    write(paths, "[teams.red]\nrate_per_s = 5\n")
    assert rules() == {"red": TeamRule(quota=Quota(rate_per_s=5.0))}
    write(paths, "[teams.blue]\nweight = 3\n")
    assert rules() == {"blue": TeamRule(weight=3.0)}
    paths.settings.unlink()
    assert (rules(), rules.problems()) == ({}, ())


@pytest.mark.parametrize("text", ["[teams.red]\nrate_per_s = 0\n", "gateways =", "[teams.red]\nspeed = 1\n"])
def test_a_wrong_file_leaves_the_rules_of_before_and_is_a_problem_until_it_is_right(paths, text):
    rules = TeamRules(paths)
    write(paths, "[teams.red]\nrate_per_s = 5\n")
    before = dict(rules())
    write(paths, text)
    assert rules() == before
    (problem,) = rules.problems()
    assert "hall.toml" in problem
    write(paths, "[teams.red]\nrate_per_s = 6\n")
    assert rules()["red"].quota.rate_per_s == 6.0
    assert rules.problems() == ()


def test_a_file_that_others_may_change_from_now_on_is_a_problem(paths):
    rules = TeamRules(paths)
    write(paths, "[teams.red]\nweight = 2\n")
    assert (bool(rules()), rules.problems()) == (True, ())
    paths.settings.chmod(0o666)
    assert rules() == {"red": TeamRule(weight=2.0)}
    assert "others can change" in rules.problems()[0]
