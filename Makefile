# The verbs of a day. `make run` and `make test` set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
LOCK := deploy/constraints.txt
TORCH := $(shell sed -n '/^torch==/p' $(LOCK))
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test format check cover bench train lock optimum-env clean

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

setup: $(VENV)/.dev ## environment for developing: service, training, tools

run: $(VENV)/.run ## the service on port 8000 with sample documents; prints what to try
	ISOGLOSS_GATE_GOLDEN="$${ISOGLOSS_GATE_GOLDEN-deploy/samples/golden.jsonl}" \
		$(BIN)/isogloss serve --samples deploy/samples/topics.jsonl $(ARGS)

test: $(VENV)/.dev ## the whole suite; one part of it: make test ARGS="-k batcher"
	$(BIN)/pytest $(ARGS)

format: $(VENV)/.dev ## rewrite the code as the linter wants it
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

check: $(VENV)/.dev ## format, lint, types, import contracts; fastest first
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

cover: $(VENV)/.dev ## branch coverage of the suite
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(VENV)/.dev ## what is fast, as ratios: DATA=folder gives it real sentences
	$(BIN)/python -m tests.benchmarks $(if $(DATA),--data $(DATA)) $(ARGS)

train: $(VENV)/.dev ## train the shipped recipe: make train DATA=folder
	$(BIN)/isogloss-train train training/recipes/starter.toml --data $(DATA) --out runs/starter $(ARGS)

lock: ## resolve every dependency anew into deploy/constraints.txt
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet '$(TORCH)' # first, so that a CPU build stays one
	$(VENV)-lock/bin/pip install --quiet '.[cpu,train,dev]'
	$(VENV)-lock/bin/pip freeze --exclude isogloss | sed 's/+cpu$$//' > $(LOCK)
	rm -rf $(VENV)-lock

optimum-env: ## environment of `isogloss-train export --exporter optimum`, whose transformers is an older one
	$(PYTHON) -m venv $(VENV)-optimum
	$(VENV)-optimum/bin/pip install --quiet '$(TORCH)'
	$(VENV)-optimum/bin/pip install --quiet -r deploy/optimum/requirements.txt

clean: ## remove the environment and everything built
	rm -rf $(VENV) $(VENV)-optimum runs data dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml $(LOCK)
	$(PIP) install -c $(LOCK) -e '.[cpu]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml $(LOCK)
	$(PIP) install '$(TORCH)' # first: a CPU build that is there is kept
	$(PIP) install -c $(LOCK) -e '.[cpu,train,dev]'
	@touch $@ $(VENV)/.run
