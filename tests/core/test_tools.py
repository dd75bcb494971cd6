import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.core.clock import SystemClock, iso
from datahall.core.durable import write_atomic
from datahall.core.errors import DatahallError, NotFoundError, Problem, SpecError, UserError
from datahall.core.hall import HallPaths
from datahall.core.ids import new_id
from datahall.core.registry import Registry
from datahall.core.seeds import derive_seed


class FixedClock:
    def __init__(self, ns):
        self.ns = ns

    def now_ns(self):
        return self.ns

    monotonic_ns = now_ns

    def sleep(self, seconds):
        self.ns += int(seconds * 1e9)


@given(st.integers(0, 2**45), st.integers(1, 2**40))
def test_ids_sort_by_the_millisecond_at_which_they_were_made(ms, later_ms):
    clock = FixedClock(ms * 1_000_000)
    early = new_id("run", clock)
    clock.sleep(later_ms / 1e3)
    clock.ns = (ms + later_ms) * 1_000_000
    assert early < new_id("run", clock)


def test_ids_of_one_moment_differ():
    clock = FixedClock(0)
    assert len({new_id("x", clock) for _ in range(1000)}) == 1000
    assert new_id("x", clock).startswith("x_")
    assert len(new_id("x", clock)) == 28


@given(st.integers(0, 2**32), st.lists(st.text(max_size=5), max_size=3))
def test_a_seed_follows_from_root_and_labels_alone(root, labels):
    assert derive_seed(root, *labels) == derive_seed(root, *labels)
    assert 0 <= derive_seed(root, *labels) < 2**32


def test_other_labels_give_other_seeds():
    seeds = {
        derive_seed(root, *labels) for root in range(50) for labels in [("a", "b"), ("ab",), ("a",), ("b", "a"), (1,)]
    }
    assert len(seeds) == 250
    assert derive_seed(0, "fit") == 323001834  # a change here changes every model


def test_the_time_is_told_in_utc():
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert iso(1_000_000_000_123_000_000) == "2001-09-09T01:46:40.123Z"
    assert SystemClock().monotonic_ns() <= SystemClock().monotonic_ns()


def test_a_registry_names_without_importing_and_says_what_is_missing():
    registry = Registry(
        "colour",
        {"red": "no.such.module:Red", "path": "pathlib:Path", "blue": "no_such_package:Blue"},
        extras={"blue": "paint"},
    )
    assert registry.names == ("blue", "path", "red")
    assert "red" in registry
    assert registry.load("path") is Path
    with pytest.raises(NotFoundError, match="no colour 'green'") as unknown:
        registry.load("green")
    assert "blue, path, red" in unknown.value.hint
    with pytest.raises(UserError, match="no_such_package") as missing:
        registry.load("blue")
    assert "datahall[paint]" in missing.value.hint
    with pytest.raises(ModuleNotFoundError):
        registry.load("red")


def test_an_error_says_what_where_and_what_to_do():
    assert str(UserError("it broke", where="a.py:3", hint="mend it")) == "a.py:3: it broke\n  mend it"
    problem = Problem(file="app.yaml", line=3, column=5, key="data.x", what="unknown key", nearest="target")
    assert str(problem) == "app.yaml:3:5: data.x: unknown key; did you mean 'target'?"
    assert str(SpecError((problem, problem))).count("app.yaml:3:5") == 2


def every_error(kind=DatahallError):
    yield kind
    for below in kind.__subclasses__():
        yield from every_error(below)


def test_every_error_is_drawn_in_the_tree():
    ours = [kind for kind in every_error() if kind.__module__ == "datahall.core.errors"]
    tree = __import__("datahall.core.errors", fromlist=["x"]).__doc__
    assert [kind.__name__ for kind in ours if kind.__name__ not in tree] == []
    assert {kind.exit_code for kind in ours} == {1, 2, 3, 4}


def test_a_file_is_replaced_wholly_and_privately(tmp_path):
    path = tmp_path / "state.json"
    write_atomic(path, b"one", at="test.one")
    write_atomic(path, b"two", at="test.two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "taken"
    path.mkdir()
    (path / "full").touch()
    with pytest.raises(OSError, match="taken"):
        write_atomic(path, b"new", at="test.new")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]


def test_a_hall_is_a_private_folder(tmp_path):
    paths = HallPaths(tmp_path / "a" / "hall")
    assert not paths.exists
    paths.create()
    modes = {stat.S_IMODE(folder.stat().st_mode) for folder in (paths.root, paths.keys, paths.blobs, paths.answers)}
    assert modes == {0o700}
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot use"):
        HallPaths(tmp_path / "file" / "hall").create()


def test_the_folder_of_sockets_is_short_private_and_the_halls_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    one, other = HallPaths(tmp_path / "one").runtime(), HallPaths(tmp_path / "other").runtime()
    assert one != other
    assert stat.S_IMODE(one.stat().st_mode) == 0o700
    assert len(os.fsencode(one)) <= 70
    one.rmdir()
    other.rmdir()


def test_which_hall_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATAHALL_HOME", raising=False)
    assert HallPaths.choose(None).root == tmp_path / ".datahall"
    monkeypatch.setenv("DATAHALL_HOME", str(tmp_path / "home"))
    assert HallPaths.choose(None).root == tmp_path / "home"
    assert HallPaths.choose(tmp_path / "given").root == tmp_path / "given"


def test_the_socket_folder_is_found_again_under_another_environment(tmp_path, monkeypatch):
    """What cron or sudo calls has no XDG_RUNTIME_DIR, or another one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        paths = HallPaths(tmp_path / "hall")
        paths.create()
        folder = paths.runtime()
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert HallPaths(tmp_path / "hall").runtime() == folder
        paths.drop_runtime()
        assert not folder.exists()
        other = HallPaths(tmp_path / "hall").runtime()
        assert other != folder  # control: without the memory the environment decides
        other.rmdir()


def test_a_copied_hall_has_sockets_of_its_own(tmp_path):
    paths = HallPaths(tmp_path / "hall")
    paths.create()
    first = paths.runtime()
    shutil.copytree(tmp_path / "hall", tmp_path / "copy")
    copy = HallPaths(tmp_path / "copy")
    assert copy.runtime() != first
    paths.drop_runtime()
    copy.drop_runtime()


def test_a_socket_folder_that_somebody_else_made_first_is_not_used(tmp_path):
    paths = HallPaths(tmp_path / "hall")
    paths.create()
    taken = paths.runtime()
    paths.drop_runtime()
    taken.mkdir(mode=0o777)
    taken.chmod(0o777)
    try:
        own = paths.runtime()
        assert own != taken
        assert own.stat().st_mode & 0o777 == 0o700
        assert HallPaths(tmp_path / "hall").runtime() == own
        paths.drop_runtime()
    finally:
        taken.rmdir()
