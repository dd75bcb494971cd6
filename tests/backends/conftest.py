"""What the tests of launched processes share: something like a hall, and launchers with and without confinement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from datahall.backends.launch.local import LocalLauncher
from tests.backends.launching import ENTRY


@pytest.fixture
def hall(tmp_path: Path) -> Path:
    """Something like a hall: a database, keys, and the folders of the launcher."""
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "master.key").write_text("secret")
    (tmp_path / "hall.db").write_text("rows")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "part").write_text("data")
    (tmp_path / "staging").mkdir()
    return tmp_path


@pytest.fixture
def launcher(hall: Path) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(hall / "logs", hall / "work", entry=ENTRY)
    yield launcher
    launcher.stop_all(grace_seconds=0)


@pytest.fixture
def open_launcher(hall: Path) -> Iterator[LocalLauncher]:
    launcher = LocalLauncher(hall / "logs", hall / "work", entry=ENTRY, confine=False)
    yield launcher
    launcher.stop_all(grace_seconds=0)
