"""Which replica gets the next batch: the gateway's own, else the better of two drawn at random; who must be tried comes first."""

from __future__ import annotations

from typing import Final

import msgspec

HOME_RATIO: Final = 1.25
"""How many times the shortest predicted wait a gateway's own replica may take and still be preferred."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One replica that could take the batch now."""

    id: str
    wait_ns: float
    """Predicted time until it would have answered: the rows it has open and the batch's own, times its time a row."""
    due: bool = False
    """Whether it must be tried now, so that a doubt about it ends (`health.is_due`, `health.is_forgotten`)."""
    home: bool = False
    """Whether it is the gateway's own: of several gateways each prefers another replica. At most one is."""


class RouteView(msgspec.Struct, frozen=True, gc=False):
    """All that may take the batch; at least one."""

    candidates: tuple[Candidate, ...]


class Batch(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A batch is ready to be sent."""

    num_rows: int


def decide(state: None, view: RouteView, event: Batch, now: int, draw: float) -> tuple[None, str, str]:
    """Return the id of the replica that gets the batch, and why.

    The gateway's own gets it while it is about as quick as any: gateways that do not tell each other what they send would
    else often choose the same one while another has nothing to do. Otherwise two different ones are drawn and the one
    with the shorter predicted wait is taken (Mitzenmacher 2001, the power of two choices): many gateways that know the
    same figures do not all run to one replica. Equal waits go by id. A replica that is due comes before all, the first by
    id. `now` is not used. The whole of `draw` is: its integer part after scaling chooses the first, what is left of it the
    second.
    """
    del event, now
    assert view.candidates, "somebody must be there to choose from"
    assert 0.0 <= draw < 1.0, "draw is a uniform number"
    due = [one.id for one in view.candidates if one.due]
    if due:
        return state, min(due), "a doubt about it must end"
    num = len(view.candidates)
    if num == 1:
        return state, view.candidates[0].id, "the only one"
    own = next((one for one in view.candidates if one.home), None)
    if own is not None and own.wait_ns <= HOME_RATIO * min(one.wait_ns for one in view.candidates):
        return state, own.id, "the gateway's own"
    first, rest = divmod(draw * num, 1.0)
    one = view.candidates[int(first)]
    other = view.candidates[(int(first) + 1 + int(rest * (num - 1))) % num]
    chosen = one if (one.wait_ns, one.id) < (other.wait_ns, other.id) else other
    return state, chosen.id, "the shorter predicted wait of two"
