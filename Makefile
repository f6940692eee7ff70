# Two commands on a fresh machine: `make search`, `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install search study test test-all check

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The main job: a search on 5,000 embedded digits, with report and export.
search: install
	$(BIN)/python run_search.py search_spaces/mnist5k.yaml

# The study that kd_tune starts from, on the same digits: a page with figures and pictures.
study: install
	$(BIN)/python benchmarks/seed_study.py

# Two processes, whatever the machine: tests that start searches of their own take two cores each.
test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

test-all: install
	$(BIN)/python -m pytest

# Style, types, layers.
check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
