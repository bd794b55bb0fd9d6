# `make demo` and `make test` set everything up by themselves, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test real check lint wheel-check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train a network on handwritten digits and boil it down"
	@echo "make test    run the tests (real models too where BOILDOWN_DATA names their folder: make real)"
	@echo "make wheel-check   build wheel and sdist, and use the wheel in a clean environment (minutes)"
	@echo "make check   run every check: format, lint, types, imports, tests"

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "boildown needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(VENV)/.ready
	$(BIN)/boildown demo

# One thread for each of the workers: more of them than cores only wait for one another.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

real: $(VENV)/.ready
	$(BIN)/python -m pytest -m real

lint: $(VENV)/.ready
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

wheel-check:
	PYTHON=$(PYTHON) .ci/wheel-check

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
