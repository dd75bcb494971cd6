"""The jobs' own behaviour under the sandbox's rules; that the kernel enforces them is tested with the launcher."""

import subprocess
import sys

SCRIPT = """
import os, sys
import datahall.optimize.job, datahall.train.job  # what the job process imports before the rules hold
from datahall.testing.models import export_request, no_report, train_request
from datahall.testing.tables import small_table
from datahall.backends.blobs.memory import MemoryBlobStore

broken, blobs = [], MemoryBlobStore()
table = small_table(blobs, task="classification", mixed=True)
own = (sys.prefix, sys.base_prefix, os.getcwd(), "/usr/lib", "/lib", "/sys/", "/proc/", "/dev/null")
ACTS = ("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "socket.connect", "socket.bind", "tempfile.mkstemp",
        "tempfile.mkdtemp", "os.mkdir", "os.remove", "os.rename", "shutil.rmtree")
def rules(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, mode, flags = os.fsdecode(arguments[0]), arguments[1], arguments[2]
        writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        if writes:
            broken.append(("write", path))
        if writes or not os.path.abspath(path).startswith(own):
            raise PermissionError(13, "the sandbox says no", path)
    elif event in ACTS:
        broken.append((event, str(arguments)[:200]))
        raise PermissionError(13, "the sandbox says no", event)
sys.addaudithook(rules)
if "break" in sys.argv:
    open("/tmp/never", "w")
from datahall.optimize.job import run as export
from datahall.train.job import run as train
for model in ("forest", "boosting", "mlp", "logistic"):
    fits = train(train_request(table, model, search={"trials": 2}), blobs, no_report)
    told = export(export_request(table, fits), blobs, no_report).equivalence
    assert told["engine"] == "onnx", told
import threading
print(sorted(set(broken)), threading.active_count(), "loky" in str(sorted(threading.enumerate(), key=str)))
"""


def run(home, *arguments):
    return subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT, *arguments],
        env={"OMP_NUM_THREADS": "1", "TMPDIR": str(home), "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_jobs_write_nothing_read_nothing_of_others_and_start_nothing(tmp_path):
    done = run(tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[] 1 False"), done.stderr[-2000:]
    assert list(tmp_path.rglob("*")) == []  # nor do libraries in C, which an audit hook cannot see


def test_control_a_job_that_writes_is_stopped(tmp_path):
    done = run(tmp_path, "break")
    assert (done.returncode, "the sandbox says no" in done.stderr) == (1, True)
