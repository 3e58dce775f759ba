# mlbox: `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= mlbox-data
# uv does not read pip's configuration: pass the machine's own folders of wheels on.
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
# Each server, job and command of the tests is a new process: without compiled files it would spend a second on compiling.
export PYTHONDONTWRITEBYTECODE =
EXTRAS ?= dev
# Each of two processes takes half of the tests and then from the other: what a file sets up is set up once.
TWO := -n 2 --dist worksteal

.PHONY: help install demo serve test test-slow explore check bench screenshots clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

# uv where it can be had, because it is an order of magnitude faster; plain pip where not.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing mlbox and what it needs into $(VENV): some minutes the first time."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt uv || echo "uv is not to be had: pip instead"
	@if [ -x $(BIN)/uv ]; then $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]'; \
	else $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'; fi
	@touch $@

install: $(VENV)/.installed ## Make .venv and install mlbox into it

demo: install ## Run the whole lifecycle on real flights; ONCE=1 ends when it is through
	@$(BIN)/python -m examples.nyc_flights.demo $(if $(ONCE),--once)

serve: install ## Run the server on DATA (default: mlbox-data)
	@$(BIN)/mlbox serve --data-dir $(DATA)

test: install ## Run the tests
	@$(BIN)/python -m pytest -q $(TWO)

test-slow: install ## Run the slow tests: clients, browser, faults, fuzzing
	@$(BIN)/python -m pytest -q $(TWO) -m slow --timeout=900

explore: install ## Run the property tests alone, with new examples each time
	@env -u CI $(BIN)/python -m pytest -q $(TWO) -m "hypothesis and not slow"

# `mlbox model convert` alone loads a person's own file, in that person's process.
check: install ## Lint, types, the import rule, and no pickle
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@! grep -rnE --include=*.py --exclude=model_convert.py '^\s*(import|from) +(pickle|joblib|cloudpickle|dill|marshal|shelve)\b|torch\.load\(|_needed\("(joblib|torch)"\)|yaml\.load\(|allow_pickle=True' mlbox \
	|| { echo "Nothing in the server may load a pickle."; exit 1; }

bench: install ## Measure every figure and write docs/reference/figures.md
	@$(BIN)/python -m bench

screenshots: install ## Run the demo and take the pictures of README and docs anew, in both themes; needs chromium
	@$(BIN)/python -m docs.screenshots

clean: ## Remove what was built, but no data
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
