# dicode: `make run` starts it on examples/, `make test` proves it. Needs git, make and Python 3.11 with venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run test check lint coverage bench soak format clean

run: $(STAMP)                      ## start everything on examples/ (Ctrl-C stops it)
	@$(BIN)/dicode up

test: lint                         ## everything: what CI runs
	$(BIN)/pytest

check: lint                        ## the inner loop: lint, then the rings that need no process
	$(BIN)/pytest -q tests/unit tests/model tests/sim

lint: $(STAMP)                     ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(STAMP)                 ## the tests once more, and which lines they reached in all processes
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

bench: $(STAMP)                    ## the budgets of the design, measured
	$(BIN)/python -m bench

soak: $(STAMP)                     ## the chaos rows with their full counts
	DICODE_SOAK=1 $(BIN)/pytest tests/chaos

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .dicode

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "dicode needs Python 3.11 or newer: set PYTHON=python3.11 (or newer)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "this Python cannot make a venv: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,deno]'
	@touch $@
