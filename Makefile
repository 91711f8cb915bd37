# `make` alone lists what there is. Everything runs in .venv, which is built from the hash-pinned locks of requirements/
# by the first Python found that is new enough (PYTHON=/path/to/python chooses another).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
WHOLE = found=$$($(BIN)/python -m pip --disable-pip-version-check check 2>&1) || { echo "$$found" >&2; exit 1; }
UV := uv==0.13.9
# For 3.11.0, because packages differ by its patch level; without addresses, because everyone has an index of their own.
COMPILE = build/lock/bin/uv --quiet pip compile --generate-hashes --python-version 3.11.0 \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links

# pip would otherwise obey a user's PIP_USER and install outside of .venv.
export PIP_USER := 0

# A file's tests stay together, for what they share, and files begin in the order of tests/conftest.py: the longest first.
TESTS = $(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder

# The tests that have a long form.
FUZZED = tests/security/test_described.py tests/security/test_hostile_requests.py tests/security/test_hostile_files.py

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: .venv/.demo ## Start everything, send the sample photos, account for each one, stop everything
	@$(BIN)/poxvisio demo

.PHONY: up
up: .venv/.demo ## Start everything and keep it running; Ctrl-C drains and stops it
	@$(BIN)/poxvisio up --data-dir data

.PHONY: test
test: .venv/.dev ## Build the environment, then check: what CI runs
	@$(MAKE) --no-print-directory check

.PHONY: check
# Many Python processes start here: with bytecode turned off each would compile all that it imports.
check: export PYTHONDONTWRITEBYTECODE :=
# Four processes of tests share the cores: threads of numpy's that wait for one another wait busily, at twice the cost.
check: export OPENBLAS_NUM_THREADS := 1
check: ## Lint, types, import contracts and tests, in the environment as it is
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/lint-imports
	@mkdir -p build
	@# Types keep one core busy for half a minute, so tests run meanwhile; what was found is shown in the end.
	@# The first time one process reads all tests: four side by side would each compile all that they import.
	@$(BIN)/python -m mypy --strict >build/types.log 2>&1 & types=$$!; \
	  trap 'kill $$types 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	  [ -d tests/__pycache__ ] || $(BIN)/python -m pytest -q --collect-only >/dev/null 2>&1; \
	  echo '$(TESTS)'; $(TESTS); tests=$$?; \
	  echo '$(BIN)/python -m mypy --strict'; wait $$types; types_found=$$?; cat build/types.log; \
	  exit $$((tests ? tests : types_found))

.PHONY: fuzz
fuzz: .venv/.dev ## Send hostile files by the hundred thousand, and hostile requests at the API; SEED= repeats a run
	@$(BIN)/python -m tests.security.photos.fuzz $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m pytest -q -s --show-capture=no --timeout 3600 --long $(if $(SEED),--seed $(SEED)) $(FUZZED)

.PHONY: chaos
chaos: .venv/.dev ## Kill processes at random, 1,000 of them, and account for every photo; KILLS= and SEED= change the run
	@$(BIN)/python -m tests.chaos $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))
	@$(BIN)/python -m tests.chaos.stock_celery.stream $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: .venv/.dev ## Measure everything against yardsticks of the same run; writes benchmarks/results.json and README.md
	@$(BIN)/python -m benchmarks

.PHONY: model-gates
model-gates: .venv/.dev ## Evaluate a finished training run and hold it against the rules of trust; RUN=runs/v1
	@test -n "$(RUN)" || { echo "say which run: make model-gates RUN=runs/v1" >&2; exit 2; }
	@$(BIN)/poxvisio evaluate $(RUN) --gates

.PHONY: training
training: .venv/.dev ## Train tiny networks from every kind of weights to the end, one on two devices, and build every engine
	@$(BIN)/python -m pytest -q --long tests/integration/test_training_to_its_end.py tests/integration/engines/test_int8.py tests/integration/engines/test_engines.py tests/e2e/test_trained_here.py

.PHONY: lock
lock: .venv/.made ## Re-compile the hash-pinned locks from pyproject.toml
	@$(BIN)/python -m venv build/lock
	@build/lock/bin/python -m pip --quiet --disable-pip-version-check install $(UV)
	@$(COMPILE) requirements/pip.in -o requirements/pip.txt
	@$(COMPILE) pyproject.toml --extra demo -o requirements/demo.txt
	@$(COMPILE) pyproject.toml --extra dev -o requirements/dev.txt
	@$(COMPILE) pyproject.toml --extra int8 -c requirements/dev.txt -o requirements/int8.txt
	@$(COMPILE) pyproject.toml requirements/server.in -c requirements/demo.txt -o requirements/server.txt
	@$(COMPILE) pyproject.toml requirements/gpu.in -c requirements/demo.txt --python-platform linux -o requirements/gpu.txt

.PHONY: clean
clean: ## Remove the environment and every cache; data/ stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The files below are stamps: each says that a step was done with the files it depends on.

.venv/.made: requirements/pip.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  found=; for name in "$(PYTHON)" python3.11 python3 python3.12 python3.13 python3.14; do \
	    if "$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$name; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "PoxVisio needs Python 3.11 or newer with its venv module (Debian: apt-get install python3-venv);" >&2; \
	    echo "if it is somewhere else: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  "$$found" -m venv .venv || exit 1; \
	fi
	@# The pip that comes with Python 3.11 takes twice as long over a lock.
	@$(PIP) install --no-compile --no-deps --require-hashes -r requirements/pip.txt
	@touch $@

# A lock holds everything, so pip need not work it out again; WHOLE looks whether it really does on this Python.
.venv/.demo: requirements/demo.txt pyproject.toml .venv/.made
	@echo "Installing the pinned packages into .venv; the first time this takes a minute or two."
	@$(PIP) install --no-deps --require-hashes -r requirements/demo.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index -e .
	@$(WHOLE)
	@touch $@

# The locks are compiled together, so that what the tests need holds what the demo needs.
.venv/.dev: requirements/dev.txt pyproject.toml .venv/.made
	@echo "Installing the pinned packages, with those of the tests, into .venv; the first time this takes some minutes."
	@# Compiling all of it beforehand takes as long as installing it; Python compiles what is imported, and keeps it.
	@$(PIP) install --no-compile --no-deps --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index -e .
	@$(WHOLE)
	@touch .venv/.demo $@
