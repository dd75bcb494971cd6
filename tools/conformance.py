"""Install the clients and servers that others wrote, each into an environment of its own, and test against them.

Usage: python tools/conformance.py

Their packages contradict ours and one another, so they live below .venv-peers/conformance, away from .venv.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-peers" / "conformance"
PEERS: Mapping[str, tuple[str, ...]] = {
    "kserve": ("kserve==0.21.0",),
    "mlflow": ("mlflow==3.17.2",),
    # Later versions of uvloop end MLServer's start.
    "mlserver": ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "scikit-learn==1.9.1", "uvloop==0.21.0"),
}
TESTS = "tests/serve/test_peers.py"


def main() -> int:
    """Install what is missing, run the tests, and return their exit status."""
    for name, packages in PEERS.items():
        install(FOLDER / name, packages)
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", TESTS], cwd=ROOT, check=False).returncode  # noqa: S603  (our own tests)


def install(folder: Path, packages: tuple[str, ...]) -> None:
    """Make an environment with `packages`, unless it is there as they say."""
    stamp, wanted = folder / "conformance.stamp", "\n".join([sys.version, str(folder), *packages])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {' '.join(packages)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)  # noqa: S603  (this interpreter)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *packages], check=True)  # noqa: S603  (our own environment)
    stamp.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
