# Everything runs from .venv, which the first target that needs it creates from
# requirements.lock, and from requirements-test.lock where tests need more. `make help` lists
# the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTED := $(VENV)/.installed-test
PEERS := .venv-peers
AXOLOTL := .venv-axolotl
# The peers are optional: without them their rows say so.
MEASURING = $(or $(wildcard $(PEERS)/bin/python),$(BIN)/python)
ARGS ?=
# Processes that run tests at once, a file each: many tests wait more than they compute.
PROCESSES ?= 3
PARALLEL = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: help demo demo-elastic demo-adapt demo-evaluate check test test-cluster host-packages soak models same-run reference lint hooks format bench bench-peers bench-axolotl bench-smoke lock weight clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): requirements.lock cluster/cuda.lock cluster/install.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Manta needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python cluster/install.py requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(TESTED): $(INSTALLED) requirements-test.lock
	$(BIN)/python cluster/install.py requirements-test.lock
	@touch $@

demo: $(INSTALLED) ## Raw text to a trained, tracked, exported model (ARGS="key=value ..." overrides)
	$(BIN)/python jobs/demo.py $(ARGS)

demo-elastic: $(INSTALLED) ## The same while a worker dies and nodes come and go, compared with an undisturbed run
	$(BIN)/python jobs/demo_elastic.py $(ARGS)

demo-adapt: $(INSTALLED) ## The demo's model on chats (LoRA), preferences (DPO), and a student of the result
	$(BIN)/python jobs/demo_adapt.py $(ARGS)

demo-evaluate: $(INSTALLED) ## Which of these models ships: evaluation, comparison, gate, economics, registry
	$(BIN)/python jobs/demo_evaluate.py $(ARGS)

check: lint ## Check format, style and types, and run the tests that need neither Ray nor a server
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test: $(TESTED) ## Run the tests (ARGS="tests/e2e -k store", PROCESSES=0 for one process)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-cluster: $(TESTED) ## `ray up` on three hosts with an sshd each, made of namespaces (as root)
	$(BIN)/python -m pytest -rs -s tests/e2e/test_hosts.py $(ARGS)

host-packages: ## Install what test-cluster needs of Debian or Ubuntu (as root)
	.ci/host-packages

soak: $(TESTED) ## Random faults on real runs (ARGS="--minutes 20 --seed 7")
	PYTHONPATH=tests/support $(BIN)/python tests/chaos/soak.py $(ARGS)

models: $(TESTED) ## Train each type of causal model of Transformers, made small; writes docs/models.md
	PYTHONPATH=tests/support $(BIN)/python tests/models/survey.py $(ARGS)

same-run: $(TESTED) ## Does this tree train what COMMIT trains, to the bit? For changes that must change nothing
	PYTHONPATH=tests/support $(BIN)/python tests/golden/same_run.py $(or $(COMMIT),HEAD) $(ARGS)

reference: $(INSTALLED) ## Write docs/config.md, the reference of all config keys, from the code
	$(BIN)/python -m manta.cli keys --markdown > docs/config.md

lint: $(TESTED) ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

hooks: $(TESTED) ## Have git check format, style and types before each commit
	$(BIN)/pre-commit install

format: $(TESTED) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## Measure, for hours; benchmarks/RESULTS.md has figures, each with its command
	$(BIN)/manta prepare jobs/demo/corpus.yaml
	$(BIN)/python benchmarks/prepare.py
	$(BIN)/python benchmarks/order.py
	$(BIN)/python benchmarks/mixture.py
	$(BIN)/python benchmarks/history.py
	$(MEASURING) benchmarks/train_loop.py --models micro --precisions fp32
	$(MEASURING) benchmarks/train_loop.py --workers 1 --accumulations 1 --loops manta,accelerate --turns 8 --seconds 12
	$(BIN)/python benchmarks/train_costs.py
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/reproducible.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/sweep.py
	$(MEASURING) benchmarks/data.py --repeats 3
	$(BIN)/python benchmarks/data_plan.py
	$(BIN)/python benchmarks/latency.py --rows start running commands errors
	$(MEASURING) benchmarks/adapt.py
	$(BIN)/python benchmarks/gpu.py

# Not an extra of pyproject.toml: MosaicML Streaming 0.13 asks for numpy < 2.2 and transformers < 5,
# litgpt 0.5 for huggingface-hub < 1.4, and no resolver joins these with what Manta needs. They work
# with it all the same, so they lie on top of Manta's own packages, without their dependencies.
bench-peers: $(INSTALLED) ## Install what the benchmarks compare Manta with, in .venv-peers
	$(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> $$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/manta.pth
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/peers.txt

# Axolotl pins other versions of Transformers, PEFT and TRL than Manta's: it has an environment of its own.
bench-axolotl: ## Install Axolotl for benchmarks/adapt.py, in .venv-axolotl (2 GB)
	$(PYTHON) -m venv $(AXOLOTL)
	$(AXOLOTL)/bin/python -m pip install --quiet --disable-pip-version-check axolotl==0.19.0

bench-smoke: $(INSTALLED) ## Has something become slow? Ratios only, in about a minute
	$(BIN)/python benchmarks/smoke.py $(ARGS)

lock: ## Resolve what pyproject.toml allows into the lock files (ARGS=--upgrade, CPU_TORCH=PLACE)
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	PATH=$(CURDIR)/.venv-lock/bin:$$PATH .venv-lock/bin/python .ci/make_locks.py \
		$(if $(CPU_TORCH),--cpu-torch $(CPU_TORCH)) $(ARGS)
	rm -rf .venv-lock

weight: $(INSTALLED) ## How heavy an installation is: packages, megabytes, imports
	$(BIN)/python benchmarks/weight.py

clean: ## Remove the environment and caches; runs and corpora stay
	rm -rf $(VENV) $(PEERS) $(AXOLOTL) .pytest_cache .ruff_cache .mypy_cache .hypothesis
