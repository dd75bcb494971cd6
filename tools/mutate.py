"""Changes the code in small ways, one at a time, and counts how many of the changes the tests notice."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from mutations import ROOT, Mutant, mutants_of, mutate, path_of

SURVIVORS = ROOT / "tests" / "mutation" / "survivors.txt"
TARGETS: dict[str, tuple[str, ...]] = {
    "datahall.policy.gate": ("tests/policy/test_gate.py",),
    **{
        f"datahall.policy.{name}": (f"tests/policy/test_{name}.py",)
        for name in ("admit", "concurrency", "rate", "share")
    },
    "datahall.serve.admission": (
        "tests/serve/test_admission.py",
        "tests/serve/test_admission_calm.py",
        "tests/serve/test_admission_edges.py",
        "tests/serve/test_admission_shares.py",
    ),
    "datahall.stats.multiple": ("tests/stats/test_multiple.py", "tests/policy/test_gate.py"),
    "datahall.policy.route": ("tests/policy/test_route.py",),
    "datahall.policy.health": ("tests/policy/test_health.py",),
    "datahall.policy.retry": ("tests/policy/test_retry.py",),
    "datahall.serve.batch": ("tests/serve/test_batch.py",),
    "datahall.stats.sample_size": ("tests/stats/test_multiple.py", "tests/policy/test_gate.py"),
    "datahall.evaluate.exhibit": ("tests/evaluate/test_exhibit.py",),
    "datahall.security.signing": ("tests/security/test_signing.py",),
    "datahall.deploy.admission": ("tests/deploy/test_verdicts.py", "tests/deploy/test_rows.py"),
    "datahall.deploy.table": ("tests/deploy/test_routes.py",),
    "datahall.registry.exhibits": ("tests/deploy/test_rows.py", "tests/deploy/test_verdicts.py"),
    **{
        f"datahall.ledger.{path.stem}": (f"tests/ledger/test_{path.stem}.py",)
        if (ROOT / "tests" / "ledger" / f"test_{path.stem}.py").exists()
        else ("tests/ledger",)
        for path in sorted((ROOT / "src" / "datahall" / "ledger").glob("*.py"))
        if path.stem != "__init__"
    },
}
"""Module to the fast tests that must notice a change in it."""

LIMIT_S = 120.0
"""What the unchanged tests of one module may take; a mutant that takes far longer than they did hangs."""


_OPTIONS = ("-x", "-q", "--assert=plain", "-p", "pytest_timeout", "-p", "no:cacheprovider")
_BEFORE_FORKING = ("pytest", "_pytest.assertion", "pytest_timeout", "numpy", "scipy.special", "datahall.core.records")
"""Imported once, so that not every mutant pays for it."""


class _Loader(importlib.abc.Loader):
    """Puts one mutated module in place of the one on disk, in this process only."""

    def __init__(self, module: str, number: int) -> None:
        self.module, self.number = module, number

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Let the interpreter make the module object."""
        del spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the mutated code in it."""
        code = compile(mutate(self.module, self.number), str(path_of(self.module)), "exec")
        exec(code, module.__dict__)  # noqa: S102  (running the changed module is what this tool is for)

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """Answer for the mutated module alone."""
        del path, target
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, path_of(name), loader=self)


def _test_one(module: str, number: int, tests: Sequence[str], limit_s: float) -> int:
    """Run the tests against one mutant in a forked process; return pytest's exit code, -1 for one that hangs."""
    import pytest  # noqa: PLC0415  (only the process that tests needs it)

    child = os.fork()
    if child == 0:
        sys.meta_path.insert(0, _Loader(module, number))
        code = 70
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                code = int(pytest.main([*_OPTIONS, *tests]))
        finally:
            os._exit(code)  # whatever happens, a fork never goes on as a second worker
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def _work(module: str, numbers: Sequence[int], tests: Sequence[str]) -> None:
    """Test mutants of one module, one after another, and print a JSON line for each."""
    for name in _BEFORE_FORKING:
        importlib.import_module(name)
    from hypothesis import Phase, settings  # noqa: PLC0415  (only the process that tests needs it)

    # A counterexample is enough: making it small takes longer than finding it.
    settings.register_profile(
        "mutants", phases=[Phase.explicit, Phase.generate], deadline=None, database=None, derandomize=True
    )
    settings.load_profile("mutants")
    limit_s = LIMIT_S
    for number in numbers:
        begin_s = time.monotonic()
        code = _test_one(module, number, tests, limit_s)
        if number < 0:
            limit_s = 3.0 + 5.0 * (time.monotonic() - begin_s)
        print(json.dumps({"number": number, "code": code}), flush=True)


def _batch(module: str, numbers: Sequence[int]) -> dict[int, int]:
    """Run `_work` in a process of its own; return pytest's exit code by mutant number."""
    with tempfile.TemporaryDirectory() as scratch:
        surroundings = {
            "PATH": os.environ["PATH"],
            "HOME": scratch,
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins take longer than the tests
            "HYPOTHESIS_STORAGE_DIRECTORY": scratch,
        }
        command = [sys.executable, __file__, "--work", json.dumps([module, numbers, TARGETS[module]])]
        done = subprocess.run(  # noqa: S603  (this very file)
            command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False
        )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["number"]: line["code"] for line in lines}


def study(mutants: Sequence[Mutant], *, workers: int, known: dict[str, str], say: bool = False) -> dict[str, str]:
    """Test every mutant that is not in `known`; return name to `killed` or `survived`.

    Raises RuntimeError where the tests fail without any change: then they could notice nothing.
    """
    by_module: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        if mutant.name not in known:
            by_module.setdefault(mutant.module, []).append(mutant)
    batches = [
        (module, some[start : start + 12]) for module, some in by_module.items() for start in range(0, len(some), 12)
    ]
    results = {mutant.name: known[mutant.name] for mutant in mutants if mutant.name in known}
    with ThreadPoolExecutor(workers) as pool:
        jobs = [(some, pool.submit(_batch, module, [-1, *(m.number for m in some)])) for module, some in batches]
        for some, job in jobs:
            codes = job.result()
            if codes.get(-1) != 0:
                raise RuntimeError(f"the tests of {some[0].module} fail without a change: {TARGETS[some[0].module]}")
            for mutant in some:
                results[mutant.name] = "survived" if codes.get(mutant.number) == 0 else "killed"
                if say:
                    print(f"{results[mutant.name]:8} {mutant.name}", flush=True)
    return results


def choose(num: int, seed: int, modules: Sequence[str] | None = None) -> list[Mutant]:
    """Return `num` mutants, or all for 0; drawn by their names, so an edit elsewhere in a file changes no choice."""
    every = [mutant for module in modules or TARGETS for mutant in mutants_of(module)]
    if not 0 < num < len(every):
        return every
    drawn = sorted(every, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.name}".encode()).digest())[:num]
    return sorted(drawn, key=lambda mutant: (mutant.module, mutant.number))


def known_survivors() -> dict[str, str]:
    """Return the survivors that were looked at, name to the reason why no test need notice them."""
    lines = [line for line in SURVIVORS.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {line.partition(" | ")[0].strip(): line.partition(" | ")[2].strip() for line in lines}


def _digest() -> str:
    """Return a digest of all that a result depends on; results of other code are not taken up again."""
    files = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), Path(__file__)])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; exit 1 where fewer than nine in ten are killed or a survivor is not listed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=0, help="test so many, drawn with --seed; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", action="append", choices=list(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--state", type=Path, default=ROOT / "build" / "mutants.json", help="to go on from")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        _work(*json.loads(options.work))
        return 0
    digest = _digest()
    results: dict[str, str] = {}
    if options.state.exists():
        before = json.loads(options.state.read_text(encoding="utf-8"))
        results = before["results"] if before["digest"] == digest else {}
    options.state.parent.mkdir(parents=True, exist_ok=True)
    chosen = choose(options.sample, options.seed, options.module)
    for start in range(0, len(chosen), 48):
        some = chosen[start : start + 48]
        results |= study(some, workers=options.workers, known=results, say=not options.json)
        options.state.write_text(json.dumps({"digest": digest, "results": results}), encoding="utf-8")
    return _summarise(chosen, results, as_json=options.json)


def _summarise(chosen: Sequence[Mutant], results: dict[str, str], *, as_json: bool) -> int:
    listed = known_survivors()
    survived = [mutant for mutant in chosen if results[mutant.name] == "survived"]
    unlisted = [mutant.name for mutant in survived if mutant.name not in listed]
    killed = len(chosen) - len(survived)
    if as_json:
        summary = {"num": len(chosen), "killed": killed, "survived": [asdict(mutant) for mutant in survived]}
        print(json.dumps(summary | {"unlisted": unlisted}, indent=1))
    else:
        print(
            f"{killed} of {len(chosen)} mutants killed ({killed / max(len(chosen), 1):.1%}); {len(unlisted)} not listed"
        )
        print("\n".join(f"not listed: {name}" for name in unlisted))
    return 1 if unlisted or killed < 0.9 * len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
