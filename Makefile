# make tables      every table of the paper (PRESET=smoke, cpu or paper; CORES=n)
# make test        style, unit tests, and the smoke pipeline from data to report
# Each target makes .venv and installs the suite into it when needed; nothing else is touched.
PYTHON ?= python3
PRESET ?= cpu
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
VENV := .venv
BIN := $(VENV)/bin
SNAKEMAKE = $(BIN)/snakemake --cores $(CORES)

.PHONY: tables figures report smoke test lint clean
.DELETE_ON_ERROR:

tables figures report: $(VENV)/.installed
	$(SNAKEMAKE) $@ --config preset=$(PRESET)

smoke: $(VENV)/.installed
	$(SNAKEMAKE) smoke

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow

test: lint
	$(BIN)/python -m pytest -n $(CORES) --maxprocesses 8 --dist loadfile

# results stay: they are hours of work; remove results/ by hand if that is meant
clean:
	rm -rf $(VENV) .snakemake .pytest_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || \
	  { echo "$(PYTHON) is missing or not Python 3.11, 3.12 or 3.13: name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.installed
