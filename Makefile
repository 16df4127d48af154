# The one menu of commands. On a fresh machine `make run` or `make test` is all it takes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RECIPE ?= recipes/agnews_mixup.yaml

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow lint types check docs ui clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.complete  ## build .venv with everything that is needed

$(VENV)/.complete: pyproject.toml constraints.txt embedded.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "robusweep needs Python 3.11 to 3.13: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r embedded.txt
	touch $@

run: setup  ## run the main job: the sweep of $(RECIPE)
	$(BIN)/robusweep run $(RECIPE)

test: setup  ## the tests: offline, on two cores, a few minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup  ## end-to-end sweeps on Ray and on the embedded model
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types test  ## what CI runs

docs: setup  ## write the generated parts of README and docs again
	$(BIN)/python docs/generate.py

ui: setup  ## the MLflow pages on 127.0.0.1
	$(BIN)/robusweep ui


clean:  ## remove .venv and caches of tools; runs, cache and mlflow.db stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
