"""An object that is damaged or missing is named by the backup, and keeps no other from being saved."""

from __future__ import annotations

import errno
import json
import os

import pytest
from typer.testing import CliRunner

from datahall.app.backup.make import Backups
from datahall.app.cli.main import app
from datahall.app.jobs import Cancel
from datahall.app.vault import Vault
from datahall.backends.blobs.cached import CachedBlobStore
from datahall.backends.blobs.local import LocalBlobStore
from datahall.backends.blobs.objects import ObjectBlobStore
from datahall.backends.db.snapshot import snapshot
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import ConflictError
from datahall.core.records import Artifact


@pytest.fixture
def victim(hall):
    """An artifact that a test may spoil."""
    return hall.catalogue.find(Artifact, team="ward")[0]


def flip(path):
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


def replace_by(make):
    def spoil(path):
        path.unlink()
        make(path)

    return spoil


SPOILT = {
    "one bit": flip,
    "gone": lambda path: path.unlink(),
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "a link": replace_by(lambda path: path.symlink_to("/etc/passwd")),
    "a pipe": replace_by(os.mkfifo),
}


@pytest.mark.parametrize("how", SPOILT)
def test_all_but_a_damaged_object_is_backed_up_and_comes_back(hall, kit, victim, tmp_path, how):
    whole = hall.back_up(tmp_path / "whole.dhb")
    assert whole.damaged == (), "the control"
    SPOILT[how](hall.blobs.path(victim.object, team="ward"))
    said = hall.back_up(tmp_path / "b.dhb")
    assert said.num_objects == whole.num_objects - 1
    (line,) = said.damaged
    assert line.startswith(f"ward/{victim.object}: ")
    restored, paths = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "back")
    assert restored.damaged == said.damaged
    back = SqliteCatalogue(paths.db, hall.clock, entry_key=hall.keys.entry_key)
    vault = Vault(back, LocalBlobStore(paths.blobs), hall.keys)
    others = [artifact for artifact in back.find(Artifact) if artifact != victim]
    assert len([vault.read(artifact.team, artifact.digest) for artifact in others]) == said.num_objects
    back.close()


def test_an_object_that_the_disk_does_not_give_back_is_damaged(hall, victim, tmp_path, monkeypatch):
    path = hall.blobs.path(victim.object, team="ward")
    inode, pread = path.stat().st_ino, os.pread

    def failing(descriptor, *where):
        if os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, *where)

    monkeypatch.setattr(os, "pread", failing)
    assert hall.back_up(tmp_path / "b.dhb").damaged == (f"ward/{victim.object}: the disk does not give it back",)


def test_a_backup_that_is_whole_is_never_replaced_by_one_that_is_not(hall, victim, tmp_path):
    file = tmp_path / "b.dhb"
    hall.back_up(file)
    before = file.read_bytes()
    flip(hall.blobs.path(victim.object, team="ward"))
    with pytest.raises(ConflictError, match="would lack 1 objects"):
        hall.back_up(file, replace=True)
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.dhb", "hall"]
    # The control: one that is no better may be.
    first = hall.back_up(tmp_path / "other.dhb")
    assert hall.back_up(tmp_path / "other.dhb", replace=True).id != first.id


def test_what_was_erased_meanwhile_is_no_damage(hall, kit, victim, tmp_path):
    def copy(target, told):
        snapshot(hall.paths.db, target, told)
        hall.vault.erase("ward", victim.digest, actor="owner")

    def back_up(file, is_erased):
        work = Backups(hall.paths, hall.keys, hall.blobs, hall.clock, copy, is_erased=is_erased)
        return work.make(file, replace=False, notify=lambda _: None, cancel=Cancel())

    assert back_up(tmp_path / "b.dhb", hall.vault.is_erased).damaged == ()
    restored, _ = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "back")
    assert restored.damaged == ()
    hall.blobs.delete(hall.catalogue.find(Artifact, team="ward")[0].object, team="ward")
    assert len(hall.back_up(tmp_path / "c.dhb").damaged) == 1, "the control: what nobody erased is missing"


def test_the_command_names_them_and_ends_with_status_1(hall, victim, tmp_path):
    hall.close()
    flip(hall.blobs.path(victim.object, team="ward"))
    for options, said in (((), "not in it: 1 objects are damaged"), (("--json",), '"damaged"')):
        file = tmp_path / f"b{len(options)}.dhb"
        words = ["--hall", hall.paths.root, "backup", file, *options]
        result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})
        assert result.exit_code == 1
        assert said in result.stdout
        assert victim.object in result.stdout
    words = ["--hall", tmp_path / "back", "restore", tmp_path / "b0.dhb", "--keys", hall.paths.keys, "--json"]
    result = CliRunner().invoke(app, [str(word) for word in words], env={"XDG_STATE_HOME": str(tmp_path)})
    assert victim.object in json.loads(result.stdout)["restored"]["damaged"][0]


def test_an_object_that_is_larger_than_the_cache_is_backed_up_past_it(hall, kit, tmp_path):
    remote = ObjectBlobStore("memory:///", part_bytes=1 << 20)
    cache = CachedBlobStore(remote, tmp_path / "cache", limit_bytes=100_000)
    vault = Vault(hall.catalogue, cache, hall.keys)
    for artifact in hall.catalogue.find(Artifact):
        remote.bucket.create(
            f"objects/{artifact.team}/{artifact.object[:2]}/{artifact.object}",
            hall.blobs.read_stored(artifact.object, team=artifact.team),
        )
    hall.vault, hall.blobs = vault, cache
    digest = hall.store(9 << 20)
    said = hall.back_up(tmp_path / "b.dhb")
    assert said.damaged == ()
    assert cache.stats().held_bytes == 0, "the cache is left to those who read"
    _, paths = kit.restore(tmp_path / "b.dhb", hall.paths.keys, tmp_path / "back")
    kit.assert_whole(paths)
    # The control: the check is one of whole objects.
    remote.bucket.replace(f"parts/ward/{hall.catalogue.get(Artifact, f'ward/{digest}').object}/000003", b"x")
    assert len(hall.back_up(tmp_path / "c.dhb").damaged) == 1
