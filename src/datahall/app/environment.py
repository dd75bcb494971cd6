"""What software and which class of machine this process runs on."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import msgspec

import datahall
from datahall.core.canonical import digest_bytes, digest_of
from datahall.core.records import Environment


@cache
def current_environment() -> Environment:
    """Return the environment of this process; two processes of one installation return equal ones."""
    packages = {
        dist.metadata["Name"].lower().replace("_", "-"): dist.version
        for dist in distributions()
        if dist.metadata["Name"] and dist.metadata["Name"].lower() != "datahall"
    }
    unnamed = Environment(
        id="",
        python=platform.python_version(),
        platform=f"{sys.platform}-{platform.machine()}",
        packages=dict(sorted(packages.items())),
        datahall_digest=source_digest(),
        node_class=node_class(),
    )
    return msgspec.structs.replace(unnamed, id=f"env_{digest_of(unnamed)[:32]}")


def lock_digest(environment: Environment) -> str:
    """Return the digest of what can change a result: interpreter, platform and packages.

    Datahall's own code is left out: each stage has a code version for that, so that a changed help text does not
    train every model anew.
    """
    return digest_of([environment.python, environment.platform, environment.packages])


def source_digest() -> str:
    """Return the digest of every Python file of the installed datahall package."""
    root = Path(datahall.__file__).parent
    files = {str(path.relative_to(root)): digest_bytes(path.read_bytes()) for path in sorted(root.rglob("*.py"))}
    return digest_of(files)


def node_class() -> str:
    """Return a name for machines that answer alike: architecture, processor model and number of cores."""
    model = "unknown"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:  # not Linux, or /proc is hidden: the class is then only architecture and cores
        model = platform.processor() or "unknown"
    return f"{platform.machine()}/{model}/{os.cpu_count()}"
