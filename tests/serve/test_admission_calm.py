"""The short way of a request that is certainly in decides as the policy does, which it does not ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.records import Quota, TeamRule
from datahall.policy.concurrency import LimitView
from datahall.serve.admission import Admission, AdmissionSettings, Refusal
from tests.serve.test_admission import MS, NOW, SMALL, grant, route, table

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("enter", "leave", "wait")),
        st.sampled_from(("lab", "shop")),
        st.sampled_from(("high", "normal", "low")),
        st.integers(0, 400 * MS),
        st.integers(1, 20),
    ),
    max_size=40,
)
QUOTAS = st.builds(
    Quota,
    rate_per_s=st.none() | st.floats(5.0, 500.0),
    burst=st.none() | st.integers(1, 30),
    concurrency=st.none() | st.integers(1, 20),
).map(lambda quota: quota if quota.rate_per_s is not None else Quota(concurrency=quota.concurrency))


TIGHT_HALL = AdmissionSettings(app=LimitView(calm=64), hall=SMALL.hall, window_num=1)
TIGHT_APP = AdmissionSettings(app=SMALL.app, hall=LimitView(calm=64, learns=False), window_num=1)


class Asking(Admission):
    """Asks the policy about every request."""

    def _is_calm(self, team, app):
        return False


class Careless(Admission):
    """Asks it about none that need not wait."""

    def _is_calm(self, team, app):
        return True


def told(kind, steps, quotas, settings):
    """What each request is told, and how many are in flight after it."""
    door = kind(settings, draw=lambda: 0.5)
    app_quota, lab_quota = quotas
    door.follow(table(route(), teams={"lab": TeamRule(quota=lab_quota), "shop": TeamRule(weight=3.0)}), NOW)
    now, inside, seen = NOW, [], []
    app = route(rate_per_s=app_quota.rate_per_s, burst=app_quota.burst, concurrency=app_quota.concurrency)
    for what, team, priority, step_ns, num in steps:
        if what == "wait":
            now += step_ns
        for _ in range(num if what == "enter" else 0):
            answer = door.enter(grant(team, priority), app, now, deadline_ns=now + step_ns)
            if isinstance(answer, Refusal):
                seen.append((answer.reason, answer.retry_after_s))
            else:
                inside.append((answer, now))
                seen.append("in")
        for _ in range(min(num, len(inside)) if what == "leave" else 0):
            place, since = inside.pop(0)
            place.leave(now, sample_ns=now - since)
        seen.append((door.num_in_flight, door.limit("lab", "flowers")))
    return seen


@given(STEPS, st.tuples(QUOTAS, QUOTAS), st.sampled_from((TIGHT_HALL, TIGHT_APP)))
def test_who_is_certainly_in_is_who_the_policy_lets_in(steps, quotas, settings):
    assert told(Admission, steps, quotas, settings) == told(Asking, steps, quotas, settings)


@pytest.mark.parametrize("settings", [TIGHT_HALL, TIGHT_APP])
def test_a_way_that_is_too_short_lets_in_who_must_not_come_in(settings):
    steps, quotas = [("enter", "lab", "low", 400 * MS, 20)], (Quota(), Quota())
    assert told(Careless, steps, quotas, settings) != told(Asking, steps, quotas, settings)
