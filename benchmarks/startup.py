"""How long `datahall --help` takes, as a ratio to an empty Python and to importing the web framework alone.

Run it on a quiet machine: `python benchmarks/startup.py`. Commands take turns; figures are medians of the runs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 7
COMMANDS = {
    "empty python": ["-c", "pass"],
    "import fastapi (the peer)": ["-c", "import fastapi"],
    "datahall --help": ["-m", "datahall.app.cli", "--help"],
    "datahall version": ["-m", "datahall.app.cli", "version"],
}


def main() -> None:
    """Print one line a command: median seconds, and the ratio to the empty interpreter and to the peer."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603  our own commands
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    empty, peer = medians["empty python"], medians["import fastapi (the peer)"]
    print(f"{'command':<28} {'median s':>9} {'x empty':>9} {'x peer':>9}   ({RUNS} runs each, in turn)")
    for name, median in medians.items():
        print(f"{name:<28} {median:>9.3f} {median / empty:>9.1f} {median / peer:>9.2f}")


if __name__ == "__main__":
    main()
