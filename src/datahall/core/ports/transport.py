"""Reaching replicas: a gateway asks one for the answers to a batch of rows, and is told what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from datahall.core.errors import DatahallError

if TYPE_CHECKING:
    import numpy as np

Outcome = Mapping[str, "np.ndarray"] | DatahallError
"""Arrays with one entry a row, or why there are none: UnavailableError where another replica may still answer,
UserError where the columns do not fit, DatahallError where the model itself failed. Nobody has looked at the arrays
yet: a replica can send any names, shapes and numbers."""

Done = Callable[[Outcome], None]


class Link(Protocol):
    """One connection to one replica, used from one event loop; callbacks come on that loop, never from within `send`."""

    @property
    def ready(self) -> bool:
        """Whether the replica has said that it runs the expected bundle, and takes batches."""

    @property
    def max_rows(self) -> int:
        """Rows of a batch beyond which the replica's time a row no longer falls; 0 where it has not said so."""

    def send(self, columns: Mapping[str, np.ndarray], num_rows: int, done: Done) -> None:
        """Ask for answers to all rows; `done` is called exactly once, or never where the replica hangs but still lives."""

    def close(self) -> None:
        """End the connection for good; whatever is still open gets an UnavailableError before this returns."""


class Transport(Protocol):
    """Opens links to replicas, which live in other processes, here or on other machines, and are not trusted."""

    def connect(self, address: str, *, bundle: str, changed: Callable[[], None]) -> Link:
        """Return a link that connects by itself, and again whenever it is lost, until it is closed.

        A replica that runs another bundle than `bundle` never becomes ready; one that falls silent is lost; one that
        says what nobody asked, or what cannot be read, is cut off. `changed` is called when `ready` changes.
        """
