# What can be done here: make help
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
BENCHES := $(patsubst benchmarks/bench_%.py,%,$(wildcard benchmarks/bench_*.py))
PYTEST := $(BIN)/pytest -n 2 --dist loadfile

.PHONY: help setup run test test-slow check format bench notebooks clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make run CAPTURE=FILE       a recorded session (pcap, DBN) instead of the simulator"
	@echo "  make run ARGS='--seed 7'    options of tickworks run; its --help lists them"
	@echo "  make bench BENCH=decode     one benchmark: $(BENCHES)"

setup: $(READY) ## Make .venv with pinned packages, compile the hot loops

$(READY): requirements.txt pyproject.toml scripts/setup
	scripts/setup $(PYTHON)
	@touch $@

run: $(READY) ## The main job: a feed over multicast becomes proven ticks and a report
	$(BIN)/tickworks run $(if $(CAPTURE),--capture '$(CAPTURE)') $(ARGS)

test: $(READY) ## Everything that CI checks: lint, types, contracts, all tests but the slow ones
	scripts/system-packages
	$(MAKE) --no-print-directory check
	$(PYTEST) -m 'not slow' $(ARGS)

test-slow: $(READY) ## The long tests: crashes, soaks, the largest fuzzing runs
	scripts/system-packages
	$(PYTEST) -m slow $(ARGS)

check: $(READY) ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## Benchmarks against their peers; each result is one JSON line
	@for bench in $(if $(BENCH),$(BENCH),$(BENCHES)); do \
		if grep -q '__main__' benchmarks/bench_$$bench.py; \
		then $(BIN)/python -m benchmarks.bench_$$bench || exit 1; \
		else $(BIN)/python -m pytest -q benchmarks/bench_$$bench.py || exit 1; fi; done

notebooks: $(READY) ## Run the notebooks on the newest run's archive and keep their outputs
	$(BIN)/python -m notebooks.execute $(ARGS)

clean: ## Remove the virtual environment and the caches, never the data under var/
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './var/*' -prune -exec rm -rf {} +
