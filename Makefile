# Commands of the workspace; `make` alone lists them. Everything slow is cached under $(CACHE) and works when that is empty.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sie-fleet
COLLECTION := collections/ansible_collections/sie_europe/passive_dns
LAB := $(BIN)/python molecule/topology/lab.py
export CARGO_TARGET_DIR := $(CACHE)/target
export PATH := $(BIN):$(PATH)
export ANSIBLE_HOME := $(CACHE)/ansible

RUST_SOURCES := $(shell find core/crates core/Cargo.toml core/Cargo.lock core/pyproject.toml -name '*.rs' -o -name 'Cargo.*' -o -name 'pyproject.toml')
PYTHON_SOURCES := core/python core/tests core/fuzz agent/src agent/tests hub/src hub/tests tests molecule

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- setting up ------------------------------------------------------------------------------------------------

$(VENV)/.locked: requirements-dev.lock core/prerequisites.sh
	@sh core/prerequisites.sh
	@echo "setting up $(VENV) (about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade pip
	@$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.built: $(VENV)/.locked $(RUST_SOURCES)
	@echo "building the Rust core (two minutes the first time)"
	@cd core && $(BIN)/maturin develop --release --quiet
	@touch $@

$(VENV)/.installed: $(VENV)/.built agent/pyproject.toml hub/pyproject.toml
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable agent --editable hub
	@touch $@

.PHONY: develop
develop: $(VENV)/.installed ## a virtual environment with everything built and installed in place

.PHONY: lock
lock: $(VENV)/.locked ## choose newest allowed versions of what development needs
	$(BIN)/uv --system-certs pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --group dev --output-file requirements-dev.lock

# ---- the lab -----------------------------------------------------------------------------------------------------

.PHONY: lab lab-info lab-down
lab: develop ## a hub and two participants on this machine, put in place by the product's own playbooks (root)
	@$(LAB) up

lab-info: ## the lab's addresses and key, as one JSON object
	@$(LAB) info

lab-down: ## remove the lab
	@$(LAB) down

.PHONY: demo
demo: develop ## hub, message server and one sensor on loopback, from a generated capture (no root)
	@mkdir -p $(CACHE)/demo
	@$(BIN)/python -m tests.traffic $(CACHE)/demo/upstream.pcap --transactions 5000 --seed 1
	@$(BIN)/sie-hub demo --pcap $(CACHE)/demo/upstream.pcap --resolver 192.0.2.53 --resolver 2001:db8::53 --agent $(BIN)/sie-agent

.PHONY: man
man: develop ## the manual pages sie-agent(1) and agent.yml(5), under dist/man
	@$(BIN)/python -m sie_agent.manual dist/man

.PHONY: bundle
bundle: develop ## the releases that roles install, offline, under $(CACHE)
	@$(BIN)/python molecule/release/build.py

.PHONY: bench
bench: develop ## measure the sensor beside its peers, of which those count that are found (root: live capture too); then delivery
	@$(BIN)/python -m tests.bench

.PHONY: bench-trampoline
bench-trampoline: develop ## measure delivery alone: a spool to a hub, and 500 sensors to one (no root)
	@$(BIN)/python -m tests.bench trampoline

.PHONY: bench-fleet
bench-fleet: develop ## measure configure_my_sensor over a hundred simulated hosts, and what forks do for it (root)
	sh molecule/topology/prerequisites.sh
	@PYTHONPATH=molecule/topology $(BIN)/python -m tests.rollout

.PHONY: faults
faults: develop ## inject every fault between sensor and hub, and write docs/reference/faults.md (root)
	sh molecule/topology/prerequisites.sh
	@$(BIN)/python -m tests.faults

# ---- checks ------------------------------------------------------------------------------------------------------

.PHONY: lint lint-rust lint-python lint-ansible sanity
lint: lint-rust lint-python lint-ansible sanity ## formatters, linters, types, import contracts

lint-rust: develop
	cd core && cargo fmt --check
	cd core && cargo clippy --quiet --all-targets -- -D warnings
	core/fuzz/run --lint

lint-python: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PYTHON_SOURCES)
	$(BIN)/lint-imports

lint-ansible: develop
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --profile production --offline

# ansible-test sets its tests up once, below ~/.ansible/test, and would fetch pip for that from a place that is no package index.
GET_PIP := $(HOME)/.ansible/test/cache/get_pip_24_2.py
sanity: develop ## ansible-test and antsibull-docs on the collection
	test -e $(GET_PIP) || install -D -m 0644 tests/sanity/get_pip.py $(GET_PIP)
	cd $(COLLECTION) && $(BIN)/ansible-test sanity --local --python $$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	cd $(COLLECTION) && ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/collections $(BIN)/antsibull-docs lint-collection-docs --plugin-docs .

.PHONY: changelog
changelog: develop ## write the collection's changelog from its fragments
	cd $(COLLECTION) && ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/collections $(BIN)/antsibull-changelog release --update-existing

# Scenarios that share one house, in the order in which they find it. `make test` has time for some of them.
SCENARIOS = default rotation hostile
test-all: SCENARIOS = default span rotation drop upgrade_rollback offboard hostile offline

.PHONY: test test-all test-unit test-rust test-fleet test-dnstap
test: lint test-rust fuzz-quick test-unit test-fleet ## everything that CI runs
test-all: test test-dnstap ## and what it has no time for

test-rust: develop
	cd core && cargo test --release --quiet --workspace --exclude sie-core-native --exclude passive-dns-fuzz

test-unit: develop
	sh molecule/topology/prerequisites.sh
	$(BIN)/pytest

# molecule prints its own summary last; what failed is said once more after it.
FAILURES := $(CURDIR)/dist/test-failures
MOLECULE = cd $(CURDIR) && rm -f $(FAILURES) && mkdir -p $(dir $(FAILURES)) && SIE_TEST_FAILURES=$(FAILURES) $(BIN)/molecule
OR_SAY_WHAT_FAILED = || { cat $(FAILURES) 2>/dev/null; exit 1; }

test-fleet: develop
	$(MOLECULE) destroy --scenario-name default
	$(MOLECULE) test $(SCENARIOS:%=--scenario-name %) $(OR_SAY_WHAT_FAILED)

test-dnstap: develop ## Unbound, BIND and PowerDNS Recursor bring their dnstap to a sensor (root)
	$(MOLECULE) test --scenario-name dnstap $(OR_SAY_WHAT_FAILED)

.PHONY: fuzz fuzz-quick
FUZZ_SECONDS ?= 600
fuzz: develop ## run every fuzz target for FUZZ_SECONDS (600); what is found is named
	core/fuzz/run $(FUZZ_SECONDS)

fuzz-quick: develop
	core/fuzz/run --quick

.PHONY: clean
clean: ## remove what was built in the tree (the cache stays)
	rm -rf $(VENV) dist
