# The two commands of the README, and what CI runs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET)/release/key-server
# Python that is not in the package; relative to clients/python.
PYTHON_ELSEWHERE := ../../backend ../../server/key_server
TEST_BIN := $(TARGET)/debug/key-server

.PHONY: help run test up down check lint fuzz miri advisories bench release reproducible clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.client ## Build, start the server, show a real selection, serve until Ctrl-C
	cargo build --release --locked -p key-server
	@KEY_SERVER_BIN="$(abspath $(BIN))" $(VENV)/bin/python examples/first_run.py

test: $(VENV)/.dev ## Install what the tests need (Redis, Vault) and run them all
	testkit/servers.sh
	cargo test --workspace --locked
	cargo build --locked --bin key-server
	KEY_SERVER_BIN="$(abspath $(TEST_BIN))" $(VENV)/bin/python -m pytest -q clients/python/tests

up: ## Start the standard deployment here: Vault, Redis, the key server
	cargo build --release --locked -p key-server
	KEY_SERVER_BIN="$(abspath $(BIN))" deploy/local.sh up

down: ## End what `make up` started
	deploy/local.sh down

check: lint test ## Everything that CI runs

lint: $(VENV)/.dev ## Formatting, lints, licences, sources, generated files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo deny --locked check bans licenses sources
	cargo run -q --locked --bin key-server -- config reference | diff -u docs/settings.md -
	deploy/systemd/check.sh
	PYTHON="$(abspath $(VENV))/bin/python" clients/python/generate.sh --check
	cd clients/python && export PATH="$(abspath $(VENV))/bin:$$PATH" && mypy \
	    && ruff check . && ruff format --check . \
	    && ruff check --config pyproject.toml $(PYTHON_ELSEWHERE) \
	    && ruff format --check --config pyproject.toml $(PYTHON_ELSEWHERE) ../../examples

fuzz: ## Fuzz every target for a minute: make fuzz SECONDS_EACH=600
	fuzz/run.sh $(or $(SECONDS_EACH),60)

miri: ## The tests of the one unsafe crate under Miri; needs a nightly toolchain with it
	@cargo +nightly miri --version >/dev/null 2>&1 || { \
	    echo "miri: there is none: rustup +nightly component add miri rust-src" >&2; exit 1; }
	MIRIFLAGS="-Zmiri-strict-provenance" cargo +nightly miri test --locked -p key-server-sys

advisories: ## Known flaws and yanked versions among the dependencies; fetches the list of them
	cargo deny --locked check advisories

release: ## What is committed, as a program with its parts list and sums, in dist/
	deploy/release.sh

reproducible: ## Build a release twice, in two places, and compare: takes two builds from nothing
	deploy/reproducible.sh

bench: ## Measure against the floors; single parts: make bench PARTS="select start"
	# The daemon by itself: the benchmark turns on what no daemon has.
	cargo build --release --locked -p key-server
	cargo build --release --locked -p key-server-bench
	$(TARGET)/release/key-server-bench $(PARTS)

clean: ## Remove what was built
	cargo clean
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.client: $(VENV)/bin/python clients/python/pyproject.toml
	@echo "preparing the Python client (grpcio, protobuf) in $(VENV)"
	$(VENV)/bin/python -m pip install --quiet "grpcio" "protobuf"
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python clients/python/requirements-dev.txt
	@echo "preparing what the Python tests need in $(VENV)"
	$(VENV)/bin/python -m pip install --quiet -r clients/python/requirements-dev.txt
	@touch $@
