# Everyday verbs. Each one makes .venv by itself; nothing else has to be installed but Python >= 3.11, make and git.
SHELL := /bin/bash
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || echo 2)
VENV := .venv
BIN := $(VENV)/bin
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/workflow/src

RUN_PINS := requirements/workflow.txt requirements/collect.txt requirements/convert.txt requirements/tabular.txt requirements/train.txt requirements/ui.txt
PINS := $(RUN_PINS) requirements/dev.txt requirements/constraints.txt

.PHONY: help env demo test test-cluster test-fast playground playground-down bench lint format config-reference pins clean
help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

env: $(VENV)/.made ## make .venv with every pinned package

# torch goes through pip, which honours a pip.conf that names a CPU wheel; uv, when there is one, brings the rest.
$(VENV)/.made: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c requirements/constraints.txt torch torchvision
	if command -v uv >/dev/null; then \
	    uv pip install --quiet --python $(BIN)/python -c requirements/constraints.txt $(foreach f,$(RUN_PINS) requirements/dev.txt,-r $(f)); \
	else \
	    $(BIN)/python -m pip install --quiet -c requirements/constraints.txt $(foreach f,$(RUN_PINS) requirements/dev.txt,-r $(f)); \
	fi
	touch $@

demo: env ## synthetic archives through the whole workflow, to results/demo/report/index.html
	$(BIN)/python -m mammoflow phantom mias demo/mias --patients 50 --seed 1
	$(BIN)/python -m mammoflow phantom cbis_ddsm demo/cbis_ddsm --patients 200 --seed 2
	$(SNAKEMAKE) --configfile config/demo.yaml --quiet rules progress
	@$(BIN)/python -m mammoflow headline results/demo

test: env ## every test that needs no root
	$(BIN)/python -m pytest -m "not cluster and not browser" -n $(CORES) --dist loadfile --no-loadscope-reorder

test-cluster: env ## as root: the tests on a SLURM that they start (apt-get install slurmctld slurmd slurm-client munge)
	$(BIN)/python -m pytest tests/cluster -m cluster

playground: ## as root: start a small SLURM here; watch it with squeue
	tests/cluster/playground.sh up
	@echo 'Now, in an activated .venv: MAMMOFLOW_SLURM_STATUS=squeue snakemake --profile slurm --configfile config/demo.yaml'
	@echo 'Watch: watch -n1 squeue -o "%.6i %.9P %.10T %.8M %.4C %.7m %.12N %k".  Stop it: make playground-down'

playground-down: ## stop that SLURM
	tests/cluster/playground.sh down

test-fast: env ## unit tests only
	$(BIN)/python -m pytest tests/unit -m "not slow"

bench: env ## conversion speed and memory beside other pipelines, into docs/benchmarks.md (about ten minutes, best idle)
	$(BIN)/python benchmarks/conversion.py --write docs/benchmarks.md

lint: env ## ruff, snakefmt and Snakemake's own linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check --no-format-shell Snakefile workflow/rules
	$(BIN)/snakemake --lint --configfile config/demo.yaml

format: env ## rewrite sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt --no-format-shell Snakefile workflow/rules

config-reference: env ## write the table of keys in config/README.md from the schema
	$(BIN)/python -m mammoflow config-reference config/README.md

pins: env ## write requirements/constraints.txt from .venv
	{ sed -n '/^#/p' requirements/constraints.txt; $(BIN)/python -m pip freeze | sed 's/+cpu//'; } > requirements/constraints.tmp
	mv requirements/constraints.tmp requirements/constraints.txt

clean: ## delete the demo's data and results
	rm -rf demo results/demo store/demo
