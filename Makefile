# Everything that people do here, a command each. `make` alone shows them.

.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
UV_VERSION := $(shell sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.txt)

.PHONY: help demo test test-fast up status down lint format lock schema bench bench-publish bench-chaff bench-export bench-padding bench-quality bench-retention bench-audit fuzz clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## run the main job once, from uploads to verified matches, and stop everything again
	@$(BIN)/python -m deploy.local demo

up: $(STAMP) ## start PostgreSQL, the API, the CDN and Airflow on this machine
	@$(BIN)/python -m deploy.local up

status: $(STAMP) ## show what runs and whether it is well
	@$(BIN)/python -m deploy.local status

down: $(STAMP) ## stop exactly what `make up` started
	@$(BIN)/python -m deploy.local down

test: $(STAMP) ## the whole test suite
	@$(BIN)/python -m tests.side_by_side

test-fast: $(STAMP) ## the tests that need no running stack
	@$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP) ## style, types, the floors of the house, and that requirements.txt is not stale
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=include:. $(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/deploy/test_requirements.py

format: $(STAMP) ## put all files into the common style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP) ## compile requirements.in to requirements.txt, with hashes
	@$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
		--custom-compile-command "make lock" requirements.in -o requirements.txt

schema: $(STAMP) ## write sql/schema.sql anew, after a migration was added
	@$(BIN)/python -m deploy.schema

bench: bench-publish bench-chaff bench-export bench-quality bench-retention bench-audit ## all benches, one after the other; SCALE=1

bench-publish: $(STAMP) ## uploads a second, their latency at 300/s, and where the time goes; SCALE=1
	@PYTHONPATH=include:. $(BIN)/python -m bench.publish

bench-chaff: $(STAMP) ## whether chaff can be told from uploads, by length or time; SCALE=1
	@PYTHONPATH=include:. $(BIN)/python -m bench.chaff

bench-export: $(STAMP) ## from a closed window to signed zips: keys a second, bytes a key, memory; SCALE=1
	@PYTHONPATH=include:. $(BIN)/python -m bench.export

bench-quality: $(STAMP) ## what the gate before signing costs for a file of 500,000 keys; SCALE=1
	@PYTHONPATH=include:. $(BIN)/python -m bench.quality

bench-padding: $(STAMP) ## how well padding can be told from real keys, against the reference's; SCALE=1
	@PYTHONPATH=include:. $(BIN)/python -m bench.padding

bench-retention: $(STAMP) ## what uploads notice while a day's keys are deleted, and how fast these go; SCALE=1
	@PYTHONPATH=include:. $(BIN)/python -m bench.retention

bench-audit: $(STAMP) ## how long an audit trail takes to verify, and its memory; SCALE=1
	@PYTHONPATH=include:. $(BIN)/python -m bench.audit

fuzz: $(STAMP) ## send the API hostile requests, 50,000 or N=
	@PYTHONPATH=include:. $(BIN)/python -m bench.fuzz

clean: ## remove the environment and caches (the state in .keyserver stays)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache include/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# The environment, made again only when what it is made from changed.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11" >&2; \
		exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { \
		echo "$(PYTHON) cannot make an environment: install its venv module (Debian, Ubuntu: python3-venv)." >&2; \
		exit 1; }
	@echo "Installing the pinned requirements into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
