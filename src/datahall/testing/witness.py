# ruff: noqa: D102  (a test's name is its docstring)
"""What every witness must do: a suite that a backend's tests subclass with their own `open_witness` fixture."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence

import pytest

from datahall.core.errors import IntegrityError, UnavailableError
from datahall.core.ports import Witness
from datahall.ledger import tree
from datahall.ledger.checkpoint import read_note
from datahall.ledger.witnessing import Prove

ORIGIN = "datahall.test/hall"
OpenWitness = Callable[[Prove], Witness]


class FakeLedger:
    """A tree of `size` leaves, the ones from `forked_at` on different, and its heads with a signature that is none."""

    def __init__(self, size: int, forked_at: int = 10**9) -> None:
        leaves = [tree.leaf_hash(b"%d" % (n if n < forked_at else -n - 1)) for n in range(size)]
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._nodes, _ = tree.append(0, leaves, self.read)
        self.size = size

    def read(self, places: list[tuple[int, int]]) -> list[bytes]:
        """Return the hashes at these places."""
        return [self._nodes[place] for place in places]

    def note(self, size: int | None = None, origin: str = ORIGIN) -> str:
        """Return the head of the whole tree, or of its first `size` leaves."""
        size = self.size if size is None else size
        root = base64.b64encode(tree.root(size, self.read)).decode()
        return f"{origin}\n{size}\n{root}\n\n— {origin} AAAA\n"

    def prove(self, old: int, new: int) -> Sequence[bytes]:
        """Return the consistency proof between two sizes."""
        return tree.consistency_proof(old, new, self.read)


class WitnessContract:
    """Subclass it, override the `open_witness` fixture, and the tests below run against your backend."""

    @pytest.fixture
    def open_witness(self) -> OpenWitness:
        """Return a function that opens a witness on one and the same place, empty at first."""
        raise NotImplementedError

    def test_nothing_is_known_of_a_hall_never_seen(self, open_witness: OpenWitness) -> None:
        assert open_witness(FakeLedger(1).prove).newest(ORIGIN) is None

    def test_a_growing_ledger_is_remembered_by_whoever_opens_it_next(self, open_witness: OpenWitness) -> None:
        for size in (1, 3, 3, 7, 20):
            ledger = FakeLedger(size)
            open_witness(ledger.prove).publish(ORIGIN, ledger.note())
            assert open_witness(ledger.prove).newest(ORIGIN) == ledger.note()

    @pytest.mark.parametrize("size", [1, 4, 7, 8])
    def test_every_truncation_is_refused_and_forgotten(self, open_witness: OpenWitness, size: int) -> None:
        long, short = FakeLedger(9), FakeLedger(size)
        open_witness(long.prove).publish(ORIGIN, long.note())
        with pytest.raises(IntegrityError, match="cut off or rolled back"):
            open_witness(short.prove).publish(ORIGIN, short.note())
        assert open_witness(short.prove).newest(ORIGIN) == long.note()

    @pytest.mark.parametrize("size", [9, 10, 16])
    @pytest.mark.parametrize("forked_at", [0, 8])
    def test_every_fork_is_refused(self, open_witness: OpenWitness, size: int, forked_at: int) -> None:
        honest, forked = FakeLedger(9), FakeLedger(size, forked_at)
        open_witness(honest.prove).publish(ORIGIN, honest.note())
        with pytest.raises(IntegrityError, match="rewritten"):
            open_witness(forked.prove).publish(ORIGIN, forked.note())
        # The control: a ledger that differs only behind what was seen is one that grew.
        grown = FakeLedger(size, 9)
        open_witness(grown.prove).publish(ORIGIN, grown.note())

    def test_halls_do_not_disturb_one_another(self, open_witness: OpenWitness) -> None:
        long, short = FakeLedger(5), FakeLedger(1)
        open_witness(long.prove).publish("a/b", long.note(origin="a/b"))
        open_witness(short.prove).publish("a/c", short.note(origin="a/c"))
        assert open_witness(long.prove).newest("a/b") == long.note(origin="a/b")
        with pytest.raises(IntegrityError, match="was published as one of"):
            open_witness(long.prove).publish("a/b", long.note(origin="a/c"))

    def test_what_is_no_note_is_refused(self, open_witness: OpenWitness) -> None:
        with pytest.raises(IntegrityError, match="not a checkpoint"):
            open_witness(FakeLedger(1).prove).publish(ORIGIN, "nonsense")

    def test_two_writers_never_take_the_witness_back(self, open_witness: OpenWitness) -> None:
        ledger = FakeLedger(12)
        open_witness(ledger.prove).publish(ORIGIN, ledger.note(1))
        seen: list[int] = []

        def write(sizes: Sequence[int]) -> None:
            witness = open_witness(ledger.prove)
            for size in sizes:
                try:
                    witness.publish(ORIGIN, ledger.note(size))
                except (IntegrityError, UnavailableError):  # the other one was further, or in the way all the time
                    continue
                newest = witness.newest(ORIGIN)
                seen.append(read_note(newest).size - size if newest else -1)

        writers = [threading.Thread(target=write, args=(sizes,)) for sizes in ((2, 4, 6, 8, 10), (3, 5, 7, 9, 11))]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert seen, "somebody must have been heard"
        assert min(seen) >= 0, "what was published is never behind what is remembered next"
        open_witness(ledger.prove).publish(ORIGIN, ledger.note())
        assert open_witness(ledger.prove).newest(ORIGIN) == ledger.note()
