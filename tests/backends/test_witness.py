"""Witnesses outside the hall refuse every shorter or forked head: in a folder, in a Git repository, behind a URL."""

from __future__ import annotations

import os
import stat
import subprocess
from functools import partial

import pytest

from datahall.backends.witness.file import FileWitness, default_folder
from datahall.backends.witness.git import GitWitness
from datahall.backends.witness.url import UrlWitness
from datahall.core.errors import IntegrityError, UnavailableError, UserError
from datahall.ledger import tree
from datahall.testing.witness import ORIGIN, FakeLedger, WitnessContract
from tests.backends.note_server import serving


class TestFileWitness(WitnessContract):
    @pytest.fixture
    def open_witness(self, tmp_path):
        return lambda prove: FileWitness(tmp_path / "witness", prove)


class TestGitWitness(WitnessContract):
    @pytest.fixture
    def open_witness(self, tmp_path):
        return lambda prove: GitWitness(tmp_path / "witness", prove)


class TestGitWitnessWithARemote(WitnessContract):
    @pytest.fixture
    def open_witness(self, tmp_path):
        """Every opening has a repository of its own: all they share is the remote."""
        git(tmp_path, "init", "--quiet", "--bare", "remote")
        made = []

        def opened(prove):
            folder = tmp_path / f"own-{len(made)}"
            made.append(folder)
            with_remote(folder, tmp_path / "remote")
            return GitWitness(folder, prove)

        return opened


class TestUrlWitness(WitnessContract):
    @pytest.fixture
    def open_witness(self, server):
        return lambda prove: UrlWitness(server.url, prove)


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def with_remote(folder, remote):
    folder.mkdir()
    git(folder, "init", "--quiet", "--bare")
    git(folder, "config", "remote.origin.url", str(remote))


@pytest.fixture
def server():
    with serving() as made:
        yield made


def test_a_folder_and_its_files_are_for_its_owner_alone(tmp_path):
    folder, ledger = tmp_path / "witness", FakeLedger(3)
    FileWitness(folder, ledger.prove).publish(ORIGIN, ledger.note())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())


def test_without_the_proof_a_fork_would_pass(tmp_path, monkeypatch):
    honest, forked = FakeLedger(9), FakeLedger(12, 4)
    FileWitness(tmp_path, honest.prove).publish(ORIGIN, honest.note())
    monkeypatch.setattr("datahall.ledger.witnessing.verify_consistency", lambda *_: True)
    FileWitness(tmp_path, forked.prove).publish(ORIGIN, forked.note())


def test_the_folder_is_the_user_s_own_place_for_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "datahall" / "witness"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "datahall" / "witness"


def test_a_proof_can_come_straight_from_a_store(tmp_path):
    ledger = FakeLedger(6)
    witness = FileWitness(tmp_path, partial(tree.consistency_proof, read=ledger.read))
    witness.publish(ORIGIN, ledger.note(4))
    witness.publish(ORIGIN, ledger.note())
    assert witness.newest(ORIGIN) == ledger.note()


# Git


def test_heads_are_the_commits_of_a_branch_of_its_own(tmp_path):
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", "project")
    folder, ledger = tmp_path / "project", FakeLedger(9)
    (folder / "mine.txt").write_text("not to be touched")
    hook = folder / ".git" / "hooks" / "reference-transaction"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hook-ran\n")
    hook.chmod(0o755)
    witness = GitWitness(folder, ledger.prove)
    for size in (2, 5, 9):
        witness.publish(ORIGIN, ledger.note(size))
    (branch,) = git(folder, "for-each-ref", "--format=%(refname:short)").split()
    assert branch.startswith("datahall/")
    assert git(folder, "log", "--format=%s|%an", branch).split("\n")[:3] == [
        "9 entries|datahall",
        "5 entries|datahall",
        "2 entries|datahall",
    ]
    assert git(folder, "status", "--porcelain") == "?? mine.txt\n"
    assert not (tmp_path / "hook-ran").exists()


def test_a_folder_inside_a_project_gets_a_repository_of_its_own(tmp_path):
    git(tmp_path, "init", "--quiet", "project")
    ledger = FakeLedger(2)
    GitWitness(tmp_path / "project" / "heads", ledger.prove).publish(ORIGIN, ledger.note())
    assert git(tmp_path / "project", "for-each-ref") == ""
    assert stat.S_IMODE((tmp_path / "project" / "heads").stat().st_mode) == 0o700


def test_git_is_given_no_more_of_the_environment_than_it_needs(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DATAHALL_SECRET", "dh_key")
    monkeypatch.setenv("GIT_DIR", "/somewhere/else")
    with pytest.raises(UnavailableError, match="git init"):
        GitWitness(tmp_path / "w", list).publish(ORIGIN, FakeLedger(1).note())
    said = (tmp_path / "env").read_text()
    assert "PATH=" in said
    assert "DATAHALL_SECRET" not in said
    assert "GIT_DIR" not in said


def test_without_git_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="no git on this machine"):
        GitWitness(tmp_path, list).newest(ORIGIN)


def test_a_remote_that_is_away_is_told_and_catches_up(tmp_path):
    remote, folder, ledger = tmp_path / "remote", tmp_path / "own", FakeLedger(9)
    with_remote(folder, remote)
    witness = GitWitness(folder, ledger.prove)
    with pytest.raises(UnavailableError, match="git ls-remote"):
        witness.publish(ORIGIN, ledger.note(3))
    git(tmp_path, "init", "--quiet", "--bare", "remote")
    witness.publish(ORIGIN, ledger.note(3))
    witness.publish(ORIGIN, ledger.note())
    (branch,) = git(remote, "for-each-ref", "--format=%(refname:short)").split()
    assert git(remote, "show", f"{branch}:checkpoint.note") == ledger.note()


def test_with_repository_and_hall_put_back_together_only_the_remote_notices(tmp_path):
    git(tmp_path, "init", "--quiet", "--bare", "remote")
    ledger, old = FakeLedger(9), FakeLedger(5, 4)
    with_remote(tmp_path / "own", tmp_path / "remote")
    GitWitness(tmp_path / "own", ledger.prove).publish(ORIGIN, ledger.note())
    with_remote(tmp_path / "old", tmp_path / "remote")
    with pytest.raises(IntegrityError, match="rolled back"):
        GitWitness(tmp_path / "old", old.prove).publish(ORIGIN, old.note())
    GitWitness(tmp_path / "alone", old.prove).publish(ORIGIN, old.note())  # the control: without the remote


# URL


def test_two_writers_cannot_overwrite_each_other(server):
    ledger = FakeLedger(9)
    mine, other = UrlWitness(server.url, ledger.prove), UrlWitness(server.url, ledger.prove)
    mine.publish(ORIGIN, ledger.note(2))

    def overtake():
        server.before_put = lambda: None
        other.publish(ORIGIN, ledger.note(8))

    server.before_put = overtake
    with pytest.raises(IntegrityError, match="5 entries, but 8 were witnessed"):
        mine.publish(ORIGIN, ledger.note(5))
    server.before_put, server.conditional = overtake, False  # the control: a server that ignores the condition
    server.notes.clear()
    mine.publish(ORIGIN, ledger.note(5))
    assert mine.newest(ORIGIN) == ledger.note(5), "the head of 8 entries is forgotten"


@pytest.mark.parametrize("form", ["", 'W/"{}"'])
def test_a_server_without_strong_tags_is_refused(server, form):
    ledger = FakeLedger(9)
    witness = UrlWitness(server.url, ledger.prove)
    witness.publish(ORIGIN, ledger.note(2))
    server.tag_form = form
    with pytest.raises(UnavailableError, match="strong ETag"):
        witness.publish(ORIGIN, ledger.note(3))


@pytest.mark.parametrize("status", [301, 401, 500])
def test_a_server_that_does_not_serve_is_out_of_reach(server, status):
    server.status = status
    with pytest.raises(UnavailableError, match=f"answers {status}"):
        UrlWitness(server.url, list).newest(ORIGIN)


def test_what_is_too_long_for_a_note_is_not_read(server):
    ledger = FakeLedger(1)
    witness = UrlWitness(server.url, ledger.prove)
    witness.publish(ORIGIN, ledger.note())
    (path,) = server.notes
    server.notes[path] = bytes(1 << 20)
    with pytest.raises(UnavailableError, match="no note"):
        witness.newest(ORIGIN)


def test_nobody_listening_is_out_of_reach_and_no_password_is_told():
    with serving() as server:
        url = server.url.replace("127.0.0.1", "somebody:hidden@127.0.0.1")
    with pytest.raises(UnavailableError) as away:
        UrlWitness(url, list).newest(ORIGIN)
    assert "hidden" not in str(away.value)
    assert "127.0.0.1" in away.value.where


@pytest.mark.parametrize(
    "url", ["http://example.org/heads", "ftp://127.0.0.1/x", "https:///x", "nonsense", "http://[bad"]
)
def test_only_https_or_this_machine(url):
    with pytest.raises((UserError, ValueError)):
        UrlWitness(url, list)


@pytest.mark.parametrize("url", ["http://localhost:1/x", "http://127.0.0.1:1/x", "http://[::1]:1/x", "https://host/x"])
def test_https_and_this_machine_are_taken(url):
    assert UrlWitness(url, list)
