# `make demo` and `make test` are all that a fresh clone needs; `make help` lists the rest.
# They want nothing but Python 3.11 (or later), make and git.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
STAMPS := $(VENV)/.stamps
JOBS ?= 2

PYTEST := $(BIN)/pytest -q -n $(JOBS) --dist loadfile

# Tests that are about kernels run again as plain Python, and those whose kernels index tables with bounds checked;
# tests/packet does the latter by itself.
KERNEL_TESTS := $(wildcard tests/jit tests/packet tests/conntrack tests/datapath tests/offload/kernels)
CHECKED_TESTS := $(wildcard tests/conntrack tests/datapath tests/offload/kernels)

.PHONY: help install demo live-demo test test-long lint format bpf bench tour lock clean

help:
	@echo 'make demo       install into .venv and replay the capture that comes with the project'
	@echo 'make live-demo  forward real traffic between namespaces, driven by ovs-vsctl and ovs-ofctl (root)'
	@echo 'make test       install what tests need, check and test everything'
	@echo 'make install    install into .venv'
	@echo 'make lint       ruff, mypy, import-linter'
	@echo 'make format     let ruff format the code'
	@echo 'make bpf        compile the programs of the offload provider kernel (clang 14)'
	@echo 'make test-long  the tests that take minutes'
	@echo 'make bench      measure (ONLY=tracker for a part); writes build/bench.json'
	@echo 'make tour       fill the tour in the README with what the program prints'
	@echo 'make lock       resolve the dependencies anew'
	@echo 'make clean      remove what was made'

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 with its venv module is needed (Debian: apt-get install python3-venv)'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMPS)/run: requirements/run.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements/run.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@mkdir -p $(@D) && touch $@

$(STAMPS)/dev: requirements/dev.lock $(STAMPS)/run
	$(PIP) --require-hashes -r requirements/dev.lock
	@mkdir -p $(@D) && touch $@

install: $(STAMPS)/run

demo: install
	$(BIN)/flowshunt replay demo/demo.pcap --flows examples/flows/bluefield.flows --table conntrack

live-demo: install
	$(BIN)/python demo/live.py

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix-only --select I .
	$(BIN)/ruff format .

# A test compiles them with the same flags, and fails when the object in the repository is another one.
bpf:
	cd src/flowshunt/offload/providers/kernel/bpf && \
		for name in forward xdp; do clang -O2 -target bpf -mcpu=v3 -Wall -Werror -c $$name.c -o $$name.o; done

# Both kinds of kernels are compiled side by side, one core each. The longest run comes last, so that its summary is the last thing to read.
test: lint
	NUMBA_DISABLE_JIT=1 $(PYTEST) $(KERNEL_TESTS)
	$(BIN)/flowshunt warmup & FLOWSHUNT_BOUNDSCHECK=1 $(BIN)/flowshunt warmup; wait $$!
	FLOWSHUNT_BOUNDSCHECK=1 $(PYTEST) $(CHECKED_TESTS)
	$(PYTEST)

test-long: $(STAMPS)/dev
	FLOWSHUNT_LONG=1 $(BIN)/pytest -q -m long

bench: install
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

tour: install
	$(BIN)/flowshunt warmup
	$(BIN)/python docs/tour.py

LOCK = build/lock/bin/uv pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command 'make lock' pyproject.toml requirements/build.in

lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --quiet install uv
	$(LOCK) --upgrade --output-file requirements/run.lock
	$(LOCK) --upgrade --extra dev --constraints requirements/run.lock --output-file requirements/dev.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
