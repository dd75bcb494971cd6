"""`datahall --help` imports nothing heavy: it must answer at once, on any machine."""

import importlib.util
import re
import subprocess
import sys

import pytest

HEAVY = {
    "altair",
    "cryptography",
    "fastapi",
    "httpx",
    "jinja2",
    "numpy",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "polars",
    "psutil",
    "pydantic",
    "ruamel",
    "scipy",
    "skl2onnx",
    "sklearn",
    "skops",
    "sqlalchemy",
    "torch",
    "uvicorn",
    "uvloop",
    "vl_convert",
    "zstandard",
}
HELP = "import sys; sys.argv = ['datahall', '--help']; from datahall.app.cli.main import main; main()"


def imported(code):
    """Return the top-level modules that a fresh interpreter imports while it runs `code`, and its output."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False)
    names = set(re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE))
    return {name.partition(".")[0] for name in names}, done.stdout, done.returncode


@pytest.mark.skipif(not importlib.util.find_spec("datahall.app.cli.main"), reason="the command line is not built yet")
def test_help_imports_nothing_heavy():
    modules, output, status = imported(HELP)
    assert (status, "Usage" in output) == (0, True)
    assert "datahall" in modules
    assert modules & HEAVY == set()


ALLOWED = {
    # A gateway: its keys, and numpy for whole batches.
    "gateway": {"cryptography", "numpy"},
    # A replica before it opens its bundle, whose engine is all that may come then.
    "replica": {"numpy", "uvloop"},
    # Control: its API and its database; what reads tables and fits models runs in jobs.
    "control": {
        "cryptography",
        "fastapi",
        "numpy",
        "pydantic",
        "ruamel",
        "sqlalchemy",
        "uvicorn",
        "uvloop",
        "zstandard",
    },
    "supervisor": {"cryptography"},
}


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_a_process_of_a_hall_imports_what_it_needs_and_no_more(name):
    serve = "; import datahall.serve.replica, datahall.engines.open" if name == "replica" else ""
    modules, _, status = imported(f"import datahall.app.mains.{name}{serve}")
    assert (status, modules & HEAVY) == (0, ALLOWED[name])


@pytest.mark.parametrize(("engine", "loads"), [("onnx", {"numpy", "onnxruntime"}), ("sklearn", {"numpy"})])
def test_an_engine_imports_only_its_own_library(engine, loads):
    modules, _, status = imported(
        f"from datahall.engines import ENGINES; ENGINES.load('{engine}');"
        "from datahall.engines.quiet import import_onnxruntime;" + ("import_onnxruntime()" if engine == "onnx" else "")
    )
    assert (status, modules & HEAVY) == (0, loads)


def test_a_heavy_import_would_be_seen():
    modules, _, _ = imported("import numpy")
    assert modules & HEAVY == {"numpy"}


def test_the_registries_list_their_members_without_importing_them():
    modules, output, _ = imported(
        "from datahall.train import MODELS; from datahall.evaluate import CLAIMS; from datahall.engines import ENGINES;"
        "from datahall.data.examples import EXAMPLES;"
        "print(len(MODELS.names), len(CLAIMS.names), len(ENGINES.names), len(EXAMPLES.names))"
    )
    assert [int(number) for number in output.split()] == [6, 6, 3, 3]
    assert modules & HEAVY == set()
