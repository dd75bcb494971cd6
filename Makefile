# Two commands matter: `make demo` and `make test`. Both install what they need into .venv, once.
# Programs of .venv run as `.venv/bin/python -m ...`: a script's first line breaks where the path has a space or is long.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# The lock is tested on Python 3.11, so that one is taken first; choose another with `make PYTHON=python3.12 test`.
PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$name" && exit; done; echo python3)
PY := .venv/bin/python
JOBS ?= 2

# One thread a library: our processes are many and small, and figures must not depend on the number of cores.
export OMP_NUM_THREADS := 1
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME

.PHONY: help demo test test-fast check format docs lock bench bench-serve conformance overload replay mutants torture clean preflight run-env test-env

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

demo: run-env ## take a table through its whole lifecycle, and show it
	@$(PY) -m datahall.app.demo

# A worker keeps to its half of the files (and takes from the other when done), so what a file prepares is prepared once.
test: check ## install what tests need, then lint, types, imports and every test
	$(PY) -m pytest -q -n $(JOBS) --dist worksteal -m "not torture"

test-fast: test-env ## the tests that failed last, or all of them, stopping at the first failure
	$(PY) -m pytest -q -x -m "not torture" --last-failed --last-failed-no-failures all

check: test-env ## format, lint, types and import order, without the tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) .venv/bin/lint-imports --no-cache

format: test-env ## format the code and mend what can be mended
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: run-env ## write docs/reference anew from the code
	$(PY) tools/reference.py

bench: test-env ## measure what we claim about speed (on a quiet machine)
	$(PY) benchmarks/startup.py
	$(PY) benchmarks/batch_cap.py
	$(PY) benchmarks/process_start.py
	$(PY) benchmarks/answer_log.py
	$(PY) benchmarks/codecs.py
	$(PY) benchmarks/cache.py
	$(PY) benchmarks/acts.py
	$(PY) benchmarks/ledger.py
	$(PY) benchmarks/blobs.py
	$(PY) benchmarks/postgres.py

replay: test-env ## log 100,000 simulated decisions of all policies, take each again, and compare
	$(PY) tools/replay.py

PEERS ?= fastapi mlserver litserve mlflow bentoml ray
SERVE ?=

bench-serve: run-env ## the gateway beside other servers of models, which it installs (PEERS= for none)
	$(PY) -m benchmarks.serving --peers "$(PEERS)" $(SERVE)

OVERLOAD ?=

overload: run-env ## what is still answered at 2, 5 and 10 times the peak (on a quiet machine)
	$(PY) -m benchmarks.overload $(OVERLOAD)

conformance: test-env ## clients and a server that others wrote, installed beside .venv, against ours
	$(PY) tools/conformance.py

mutants: test-env ## the long mutation study of gate, ledger and signing
	$(PY) tools/mutate.py

torture: test-env ## the long tests of faults: 1,000 power cuts, 1,000 flipped bits, every write failing
	$(PY) -m pytest -q -m torture

lock: run-env ## resolve the packages anew and write requirements/ (needs a network)
	$(PY) tools/lock.py

clean: ## remove every environment and cache (halls stay)
	rm -rf .venv .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find src tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

preflight:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "missing: Python 3.11 or newer"; echo "   mend: sudo apt-get install python3 python3-venv"; exit 1; } >&2
	@$(PYTHON) tools/preflight.py

run-env: preflight
	@$(PYTHON) tools/environment.py run

test-env: preflight
	@$(PYTHON) tools/environment.py test
