"""Who may stay in a full cache: laws over all views."""

from hypothesis import given
from hypothesis import strategies as st

from datahall.policy.cache import LUCKY_DRAW, LUCKY_FREQUENCY, CacheView, Contender, Evicted, decide

NOW = 1_000
contenders = st.builds(
    Contender,
    frequency=st.integers(0, 15),
    num_bytes=st.integers(1, 10_000),
    expires_at_ns=st.integers(0, 2 * NOW),
)
views = st.builds(
    CacheView,
    candidate=contenders,
    num_free_bytes=st.integers(0, 10_000),
    victims=st.lists(contenders, max_size=6).map(tuple),
)
draws = st.floats(0, 1, exclude_max=True)


def asked(frequency, *, num_bytes=100, expires_at_ns=2 * NOW):
    return Contender(frequency, num_bytes, expires_at_ns)


def admits(candidate, *victims, free=0, draw=0.5):
    return decide(None, CacheView(candidate, free, victims), Evicted(), NOW, draw)[1]


def test_who_is_asked_for_more_often_stays():
    assert admits(asked(3), asked(2))
    assert not admits(asked(2), asked(2))
    assert not admits(asked(1), asked(2))


def test_a_large_answer_must_be_worth_all_that_it_displaces():
    large = asked(3, num_bytes=200)
    assert admits(large, asked(1), asked(1))
    assert not admits(large, asked(2), asked(1))
    assert admits(large, asked(2), free=100)


def test_the_expired_are_worth_nothing_to_keep_or_to_take_in():
    assert admits(asked(1), asked(15, expires_at_ns=NOW))
    assert not admits(asked(15, expires_at_ns=NOW), asked(0))


def test_a_draw_lets_one_in_that_collides_with_nobody_less_often_asked_for():
    assert admits(asked(LUCKY_FREQUENCY), asked(15), draw=LUCKY_DRAW / 2)
    assert not admits(asked(LUCKY_FREQUENCY), asked(15), draw=LUCKY_DRAW)
    assert not admits(asked(LUCKY_FREQUENCY - 1), asked(15), draw=0.0)


@given(views, draws)
def test_whoever_is_admitted_fits_and_has_not_expired(view, draw):
    state, admitted, reason = decide(None, view, Evicted(), NOW, draw)
    assert state is None
    assert reason
    if admitted:
        room = view.num_free_bytes + sum(victim.num_bytes for victim in view.victims)
        assert room >= view.candidate.num_bytes
        assert view.candidate.expires_at_ns > NOW


@given(views, draws)
def test_being_asked_for_more_often_never_hurts(view, draw):
    more = CacheView(
        Contender(view.candidate.frequency + 1, view.candidate.num_bytes, view.candidate.expires_at_ns),
        view.num_free_bytes,
        view.victims,
    )
    assert decide(None, view, Evicted(), NOW, draw)[1] <= decide(None, more, Evicted(), NOW, draw)[1]
