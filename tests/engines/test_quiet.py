import ast
import os
import subprocess
import sys
from pathlib import Path

from threadpoolctl import threadpool_info

import datahall
from datahall.engines.quiet import quiet_libraries

SESSION = """
import os, sys
{how}
assert onnxruntime.get_available_providers()
try:
    onnxruntime.InferenceSession(b"no model")
except Exception:
    pass
"""


def files_left_by(how, home):
    """Run a session in a fresh process and return what lies in its home afterwards."""
    environment = {
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
        # The control must not send anything either: no certificates to trust, and a proxy that nobody listens at.
        "SSL_CERT_FILE": "/dev/null",
        "https_proxy": "http://127.0.0.1:9",
    }
    subprocess.run(
        [sys.executable, "-B", "-c", SESSION.format(how=how)],
        env=environment,
        check=True,
        capture_output=True,
        timeout=100,
    )
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def test_onnxruntime_keeps_no_device_id_and_no_events(tmp_path):
    how = "from datahall.engines.quiet import import_onnxruntime; onnxruntime = import_onnxruntime()"
    assert files_left_by(how, tmp_path) == []


def test_control_imported_plainly_it_does(tmp_path):
    assert "deviceid" in files_left_by("import onnxruntime", tmp_path)


def test_nothing_of_ours_imports_onnxruntime_plainly():
    plain = set()
    for path in Path(datahall.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "onnxruntime" for name in names):
                plain.add(path.name)
    assert plain == {"quiet.py"}


def test_libraries_have_one_thread_within_and_their_own_again_after():
    before = [pool["num_threads"] for pool in threadpool_info()]
    with quiet_libraries():
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    after = [pool["num_threads"] for pool in threadpool_info()]
    assert after[: len(before)] == before
    assert os.environ["JOBLIB_MULTIPROCESSING"] == "0"
