PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files whose change means that the environment has to be made again.
MADE_FROM := pyproject.toml constraints.txt

.PHONY: help setup quickstart test lint format clean

help:
	@echo "make setup       make .venv with everything in it"
	@echo "make quickstart  set up, then run the main job on the embedded planet"
	@echo "make test        set up, then run every check"

setup: $(VENV)/.ready

$(VENV)/.ready: $(MADE_FROM)
	$(PYTHON) -c 'import sys; sys.exit("etesian needs Python 3.11 or newer; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[simulate,dev]"
	touch $@

quickstart: setup
	$(BIN)/etesian quickstart

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
