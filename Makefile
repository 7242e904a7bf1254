# Kasbah on one machine. `make demo` starts everything and asks a first question; `make test` runs every test.
#   PYTHON=/path/to/python3.11   ENGINE=cpu|cuda   BIND=127.0.0.1:8080   KASBAH_HOME=/path/for/data

PYTHON ?= python3
ENGINE ?= auto
LOCAL = $(PYTHON) -m infra.local
BIN = .venv/bin
export KASBAH_BIND := $(or $(BIND),$(KASBAH_BIND))

.PHONY: help setup demo status clean test check bench bench-setup

help:
	@echo "make demo    everything on this machine, one question answered, up until Ctrl-C"
	@echo "make test    every test, with the real engine (minutes)"
	@echo "make check   the quick loop: lint, types, imports, migrations, layout, fast tests"
	@echo "make bench   what the gateway and the real engine cost, as ratios; \`make bench-setup\` adds LiteLLM to compare"
	@echo "make setup   only the environments      make status   what runs      make clean   remove all data"

setup:
	@$(LOCAL) setup --engine $(ENGINE)

demo:
	@exec $(LOCAL) demo --engine $(ENGINE)

status:
	@$(LOCAL) status

clean:
	@$(LOCAL) clean

check:
	@$(LOCAL) setup --engine none
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m infra.local layout
	$(BIN)/lint-imports
	KASBAH_SECRET_KEY=types-only $(BIN)/mypy
	$(BIN)/pytest -q -m "not engine and not slow"

# The quick loop's checks, then every test, the quick ones among them.
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m infra.local layout
	$(BIN)/lint-imports
	KASBAH_SECRET_KEY=types-only $(BIN)/mypy
	$(BIN)/pytest

# An optional rival, in an environment of its own.
bench-setup: setup
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet 'litellm[proxy]==1.106.0'

bench: setup
	$(BIN)/python -m benchmarks.gateway
	$(BIN)/python -m benchmarks.celery
	$(BIN)/python -m benchmarks.engine
