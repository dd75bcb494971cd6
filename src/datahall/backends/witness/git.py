"""A witness in a Git repository: each hall's heads are the commits of a branch of its own, pushed where there is a remote.

Only plumbing commands run, so no work tree, index or hook of the repository is touched. A branch moves by compare and
swap (`git update-ref NEW OLD`), and a remote takes a push only if it extends what it has.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from datahall.core.canonical import digest_bytes
from datahall.core.durable import step
from datahall.core.errors import UnavailableError
from datahall.ledger.checkpoint import read_note
from datahall.ledger.witnessing import Prove, check_head, out_of_reach

NOTE_FILE = "checkpoint.note"
_MAX_TRIES = 5
_SETTINGS = ("core.hooksPath=/dev/null", "core.fsync=committed", "core.fsyncMethod=fsync", "gc.auto=0")
_KEPT = ("PATH", "HOME", "SSH_AUTH_SOCK", "XDG_CONFIG_HOME")
"""All that Git is given of the environment: where programs, credentials and an SSH agent are, for a push."""


class GitWitness:
    """Remembers each hall's newest tree head on the branch `datahall/<digest of the origin>`.

    With a remote, what it remembers counts too, so that putting back an old copy of hall and repository together is
    noticed. Several processes may share a repository.
    """

    def __init__(self, folder: Path, prove: Prove, *, remote: str = "origin", timeout_s: float = 20.0) -> None:
        """`folder` is a repository, bare or not, or a place where a bare one can be made."""
        self.folder = folder
        self._prove, self._remote, self._timeout_s = prove, remote, timeout_s

    def newest(self, origin: str) -> str | None:
        """Return the newest checkpoint note seen of `origin`, None if there is none. Raises UnavailableError."""
        if not self._is_repository():
            return None
        self._fetch(origin)
        notes = [self._note_at(branch) for branch in (_branch(origin), _tracking(origin))]
        return max((note for note in notes if note is not None), key=lambda note: read_note(note).size, default=None)

    def publish(self, origin: str, note: str) -> None:
        """Remember `note` as the newest of `origin`, here and at the remote.

        Raises IntegrityError, and remembers nothing, where `check_head` does. Raises UnavailableError where Git or the
        remote cannot be used, or others write to the branch all the time.
        """
        where, branch = f"{self.folder} ({_branch(origin)})", _branch(origin)
        check_head(origin, None, note, self._prove, where=where, forget="")
        if not self._is_repository():
            self._init()
        self._fetch(origin)
        for _ in range(_MAX_TRIES):
            ours, theirs = self._commit_of(branch), self._commit_of(_tracking(origin))
            for seen in (self._note_at(ours), self._note_at(theirs)):
                check_head(origin, seen, note, self._prove, where=where, forget="delete the branch named above")
            if self._holds(ours, theirs, note) or self._move(branch, ours, theirs, note):
                self._push(branch, theirs)
                return
        raise out_of_reach("others move its branch all the time", str(self.folder))

    def _init(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise out_of_reach(error.strerror or str(error), str(self.folder)) from error
        self._git("init", "--quiet", "--bare")

    def _holds(self, ours: str | None, theirs: str | None, note: str) -> bool:
        """Whether the branch holds the note already, above all that the remote has."""
        if ours is None or self._note_at(ours) != note:
            return False
        return theirs is None or self._try("merge-base", "--is-ancestor", theirs, ours).returncode == 0

    def _move(self, branch: str, ours: str | None, theirs: str | None, note: str) -> bool:
        """Put a commit of `note` on the branch unless somebody else was first; return whether it is there."""
        blob = self._git("hash-object", "-w", "--stdin", text=note).strip()
        tree = self._git("mktree", text=f"100644 blob {blob}\t{NOTE_FILE}\n").strip()
        # Above both, so that the remote sees its own branch go on.
        parents = [part for commit in dict.fromkeys((ours, theirs)) if commit for part in ("-p", commit)]
        message = f"{read_note(note).size} entries"
        commit = self._git("commit-tree", tree, *parents, "-m", message).strip()
        moved = []
        update = ("update-ref", f"refs/heads/{branch}", commit, ours or "0" * len(commit))
        step("witness.git/ref", lambda: moved.append(self._try(*update)))
        return moved[0].returncode == 0

    def _fetch(self, origin: str) -> None:
        """Bring what the remote remembers; that it knows nothing of this hall yet is no error."""
        if not self._has_remote():
            return
        listed = self._git("ls-remote", self._remote, f"refs/heads/{_branch(origin)}")
        if listed.strip():
            refs = f"+refs/heads/{_branch(origin)}:{_tracking(origin)}"
            self._git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", self._remote, refs)

    def _push(self, branch: str, theirs: str | None) -> None:
        """Hand the branch to a remote that still has what was checked; it takes only what extends it."""
        if not self._has_remote() or self._commit_of(branch) == theirs:
            return
        lease = f"--force-with-lease=refs/heads/{branch}:{theirs or ''}"
        refs = f"refs/heads/{branch}:refs/heads/{branch}"
        self._git("push", "--quiet", "--no-verify", lease, self._remote, refs)

    def _note_at(self, commit: str | None) -> str | None:
        if commit is None or self._commit_of(commit) is None:
            return None
        return self._git("cat-file", "blob", f"{commit}:{NOTE_FILE}")

    def _commit_of(self, name: str) -> str | None:
        done = self._try("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
        return done.stdout.decode("utf-8", "replace").strip() or None

    def _has_remote(self) -> bool:
        return self._try("config", "--get", f"remote.{self._remote}.url").returncode == 0

    def _is_repository(self) -> bool:
        return self.folder.is_dir() and self._try("rev-parse", "--git-dir").returncode == 0

    def _git(self, *arguments: str, text: str = "") -> str:
        done = self._try(*arguments, text=text)
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            why = lines[-1][:200] if lines else f"status {done.returncode}"
            raise out_of_reach(f"git {arguments[0]}: {why}", str(self.folder))
        return done.stdout.decode("utf-8", "replace")

    def _try(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        try:
            return subprocess.run(  # noqa: S603  a fixed program, arguments of ours, no shell
                ["git", "-C", str(self.folder), *settings, *arguments],  # noqa: S607  found by the user's PATH, as git itself is
                input=text.encode(),
                capture_output=True,
                env=_environment(self.folder),
                timeout=self._timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise UnavailableError("there is no git on this machine", hint="install it, or use file:DIR") from error
        except subprocess.TimeoutExpired as error:
            raise out_of_reach(f"git {arguments[0]} took over {self._timeout_s} s", str(self.folder)) from error
        except OSError as error:
            raise out_of_reach(error.strerror or str(error), str(self.folder)) from error


def _branch(origin: str) -> str:
    # Named by digest: an origin may hold what no branch may.
    return f"datahall/{digest_bytes(origin.encode())[:32]}"


def _tracking(origin: str) -> str:
    return f"refs/datahall-remote/{digest_bytes(origin.encode())[:32]}"


def _environment(folder: Path) -> dict[str, str]:
    who = {f"GIT_{role}_{part}": "datahall" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    fixed = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}
    # A folder inside somebody's project must not be taken for that project's repository.
    fixed["GIT_CEILING_DIRECTORIES"] = str(folder.resolve().parent)
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | who | fixed


if TYPE_CHECKING:
    from datahall.core.ports import Witness

    _: Witness = GitWitness(Path(), lambda _old, _new: [])
