"""Finds the sealed stretches of the answer log in which an answer can lie, by what its id says."""

from __future__ import annotations

from collections.abc import Iterator

from datahall.core.ports import Catalogue
from datahall.core.records import AnswerSegment

_HOUR_NS = 3_600_000_000_000


def hour_of(at_ns: int) -> int:
    """Return the hour of a time, counted from 1970."""
    return at_ns // _HOUR_NS


def segments_holding(catalogue: Catalogue, gateway: str, sequence: int, at_ns: int) -> Iterator[AnswerSegment]:
    """Yield the segments of a gateway that hold this number, those of the right time first.

    A segment spans a minute, so its first answer was given in the hour of the one sought or in the hour before. Only
    where those do not hold it are all the gateway's looked at: a clock may have been set.
    """
    seen = set()
    for hour in (hour_of(at_ns), hour_of(at_ns) - 1, None):
        at = {} if hour is None else {"hour": hour}
        for segment in catalogue.find(AnswerSegment, gateway=gateway, **at):
            inside = 0 <= sequence - segment.first_sequence < segment.num_answers
            if inside and segment.id not in seen:
                seen.add(segment.id)
                yield segment
