"""What a job is told, how it is stopped, and how its failures come back."""

import pytest

from datahall.app.jobs import Cancel, _error, grants_in
from datahall.core import errors
from datahall.core.jobs import Failure
from datahall.core.records import Grant
from datahall.evaluate.contract import Contender


def grant(name):
    return Grant(digest=name * 64, object=name, size_bytes=1, key=b"k" * 32)


def test_every_grant_of_a_request_is_found_however_deep():
    contender = Contender(
        candidate="a#1", bundle="b", packed=grant("1"), seed_bundles=(grant("2"), grant("3")), address=None
    )
    request = {"contenders": [contender], "more": {"splits": {"train": grant("4")}}, "name": "no grant"}
    assert [found.object for found in grants_in(request)] == ["1", "2", "3", "4"]
    assert grants_in("4") == []


def test_cancelling_stops_what_runs_and_whatever_would_follow():
    cancel, stopped = Cancel(), []
    with cancel.calling(lambda: stopped.append("first")):
        cancel.ask()
    assert stopped == ["first"]
    with pytest.raises(errors.UnavailableError, match="stopped on request"), cancel.calling(lambda: None):
        raise AssertionError("nothing runs after that")


def test_what_is_over_is_not_stopped():
    cancel, stopped = Cancel(), []
    with cancel.calling(lambda: stopped.append("first")):
        pass
    cancel.ask()
    assert stopped == []


@pytest.mark.parametrize(
    ("named", "kind"),
    [
        ("DataError", errors.DataError),
        ("IntegrityError", errors.IntegrityError),
        ("SpecError", errors.UnavailableError),  # it needs its problems, which a job cannot send
        ("SystemExit", errors.UnavailableError),
        ("annotations", errors.UnavailableError),
        ("__doc__", errors.UnavailableError),
        ("", errors.UnavailableError),
    ],
)
def test_a_failure_comes_back_as_the_error_that_it_was_and_as_nothing_else(named, kind):
    failure = Failure(error=named, what="what", where="where", hint="hint")
    error = _error(failure, Cancel())
    assert type(error) is kind
    assert (error.what, error.where, error.hint) == ("what", "where", "hint")


def test_a_job_that_was_stopped_on_request_says_so_whatever_it_died_of():
    cancel = Cancel()
    cancel.ask()
    assert "stopped on request" in _error(Failure(error="DataError", what="it was killed"), cancel).what
