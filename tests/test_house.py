"""The bars of the house for the repository: what may import what, locks, package notes, and no trace of a machine."""

import ast
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "datahall"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = sorted(path.parent for path in SRC.glob("*/__init__.py"))
IMPORT_NAMES = {
    "scikit-learn": "sklearn",
    "ruamel.yaml": "ruamel",
    "vl-convert-python": "vl_convert",
}
PARTS = {"markupsafe": "jinja2", "pydantic_core": "pydantic", "starlette": "fastapi"}
"""Modules that come with a declared package and are half of its interface."""


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def texts() -> dict[Path, str]:
    found = {}
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:4096]:
            found[path] = data.decode("utf-8")
    return found


def top_imports(folder: Path) -> dict[str, list[str]]:
    """Return each top-level module that the files below `folder` import, with the files."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                found.setdefault(PARTS.get(top, top), []).append(str(path.relative_to(SRC)))
    return found


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)$", text, re.MULTILINE))


def plain(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>!~; ]", requirement)[0]).lower()


def test_each_file_lies_where_it_should():
    assert [
        path for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__" and path not in PACKAGES
    ] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_each_package_has_a_note_of_sixty_lines_at_most(package):
    note = package / "README.md"
    assert note.exists(), f"{note.relative_to(ROOT)} is missing"
    assert len(note.read_text(encoding="utf-8").splitlines()) <= 60


def test_the_core_needs_only_the_standard_library_and_msgspec():
    foreign = set(top_imports(SRC / "core")) - sys.stdlib_module_names - {"msgspec", "datahall"}
    assert foreign <= {"numpy"}, "numpy is named in annotations alone; import-linter watches the rest"


def test_a_policy_imports_records_their_digests_statistics_and_arithmetic_only():
    allowed = re.compile(
        r"__future__|math|msgspec|typing|collections\.abc|datahall\.(core\.(records|canonical)|stats|policy)(\..+)?"
    )
    bad = []
    for path in sorted((SRC / "policy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            bad += [f"{path.name}: {name}" for name in names if not allowed.fullmatch(name)]
    assert bad == []


def test_a_package_stands_in_parentheses_only_until_it_is_built():
    text = (ROOT / ".importlinter").read_text(encoding="utf-8")
    layers = re.search(r"^layers =\n((?:    .+\n)+)", text, re.MULTILINE)[1]
    names = re.findall(r"\(?\w+\)?", layers)
    absent = {name.strip("()") for name in names if name.startswith("(")}
    built = {name for name in names if not name.startswith("(")}
    assert built == {package.name for package in PACKAGES}
    assert not absent & built


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    declared = {IMPORT_NAMES.get(name, plain(name)) for name in PROJECT["project"]["dependencies"]}
    extras = {plain(name) for group in PROJECT["project"]["optional-dependencies"].values() for name in group}
    imported = set(top_imports(SRC)) - sys.stdlib_module_names - {"datahall"}
    assert imported - declared - extras == set(), "add it to pyproject.toml with the file that needs it"
    assert declared - imported == set(), "nothing imports it: remove it from pyproject.toml and run `make lock`"


def test_each_dependency_names_a_file_that_needs_it():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", lines, re.MULTILINE | re.DOTALL)[1]
    imports = top_imports(SRC)
    wrong = []
    for name, comment in re.findall(r'"([^"]+)",?\s*(?:#\s*(.*))?', block):
        module = IMPORT_NAMES.get(name, plain(name))
        named = re.findall(r"[a-z_]+(?:/[a-z_]+)*(?:\.py)?", comment.partition(":")[0])
        if not any(file.startswith(place) for place in named for file in imports.get(module, [])):
            wrong.append(f"{name}: {comment or 'no comment'}")
    assert wrong == []


def test_everything_asked_for_is_locked_at_one_version():
    run, test = pins("run"), pins("test")
    asked = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
    assert {plain(name) for name in asked} - set(run) == set()
    assert {plain(name) for name in PROJECT["dependency-groups"]["test"]} - set(run) - set(test) == set()
    assert set(run) & set(test) == set()
    assert PROJECT["build-system"]["requires"] == [f"hatchling=={run['hatchling']}"]


def test_a_lock_holds_exact_versions_and_nothing_else():
    for name in ("run", "test"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        odd = [line for line in lines if not re.fullmatch(r"#.*|-r run\.txt|[a-z0-9.-]+==[\w.!+]+", line)]
        assert odd == []


def test_no_file_names_a_machine_or_a_registry():
    folders = r"(?<![\w.])/(?:work|root|home/\w+|Users)/"
    hosts = r"py" + r"pi\.org|python" + r"hosted\.org|ana" + r"conda\.(?:org|com)|npm" + r"js\.com"
    found = []
    for path, text in texts().items():
        for number, line in enumerate(text.splitlines(), 1):
            match = re.search(f"{folders}|{hosts}", line)
            if match:
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert found == []


def test_files_end_with_one_line_break_and_hold_no_stray_space():
    odd = []
    for path, text in texts().items():
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            odd.append(f"{path.relative_to(ROOT)}: its end")
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml"} and re.search(r"[ \t]+$|\r", text, re.MULTILINE):
            odd.append(f"{path.relative_to(ROOT)}: white space at a line's end")
    assert odd == []


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_no_test_reaches_beyond_this_machine():
    with socket.socket() as connection, pytest.raises(PermissionError, match="this machine only"):
        connection.connect(("192.0.2.1", 9))
    with pytest.raises(PermissionError, match="this machine only"):
        socket.getaddrinfo("example.org", 80)
