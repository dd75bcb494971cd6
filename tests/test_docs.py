"""The docs say what the code does: every name documented, every link resolved, every generated page current."""

import importlib
import re
from pathlib import Path
from typing import get_args

import pytest
import reference

from datahall.core import ports, records
from datahall.core.records import EntryKind

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "src").rglob("README.md")])
NOT_YET = "not yet"


def read(path):
    return path.read_text(encoding="utf-8")


def prose(text):
    """Return a page without its code blocks, in which brackets mean something else."""
    return re.sub(r"^(```|~~~).*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text):
    heads = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(path, text):
    broken = []
    for target in re.findall(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(read(place))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path):
    assert broken_links(path, read(path)) == []


def test_a_broken_link_would_be_found():
    text = "# Here\n[gone](gone.md) [no such head](README.md#nowhere) [fine](README.md) [here](#here)\n"
    assert broken_links(ROOT / "README.md", text)[:2] == ["gone.md", "README.md#nowhere"]


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_a_generated_page_is_current(name):
    assert read(DOCS / "reference" / f"{name}.md") == reference.PAGES[name](), "run `make docs`"


def test_every_entry_kind_is_documented():
    page = read(DOCS / "reference" / "entries.md")
    assert [kind for kind in get_args(EntryKind) if f"`{kind}`" not in page] == []
    assert set(reference.ENTRY_MEANINGS) == set(get_args(EntryKind))


def test_every_port_is_documented():
    page = read(DOCS / "reference" / "ports.md")
    protocols = [name for name in ports.__all__ if getattr(getattr(ports, name), "_is_protocol", False)]
    assert len(protocols) >= 10
    assert [name for name in protocols if f"## {name}\n" not in page] == []


def test_every_noun_is_in_the_glossary_and_the_glossary_is_sorted():
    nouns = re.findall(r"^\| (\w+) \|", read(DOCS / "glossary.md"), re.MULTILINE)[1:]
    assert nouns == sorted(nouns, key=str.lower)
    kinds = {kind.__name__ for kind in records.CATALOGUE_RECORDS}
    named_in_another = {"ApiKey", "EvidenceKey"}
    assert kinds - named_in_another - set(nouns) == set()


def test_the_first_command_of_the_readme_comes_early():
    lines = read(ROOT / "README.md").splitlines()
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("$ ")) <= 25


def code_blocks(text):
    return re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)


def test_the_chinese_readme_has_the_same_sections_and_the_same_code():
    english, chinese = read(ROOT / "README.md"), read(ROOT / "README.zh-CN.md")
    assert code_blocks(chinese) == code_blocks(english)
    depth = re.compile(r"^(#+) ", re.MULTILINE)
    assert depth.findall(prose(chinese)) == depth.findall(prose(english))
    links = re.compile(r"\]\((?!README)([^)]+)\)")
    assert sorted(links.findall(prose(chinese))) == sorted(links.findall(prose(english)))


def capability_rows():
    lines = [line for line in read(DOCS / "capabilities.md").splitlines() if re.match(r"\| \d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_capabilities_has_its_thirty_rows():
    rows = capability_rows()
    assert [int(row[0]) for row in rows] == list(range(1, 31))
    assert {len(row) for row in rows} == {6}


@pytest.mark.parametrize("row", capability_rows(), ids=lambda row: row[0])
def test_each_cell_of_a_capability_resolves_or_says_not_yet(row):
    _, _, state, page, command, test = row
    assert state == NOT_YET or state.startswith(("partly: ", "yes: "))
    assert (page, command, test).count(NOT_YET) == (3 if state == NOT_YET else 0)
    if state == NOT_YET:
        return
    assert re.fullmatch(r"\[[^\]]+\]\([^)]+\)", page)
    assert broken_links(DOCS / "capabilities.md", page) == []
    assert resolves(command), command
    for name in re.findall(r"`([^`]+)`", test):
        file, _, function = name.partition("::")
        assert (ROOT / file).is_file(), name
        assert not function or f"def {function}(" in read(ROOT / file), name
    assert "`tests/" in test


def resolves(command):
    """Whether a command of the table exists: a target of the Makefile, or a verb of the command line."""
    program, verb = command.strip("`").split()[:2]
    if program == "make":
        return f"\n{verb}:" in read(ROOT / "Makefile")
    return program == "datahall" and f"## {verb}\n" in read(DOCS / "reference" / "cli.md")


@pytest.mark.parametrize(
    ("page", "place"),
    [
        ("models", "datahall.train:MODELS.names"),
        ("claims", "datahall.evaluate:CLAIMS.names"),
        ("cli", "datahall.app.cli.main:VERBS"),
    ],
)
def test_every_name_has_its_heading(page, place):
    module, _, attributes = place.partition(":")
    names = importlib.import_module(module)
    for attribute in attributes.split("."):
        names = getattr(names, attribute)
    text = read(DOCS / "reference" / f"{page}.md")
    assert [name for name in names if f"\n## {name}\n" not in text] == []


def test_every_route_of_the_gateway_is_documented():
    text = read(DOCS / "reference" / "http.md")
    routes = importlib.import_module("datahall.serve.routes").HOT_ROUTES
    assert [
        route.path for route in routes if f"| {route.method} | `{route.path}` | {route.permission} |" not in text
    ] == []


def test_the_application_file_of_the_readme_is_one():
    load = importlib.import_module("datahall.spec.load")
    kinds = importlib.import_module("datahall.spec.kinds").Kinds(
        models=importlib.import_module("datahall.train").MODELS,
        claims=importlib.import_module("datahall.evaluate").CLAIMS,
    )
    for page in ("README.md", "docs/tutorial.md", "docs/explanation/evidence.md"):
        for block in re.findall(r"^```yaml\n(.*?)^```$", read(ROOT / page), re.MULTILINE | re.DOTALL):
            head = "" if "datahall: 1" in block else read_head()
            assert load.parse(head + block, kinds).spec.name == "tumours"


def read_head():
    """Return the smallest application file, for pages that show one section only."""
    return re.search(r"^```yaml\n(.*?)^```$", read(ROOT / "README.md"), re.MULTILINE | re.DOTALL)[1]


def test_the_readme_knows_how_many_packages_are_installed():
    num_packages = read(ROOT / "requirements" / "run.txt").count("==")
    assert f"{num_packages} packages" in read(ROOT / "README.md")
    assert f"{num_packages} 个软件包" in read(ROOT / "README.zh-CN.md")


def test_the_docs_know_how_large_an_application_file_may_be():
    limit = importlib.import_module("datahall.spec.read").SIZE_LIMIT_BYTES
    assert f"{limit // 1024} KiB cap" in read(DOCS / "explanation" / "threat-model.md")


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "README.md", "SECURITY.md", "CONTRIBUTING.md"])
def test_a_policy_that_is_named_exists(page):
    named = set(re.findall(r"\bpolicy[./](\w+)", read(ROOT / page))) - {"py"}
    assert [name for name in named if not (ROOT / f"src/datahall/policy/{name}.py").is_file()] == []
    row = re.search(r"`policy/` \| pure decisions: ([\w, ]+)", read(ROOT / "ARCHITECTURE.md"))[1]
    assert len(row.split(", ")) == len(list((ROOT / "src/datahall/policy").glob("[a-z]*.py"))) - 1, "words.py aside"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/explanation/evidence.md"])
def test_a_reader_finds_the_mutants_that_survive(page):
    assert "tests/mutation/survivors.txt)" in read(ROOT / page)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/explanation/evidence.md", "docs/tutorial.md"])
def test_an_auditor_finds_the_kit(page):
    assert "datahall verify --kit" in read(ROOT / page)
    assert "`--kit`" in read(DOCS / "reference" / "cli.md")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/tutorial.md"])
def test_whoever_follows_a_page_is_told_where_the_command_is(page):
    commands = re.findall(
        r"^\$ (.+)$",
        "".join(re.findall(r"^```console\n(.*?)^```$", read(ROOT / page), re.MULTILINE | re.DOTALL)),
        re.MULTILINE,
    )
    first = next(index for index, command in enumerate(commands) if "datahall " in command)
    assert 'export PATH="$PWD/.venv/bin:$PATH"' in commands[:first]
    verbs = importlib.import_module("datahall.app.cli.main").VERBS
    assert {verb for command in commands for verb in re.findall(r"\bdatahall (\w+)", command)} <= set(verbs)


def test_the_chinese_readme_says_that_other_pages_are_english():
    assert "均为英文" in read(ROOT / "README.zh-CN.md").split("##")[0]


def test_each_changelog_fragment_says_of_what_kind_it_is():
    kinds = "added|changed|fixed|removed|security"
    names = [path.name for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert [name for name in names if not re.fullmatch(rf"[a-z0-9-]+\.({kinds})\.md", name)] == []
