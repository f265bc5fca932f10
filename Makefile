PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
# Files whose change means that the environment has to be made again.
MADE_FROM := pyproject.toml constraints.txt
IS_NEW_ENOUGH = $(PYTHON) -c 'import sys; sys.exit("etesian needs Python 3.11 or newer; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
# Where the wheel is tried, away from the source tree.
TRIAL := .wheel

.PHONY: help setup quickstart test lint docs wheel-test format clean

help:
	@echo "make setup       make .venv with everything in it"
	@echo "make quickstart  set up, then run the main job on the embedded planet"
	@echo "make test        set up, then run every check"
	@echo "make docs        set up, then build the site into docs/_build/html; its notebooks are executed"
	@echo "make wheel-test  build the wheel, install it without constraints and try it; PYTHON=python3.13 names another Python"

setup: $(VENV)/.ready

# pip would compile every module, which takes longer than all else that it does; a third of them is ever imported. Here what
# etesian imports is compiled, even where the environment says that nothing is to be kept.
$(VENV)/.ready: $(MADE_FROM)
	$(IS_NEW_ENOUGH)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable ".[simulate,view,parquet,export,dev]"
	PYTHONDONTWRITEBYTECODE= EAGER_IMPORT=1 $(BIN)/python -c "import etesian"
	touch $@

quickstart: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/etesian quickstart

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports

# Compiled modules are kept even where the environment says otherwise: tests start processes that need them again.
# Only the plugin that is used is loaded: pytest would rewrite all modules of packages that bring others, such as zarr.
test: lint
	PYTHONDONTWRITEBYTECODE= PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 OMP_NUM_THREADS=1 \
		$(BIN)/pytest -p xdist --numprocesses 2 --dist worksteal

# A broken link, a docstring that is no reStructuredText or a notebook that fails is an error. What has been executed is kept
# in docs/_build, until a notebook or the library changes.
docs: setup
	$(INSTALL) --editable ".[docs]"
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html

# What a user gets today: the newest releases that pyproject.toml allows. Only torch is the tested one, whose newest build
# would be gigabytes of CUDA.
wheel-test:
	$(IS_NEW_ENOUGH)
	rm -rf $(TRIAL) build
	$(PYTHON) -m venv $(TRIAL)
	$(TRIAL)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(TRIAL)/bin/python -m pip wheel --quiet --no-deps --wheel-dir $(TRIAL) .
	$(TRIAL)/bin/python -m pip install --quiet $(TRIAL)/etesian-*.whl
	OMP_NUM_THREADS=1 $(TRIAL)/bin/python .ci/check_installed.py
	rm -rf $(TRIAL) build

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(TRIAL) build docs/_build .mypy_cache .pytest_cache .ruff_cache
