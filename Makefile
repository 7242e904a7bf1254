# Kasbah on one machine. `make demo` starts everything and asks a first question; `make test` runs every test.
#   PYTHON=/path/to/python3.11   ENGINE=cpu|cuda   BIND=127.0.0.1:8080   KASBAH_HOME=/path/for/data

PYTHON ?= python3
ENGINE ?= auto
LOCAL = $(PYTHON) -m infra.local
BIN = .venv/bin
FAST = not engine and not slow
NARROW = $(FAST) and not wide
ifdef BIND
export KASBAH_BIND := $(BIND)
endif
.NOTPARALLEL:

.PHONY: help python setup setup-platform lint demo status clean test check bench bench-setup

help:
	@echo "make demo    everything on this machine, one question answered, up until Ctrl-C"
	@echo "make test    every test, with the real engine (minutes)"
	@echo "make check   the quick loop: lint, types, imports, migrations, layout, fast tests"
	@echo "make bench   what the gateway and the real engine cost, as ratios; \`make bench-setup\` adds LiteLLM to compare"
	@echo "make setup   only the environments      make status   what runs      make clean   remove all data"

# Pythons before 3.7 cannot even read the program that would say this for all others.
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 7))' || { \
	echo "Kasbah needs Python 3.11, and $(PYTHON) is older or not there. Say where it is: make demo PYTHON=/path/to/python3.11" >&2; \
	exit 2; }

setup: python
	@$(LOCAL) setup --engine $(ENGINE)

setup-platform: python
	@$(LOCAL) setup --engine none

demo: python
	@exec $(LOCAL) demo --engine $(ENGINE)

status: python
	@$(LOCAL) status

clean: python
	@$(LOCAL) clean

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m infra.local layout
	$(BIN)/lint-imports
	KASBAH_SECRET_KEY=types-only $(BIN)/mypy

# Most tests wait for servers more than they compute, so more run at once than there are cores.
check: setup-platform lint
	$(BIN)/pytest -q -n 4 --dist loadfile -m "$(NARROW)"

# The quick tests two at once; then those that measure times or start the engine, one by one. Both always run.
# The last lines say what was left out for want of which program.
test: setup lint
	@status=0; left=$$(mktemp); export KASBAH_TEST_LEFT_OUT=$$left; \
	$(BIN)/pytest -n 2 --dist loadfile -m "$(FAST)" || status=1; \
	$(BIN)/pytest -m "not ($(FAST))" || status=1; \
	cat $$left; rm -f $$left; \
	exit $$status

# An optional rival, in an environment of its own.
bench-setup: setup
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet 'litellm[proxy]==1.106.0'

bench: setup
	$(BIN)/python -m benchmarks.gateway
	$(BIN)/python -m benchmarks.celery
	$(BIN)/python -m benchmarks.decide
	$(BIN)/python -m benchmarks.classifier
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.audit
