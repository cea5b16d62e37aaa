# The only commands to remember. `make` alone lists them.
PYTHON ?= python3
# Extra arguments for pytest or the benchmarks: make test ARGS='-k frontier'
ARGS ?=

VENV  := .venv
TRAIN := .venv-train
BIN   := $(VENV)/bin
PIP_FLAGS := --quiet --quiet --no-input --disable-pip-version-check --retries 5 --timeout 60
CODE := $(wildcard src tests examples benchmarks)

# $(call retry,COMMAND): three tries, since a registry may be busy.
retry = for try in 1 2 3; do $(1) && break; \
	[ $$try -lt 3 ] || exit 1; echo "retrying ($$try of 2)" >&2; sleep $$((try * 5)); done

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow soak fuzz lint format bench train proto lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## a server, a load and a comparison on this machine
	@$(BIN)/poise demo

test: $(VENV)/.run $(VENV)/.dev ## the tests, but for the slow ones
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.run $(VENV)/.dev ## the slow tests: real servers, long simulations
	$(BIN)/pytest -m slow --timeout 600 $(ARGS)

soak: $(VENV)/.run $(VENV)/.dev ## an hour of load and faults, and what was lost in it; ARGS='--seconds 180'
	$(BIN)/python -m tests.faults.soak $(ARGS)

fuzz: $(VENV)/.run $(VENV)/.dev ## a million damaged requests over HTTP and gRPC; ARGS='--requests 10000'
	$(BIN)/python -m tests.fuzz $(ARGS)

lint: $(VENV)/.run $(VENV)/.dev ## ruff, mypy and the import contract
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: $(VENV)/.dev ## format the code and mend what ruff can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(VENV)/.run ## the benchmarks; prints tables, writes JSON
	$(BIN)/python benchmarks/run.py $(ARGS)

train: $(TRAIN)/.train ## train the example models again (installs torch in an environment of its own)
	$(TRAIN)/bin/python examples/digits/train.py $(ARGS)
	$(TRAIN)/bin/python examples/digits/train.py --variant tiny
	$(TRAIN)/bin/python examples/sensors/train.py
	$(TRAIN)/bin/python examples/fashion/train.py

proto: $(VENV)/.run $(VENV)/.dev ## the Python of gRPC's messages, from inference.proto
	$(BIN)/python -m tests.protocol.generate_inference_pb2

lock: ## resolve the dependencies again, into requirements/*.lock
	@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(PYTHON) -m venv "$$tmp/uv"; "$$tmp/uv/bin/pip" install $(PIP_FLAGS) 'uv>=0.9'; \
	compile() { out=requirements/$$1.lock; shift; echo "$$out"; \
		"$$tmp/uv/bin/uv" pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--upgrade --output-file "$$out" "$$@"; }; \
	compile run pyproject.toml; \
	compile build --group pyproject.toml:build --constraints requirements/run.lock; \
	compile dev pyproject.toml --extra dev --constraints requirements/run.lock --constraints requirements/build.lock; \
	if grep -n '://' requirements/*.lock; then echo 'an address in a lock file' >&2; exit 1; fi

clean: ## remove environments, caches and builds
	rm -rf $(VENV) $(TRAIN) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments. A stamp is written last, so an interrupted install is done again, from nothing.

$(VENV)/.locked: requirements/run.lock requirements/build.lock
	@echo 'installing what poise runs on, in $(VENV)'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(call retry,$(BIN)/pip install $(PIP_FLAGS) --no-deps --require-hashes -r requirements/build.lock -r requirements/run.lock)
	@touch $@

$(VENV)/.run: $(VENV)/.locked pyproject.toml
	@$(BIN)/pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	@touch $@

# Half-way through, the whole environment counts as unfinished: hence no .locked until the end.
$(VENV)/.dev: requirements/dev.lock $(VENV)/.locked | $(VENV)/.run
	@echo 'installing what the checks run on, in $(VENV)'
	@rm -f $(VENV)/.locked
	@$(call retry,$(BIN)/pip install $(PIP_FLAGS) --no-deps --require-hashes -r requirements/dev.lock)
	@touch $(VENV)/.locked && touch $(VENV)/.run && touch $@

$(TRAIN)/.train: requirements/run.lock requirements/build.lock pyproject.toml
	@echo 'installing what training runs on, in $(TRAIN)'
	@$(PYTHON) -m venv --clear $(TRAIN)
	@$(call retry,$(TRAIN)/bin/pip install $(PIP_FLAGS) --no-deps --require-hashes -r requirements/build.lock -r requirements/run.lock)
	@$(call retry,$(TRAIN)/bin/pip install $(PIP_FLAGS) --no-build-isolation -e '.[train]')
	@touch $@
