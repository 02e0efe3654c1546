# `make help` lists the targets. Everything runs from .venv, which `make install` makes and keeps up to date.

# Without bytecode files every start of Python compiles all of torch, transformers and vLLM anew: 20 s each time.
unexport PYTHONDONTWRITEBYTECODE

EXTRA ?=
ARGS ?=
BIN := .venv/bin
# Processes of one thread each are faster than one of several; four, because on two cores a third of the time is waiting.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder
# vLLM for CPUs sets the upper bound.
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))

SWEEPS ?= core tuned rates
COMPARISON := benchmarks/alfworld_tiny
RUNS := runs/alfworld_experiment

.PHONY: help install train warm-start llm train-llm compare compare-llm test check lint

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: ## Make .venv with everything in it (EXTRA=cpu or cuda, at first cpu; PYTHON=... chooses the interpreter)
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14); do \
	  if $$python -c "$(SUITABLE)" 2>/dev/null; then exec $$python tools/install.py $(EXTRA); fi; \
	done; echo "make install: needs Python 3.11 to 3.14; found none as $(or $(PYTHON),python3). Set PYTHON=..." >&2; exit 1

train: install ## Train a tiny agent on ALFWorld games on the CPU, and report held-out success before and after
	@$(BIN)/gigpo fit --config configs/alfworld/tiny_cpu.yaml $(ARGS)

warm-start: install ## Make the tiny agent's starting weights anew, by imitation
	@$(BIN)/gigpo fit --config configs/alfworld/warm_start.yaml $(ARGS)

llm: install ## Fetch a small pretrained language model (93 MB) into data/llm, as a folder that configurations name
	@$(BIN)/python tools/llm.py

train-llm: install ## Train a real language model (135 M parameters) on ALFWorld games on the CPU (ARGS="--seed 1": another seed)
	@$(BIN)/python benchmarks/llm/train.py $(ARGS)

compare: install ## Compare GiGPO with GRPO in 50 runs: nine hours, goes on where it was stopped (SWEEPS=wide: 45 more)
	@for sweep in $(SWEEPS); do \
	  $(BIN)/gigpo-sweep -m --config-dir $(COMPARISON) --config-name $$sweep || exit; done
	@$(BIN)/python $(COMPARISON)/exam.py --start $(RUNS)
	@$(BIN)/python $(COMPARISON)/collect.py $(RUNS)
	@$(BIN)/python $(COMPARISON)/report.py

compare-llm: install ## Compare GiGPO with GRPO on a real language model, three seeds each: four hours, goes on where it was stopped
	@$(BIN)/python benchmarks/llm/train.py --method gigpo grpo --seed 0 1 2 $(ARGS)

test: lint ## Run every check and every test (those of a model or an adapter are skipped where it cannot be fetched)
	-@$(BIN)/python tools/llm.py --file-only
	-@$(BIN)/python tools/environments.py
	@$(PYTEST)

check: lint ## Run every check and the fast tests, with fewer examples each
	@GIGPO_HYPOTHESIS_PROFILE=quick $(PYTEST) -m "not slow and not vllm"

lint: install ## Check format, style, types, import rules and spelling
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary tools/install.py tools/llm.py tools/environments.py
	@$(BIN)/lint-imports >/dev/null || $(BIN)/lint-imports
	@$(BIN)/codespell
