# Everything runs from .venv, which the first target that needs it creates from
# requirements.lock. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.PHONY: help demo demo-elastic test test-cluster host-packages soak lint format bench lock clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Manta needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(INSTALLED) ## Raw text to a trained, tracked, exported model (ARGS="key=value ..." overrides)
	$(BIN)/python jobs/demo.py $(ARGS)

demo-elastic: $(INSTALLED) ## The same while a worker dies and nodes come and go, compared with an undisturbed run
	$(BIN)/python jobs/demo_elastic.py $(ARGS)

test: $(INSTALLED) ## Run the tests
	$(BIN)/python -m pytest $(ARGS)

test-cluster: $(INSTALLED) ## `ray up` on three hosts with an sshd each, made of namespaces (as root)
	$(BIN)/python -m pytest -rs -s tests/e2e/test_hosts.py $(ARGS)

host-packages: ## Install what test-cluster needs of Debian or Ubuntu (as root)
	.ci/host-packages

soak: $(INSTALLED) ## Random faults on real runs (ARGS="--minutes 20 --seed 7")
	PYTHONPATH=tests/support $(BIN)/python tests/chaos/soak.py $(ARGS)

lint: $(INSTALLED) ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## Measure; the figures kept are in benchmarks/RESULTS.md
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/order.py
	$(BIN)/python benchmarks/train_loop.py
	$(BIN)/python benchmarks/train_costs.py
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/sweep.py

lock: ## Pin anew what pyproject.toml allows, in a fresh environment
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0
	.venv-lock/bin/python -m pip install --quiet setuptools ".[dev]"
	.venv-lock/bin/python -m pip list --format=freeze \
		| grep -v -i -E '^(manta-train|pip|nvidia-.*|triton|cuda-.*)==' \
		| sed 's/^\(torch==[^+]*\)+.*/\1/' | sort -f > requirements.lock
	rm -rf .venv-lock

clean: ## Remove the environment and caches; runs and corpora stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
