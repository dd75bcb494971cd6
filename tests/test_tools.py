"""The first minutes on a fresh machine: preflight, environment, help."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import environment
import lock
import preflight
import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*words, cwd=ROOT, **variables):
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(cwd), **variables}
    return subprocess.run(words, cwd=cwd, env=surroundings, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose path is long and has a space in it, without .venv."""
    root = tmp_path / "with space" / ("long-" * 30) / "datahall"
    for name in ("tools", "requirements"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    return root


def test_the_preflight_can_be_read_by_python_3_6():
    ast.parse((ROOT / "tools" / "preflight.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_this_machine_lacks_nothing():
    assert preflight.find_lacks(str(ROOT)) == []


def test_a_machine_without_programs_is_told_all_of_them(tmp_path):
    done = run(sys.executable, str(ROOT / "tools" / "preflight.py"), PATH=str(tmp_path))
    assert done.returncode == 1
    assert "missing: the program 'git'" in done.stderr
    assert "missing: the program 'make'" in done.stderr
    assert done.stderr.count("mend: ") == 2


@pytest.mark.parametrize(
    ("lack", "words", "mend"),
    [
        (lambda: preflight.lack_of_linux("darwin"), "darwin", "virtual machine"),
        (lambda: preflight.lack_of_module("no_such_module"), "no_such_module", "venv"),
        (lambda: preflight.lack_of_program("no-such-program"), "no-such-program", "no-such-program"),
        (lambda: preflight.lack_of_writing("/no/such/folder"), "the right to write", "chown"),
        (lambda: preflight.lack_of_disk("/", 2**40), "disk space", "free some"),
    ],
)
def test_each_lack_comes_with_the_line_that_mends_it(lack, words, mend):
    what, line = lack()
    assert words in what
    assert mend in line


def test_an_old_python_names_a_newer_one_where_there_is_one(tmp_path):
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import preflight; print(preflight.lack_of_python((3, 9)))"
    assert "package manager" in run(sys.executable, "-c", script, PATH=str(tmp_path)).stdout
    newer = tmp_path / "python3.12"
    newer.write_text("", encoding="utf-8")
    newer.chmod(0o755)
    assert "make PYTHON=python3.12 demo" in run(sys.executable, "-c", script, PATH=str(tmp_path)).stdout
    assert preflight.lack_of_python((3, 11)) is None


def test_room_is_not_asked_for_once_all_is_installed(tmp_path):
    assert preflight.lack_of_disk(str(tmp_path), 2**40) is not None
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "run.stamp").touch()
    assert preflight.lack_of_disk(str(tmp_path), 2**40) is None


def test_the_stamp_changes_with_the_lock_and_with_the_path(checkout, tmp_path):
    key = environment.key_of(checkout, "run")
    assert key == environment.key_of(checkout, "run")
    assert key != environment.key_of(checkout, "test")
    moved = shutil.copytree(checkout, tmp_path / "moved")
    assert key != environment.key_of(moved, "run")
    with (checkout / "requirements" / "run.txt").open("a", encoding="utf-8") as file:
        file.write("another==1.0\n")
    assert key != environment.key_of(checkout, "run")


def test_nothing_is_installed_while_the_stamp_holds(checkout):
    folder = checkout / ".venv"
    folder.mkdir()
    (folder / "run.stamp").write_text(environment.key_of(checkout, "run"), encoding="utf-8")
    assert environment.read_stamp(checkout, "test") == ""
    done = run(sys.executable, "tools/environment.py", "run", cwd=checkout)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in folder.iterdir()] == ["run.stamp"]


def test_a_half_made_or_moved_environment_is_made_anew(tmp_path):
    folder = tmp_path / ".venv"
    folder.mkdir()
    assert not environment.is_whole(folder, "here")
    (folder / "place").write_text("there", encoding="utf-8")
    assert not environment.is_whole(folder, "here")
    (folder / "place").write_text("here", encoding="utf-8")
    assert environment.is_whole(folder, "here")


def test_make_alone_explains_itself_in_any_folder(checkout):
    done = run("make", cwd=checkout)
    assert done.returncode == 0, done.stderr
    shown = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"demo", "test", "check", "help", "clean"} <= shown
    assert not (checkout / ".venv").exists()


def test_the_lock_is_read_under_one_spelling(tmp_path):
    path = tmp_path / "pins.txt"
    path.write_text("# a comment\n-r run.txt\nRuamel.YAML==0.19.1\nml_dtypes==0.6.0\n", encoding="utf-8")
    assert lock.read_pins(path) == {"ruamel-yaml": "0.19.1", "ml-dtypes": "0.6.0"}
