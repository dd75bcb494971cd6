# ruff: noqa: D102  (a test's name is its docstring)
"""What every catalogue must do: suites that a backend's tests subclass with their own `catalogue` fixture."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

import pytest

from datahall.core.errors import ConflictError, DatahallError, IntegrityError, NotFoundError, RepeatedError
from datahall.core.ports import Catalogue, LedgerStore
from datahall.core.records import Act, ApiKey, App, Artifact, Call, Change, Checkpoint, Entry, Garbage, Policy, Touched
from datahall.ledger.bodies import entry_body, record_digest

T = TypeVar("T")


class Store(Catalogue, LedgerStore, Protocol):
    """A backend that is both."""

    def forget_calls(self, kept: int = ...) -> None:
        """Forget the idempotency keys of all but the newest acts."""


def app(name: str = "tumours", *, team: str = "ward", digest: str = "0") -> App:
    """Return a small record with an index."""
    return App(
        id=name,
        team=team,
        task="classification",
        spec_digest=digest,
        spec_text="",
        policy="pol_0",
        declared_at_ns=1,
    )


def declare(catalogue: Catalogue, new: App | None, old: App | None = None) -> Entry:
    """Put `new` in the place of `old`."""
    name = (new or old or app()).id
    return catalogue.act(Act(kind="app.declared", actor="tester", app=name, changes=(Change(new=new, old=old),)))


class CatalogueContract:
    """Subclass it, override the `catalogue` fixture, and the tests below run against your backend."""

    @pytest.fixture
    def catalogue(self) -> Store:
        """Return an empty catalogue."""
        raise NotImplementedError

    def test_what_was_written_is_read_back_with_its_entry(self, catalogue: Store) -> None:
        entry = declare(catalogue, app())
        assert catalogue.get(App, "tumours") == app()
        assert entry.seq == 0
        assert entry.touched == (Touched(kind="app", id="tumours", digest=record_digest(app())),)
        assert catalogue.entries() == [entry]
        assert catalogue.touching("app", "tumours") == [entry]

    def test_what_is_not_there_is_not_found(self, catalogue: Store) -> None:
        with pytest.raises(NotFoundError, match="there is no application 'tumours'"):
            catalogue.get(App, "tumours")
        with pytest.raises(NotFoundError, match="there is no API key 'nope'"):
            catalogue.get(ApiKey, "nope")
        assert catalogue.find(App) == []
        assert catalogue.touching("app", "tumours") == []
        assert catalogue.entries() == []

    def test_bytes_tuples_and_none_survive(self, catalogue: Store) -> None:
        key = ApiKey(
            id="key_1",
            name="ci",
            principal="ann",
            team="ward",
            sha256="ab",
            scopes=("predict", "read"),
            created_at_ns=1,
            expires_at_ns=None,
        )
        catalogue.act(Act(kind="key.issued", actor="tester", changes=(Change(new=key),)))
        assert catalogue.get(ApiKey, "key_1") == key
        assert catalogue.find(ApiKey, sha256="ab") == [key]

    def test_a_whole_number_in_a_float_field_equals_the_float(self, catalogue: Store) -> None:
        policy = Policy(id="pol_1", app="tumours", claims=(), evidence_days=30)
        catalogue.act(Act(kind="app.declared", actor="tester", changes=(Change(new=policy),)))
        read = catalogue.get(Policy, "pol_1")
        catalogue.act(Act(kind="app.declared", actor="tester", changes=(Change(old=read),)))
        with pytest.raises(NotFoundError):
            catalogue.get(Policy, "pol_1")

    def test_find_filters_by_every_indexed_field_and_orders_by_last_write(self, catalogue: Store) -> None:
        for name, team in (("b", "ward"), ("a", "ward"), ("c", "lab")):
            declare(catalogue, app(name, team=team))
        declare(catalogue, app("b", digest="1"), app("b"))
        assert [found.id for found in catalogue.find(App, team="ward")] == ["a", "b"]
        assert [found.id for found in catalogue.find(App)] == ["a", "c", "b"]
        assert catalogue.find(App, team="nobody") == []

    def test_a_replaced_record_needs_the_stored_one_as_old(self, catalogue: Store) -> None:
        declare(catalogue, app())
        with pytest.raises(ConflictError, match="was changed by somebody else"):
            declare(catalogue, app(digest="2"), app(digest="1"))
        assert catalogue.get(App, "tumours") == app()
        assert len(catalogue.entries()) == 1

    def test_a_new_record_needs_its_place_to_be_free(self, catalogue: Store) -> None:
        declare(catalogue, app())
        with pytest.raises(ConflictError, match="exists already"):
            declare(catalogue, app(digest="1"))

    def test_a_deleted_record_is_gone_and_its_entry_says_so(self, catalogue: Store) -> None:
        declare(catalogue, app())
        entry = declare(catalogue, None, app())
        assert entry.touched == (Touched(kind="app", id="tumours", digest=None),)
        with pytest.raises(NotFoundError):
            catalogue.get(App, "tumours")
        with pytest.raises(ConflictError, match="not there any more"):
            declare(catalogue, None, app())
        declare(catalogue, app(digest="1"))
        assert catalogue.get(App, "tumours") == app(digest="1")

    def test_one_refused_change_refuses_the_whole_act(self, catalogue: Store) -> None:
        declare(catalogue, app("a"))
        changes = (Change(new=app("b")), Change(new=app("a")))
        with pytest.raises(ConflictError):
            catalogue.act(Act(kind="app.declared", actor="tester", changes=changes))
        with pytest.raises(NotFoundError):
            catalogue.get(App, "b")
        assert [entry.seq for entry in catalogue.entries()] == [0]

    def test_an_act_without_changes_is_an_entry(self, catalogue: Store) -> None:
        entry = catalogue.act(Act(kind="hall.created", actor="tester", body={"note": "ä", "sizes": [1, 2.5, None]}))
        assert catalogue.entries() == [entry]
        assert entry.body == {"note": "ä", "sizes": [1, 2.5, None]}

    def test_what_has_no_canonical_form_is_refused_whole(self, catalogue: Store) -> None:
        with pytest.raises(ValueError, match="no canonical form"):
            catalogue.act(Act(kind="app.declared", actor="t", body={"x": float("nan")}, changes=(Change(new=app()),)))
        with pytest.raises(NotFoundError):
            catalogue.get(App, "tumours")
        assert catalogue.entries() == []

    def test_entries_are_sliced_by_sequence_number(self, catalogue: Store) -> None:
        for name in "abcde":
            declare(catalogue, app(name))
        assert [entry.app for entry in catalogue.entries(1, 3)] == ["b", "c"]
        assert [entry.app for entry in catalogue.entries(3)] == ["d", "e"]
        assert [entry.seq for entry in catalogue.entries()] == [0, 1, 2, 3, 4]

    def test_of_raced_changes_exactly_one_wins(self, catalogue: Store) -> None:
        declare(catalogue, app())
        done, lost = _at_once(8, lambda number: declare(catalogue, app(digest=f"by {number}"), app()))
        assert (len(done), len(lost)) == (1, 7)
        assert all(isinstance(error, ConflictError) for error in lost)
        assert [entry.seq for entry in catalogue.entries()] == [0, 1]

    def test_a_record_that_excludes_another_refuses_it(self, catalogue: Store) -> None:
        garbage = Garbage(id="ward/obj_1", team="ward", object="obj_1")
        catalogue.act(Act(kind="blobs.condemned", actor="t", changes=(Change(new=garbage),)))
        with pytest.raises(ConflictError, match="garbage 'ward/obj_1' stands in the way"):
            catalogue.act(_naming("obj_1"))
        assert catalogue.act(_naming("obj_2")).seq == 1
        catalogue.act(Act(kind="blobs.pardoned", actor="t", changes=(Change(old=garbage),)))
        assert catalogue.act(_naming("obj_1")).seq == 3

    def test_of_a_name_and_its_condemnation_at_once_one_comes_first(self, catalogue: Store) -> None:
        """Either the object is named, or it is condemned and the name refused; a condemner looks for names again."""

        def work(number: int) -> Entry:
            if number:
                return catalogue.act(_naming("obj_1"))
            changes = (Change(new=Garbage(id="ward/obj_1", team="ward", object="obj_1")),)
            return catalogue.act(Act(kind="blobs.condemned", actor="t", changes=changes))

        done, refused = _at_once(2, work)
        assert [type(error) for error in refused] == [ConflictError] * (2 - len(done))
        kinds = [entry.kind for entry in catalogue.entries()]
        assert kinds in (["step.completed", "blobs.condemned"], ["blobs.condemned"])

    def test_a_call_is_done_once_and_its_answer_kept(self, catalogue: Store) -> None:
        assert catalogue.reply("ann/1", "what") is None
        catalogue.act(_called("first"))
        with pytest.raises(RepeatedError):
            catalogue.act(_called("second"))
        assert catalogue.reply("ann/1", "what") == b"sealed"
        assert [found.id for found in catalogue.find(App)] == ["first"]
        assert len(catalogue.entries()) == 1

    def test_a_key_that_was_used_for_another_request_is_a_conflict(self, catalogue: Store) -> None:
        catalogue.act(_called("first"))
        for ask in (lambda: catalogue.reply("ann/1", "else"), lambda: catalogue.act(_called("b", request="else"))):
            with pytest.raises(ConflictError, match="used for another request") as caught:
                ask()
            assert not isinstance(caught.value, RepeatedError)
        assert catalogue.reply("bob/1", "else") is None

    def test_only_the_oldest_calls_are_forgotten_while_a_hall_goes_on(self, catalogue: Store) -> None:
        catalogue.act(_called("first"))
        declare(catalogue, app("b"))
        catalogue.forget_calls(2)
        assert catalogue.reply("ann/1", "what") == b"sealed"
        declare(catalogue, app("c"))
        catalogue.forget_calls(2)
        assert catalogue.reply("ann/1", "what") is None

    def test_a_refused_act_does_not_use_up_its_call(self, catalogue: Store) -> None:
        declare(catalogue, app("first"))
        with pytest.raises(ConflictError, match="exists already"):
            catalogue.act(_called("first"))
        assert catalogue.reply("ann/1", "what") is None
        assert catalogue.act(_called("second")).seq == 1

    def test_of_calls_made_at_once_with_one_key_one_has_an_effect(self, catalogue: Store) -> None:
        done, refused = _at_once(8, lambda number: catalogue.act(_called(f"app-{number}", reply=b"%d" % number)))
        assert len(done) == 1
        assert [type(error) for error in refused] == [RepeatedError] * 7
        assert [found.id for found in catalogue.find(App)] == [done[0].touched[0].id]
        assert catalogue.reply("ann/1", "what") == done[0].touched[0].id.removeprefix("app-").encode()

    def test_acts_of_many_threads_are_all_written(self, catalogue: Store) -> None:
        done, refused = _at_once(8, lambda number: [declare(catalogue, app(f"{number}-{turn}")) for turn in range(10)])
        assert refused == []
        written = sorted((entry for entries in done for entry in entries), key=lambda entry: entry.seq)
        assert catalogue.entries() == written
        assert [entry.seq for entry in written] == list(range(80))
        assert len(catalogue.find(App)) == 80


class LedgerStoreContract:
    """As CatalogueContract, for the side that the sequencer writes."""

    @pytest.fixture
    def catalogue(self) -> Store:
        """Return an empty catalogue."""
        raise NotImplementedError

    def test_entries_are_pending_until_a_checkpoint_covers_them(self, catalogue: Store) -> None:
        written = [declare(catalogue, app(name)) for name in "abc"]
        bodies = [(entry.seq, entry_body(entry)) for entry in written]
        assert catalogue.pending(10) == bodies
        assert catalogue.pending(2) == bodies[:2]
        assert catalogue.checkpoint() is None
        catalogue.integrate({(0, 0): b"a" * 32, (0, 1): b"b" * 32, (1, 0): b"c" * 32}, checkpoint(2))
        assert catalogue.pending(10) == bodies[2:]
        assert catalogue.checkpoint() == checkpoint(2)

    def test_leaf_bytes_are_those_of_integrated_entries_only(self, catalogue: Store) -> None:
        first, second = (declare(catalogue, app(name)) for name in "ab")
        catalogue.integrate({(0, 0): b"a" * 32}, checkpoint(1))
        assert catalogue.leaf_bytes(0, 1) == [entry_body(first)]
        with pytest.raises(IntegrityError):
            catalogue.leaf_bytes(0, 2)
        catalogue.integrate({(0, 1): b"b" * 32}, checkpoint(2))
        assert catalogue.leaf_bytes(1, 2) == [entry_body(second)]

    def test_nodes_come_in_the_order_asked_and_a_missing_one_is_told(self, catalogue: Store) -> None:
        declare(catalogue, app())
        catalogue.integrate({(0, number): number.to_bytes(32) for number in range(1000)}, checkpoint(1))
        places = [(0, number) for number in reversed(range(1000))]
        assert catalogue.nodes(places) == [number.to_bytes(32) for _, number in places]
        assert catalogue.nodes([]) == []
        with pytest.raises(IntegrityError, match=r"\(5, 0\)"):
            catalogue.nodes([(0, 1), (5, 0)])

    def test_a_tree_never_shrinks_nor_is_rewritten(self, catalogue: Store) -> None:
        declare(catalogue, app("a"))
        declare(catalogue, app("b"))
        catalogue.integrate({(0, 0): b"a" * 32, (0, 1): b"b" * 32}, checkpoint(2))
        for size in (1, 2):
            with pytest.raises(ConflictError):
                catalogue.integrate({(0, 5): b"x" * 32}, checkpoint(size))
        assert catalogue.checkpoint() == checkpoint(2)
        assert catalogue.nodes([(0, 1)]) == [b"b" * 32]


def _naming(name: str) -> Act:
    artifact = Artifact(
        id=f"art_{name}", team="ward", object=name, digest="0", size_bytes=1, wrapped_key=b"", media_type="text/plain"
    )
    return Act(kind="step.completed", actor="t", changes=(Change(new=artifact),))


def _called(name: str, *, request: str = "what", reply: bytes = b"sealed") -> Act:
    call = Call(id="ann/1", request=request, reply=reply)
    return Act(kind="app.declared", actor="t", changes=(Change(new=app(name)),), call=call)


def _at_once(num_threads: int, work: Callable[[int], T]) -> tuple[list[T], list[DatahallError]]:
    """Run `work(number)` in threads that start together; return what they returned, and what they were refused with."""
    start, done, refused = threading.Barrier(num_threads), list[T](), list[DatahallError]()

    def run(number: int) -> None:
        start.wait()
        try:
            done.append(work(number))
        except DatahallError as error:
            refused.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done, refused


def checkpoint(size: int) -> Checkpoint:
    """Return an unsigned checkpoint for tests of storage alone."""
    return Checkpoint(origin="hall", size=size, root=bytes([size]) * 32, note=f"hall\n{size}\n")
