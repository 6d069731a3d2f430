# One environment, made on first use; every target works from a fresh clone.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=
export UV_COMPILE_BYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help train eval test test-real bench lint format constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# uv if there is one, else the interpreter's own venv and pip. An environment that stands already is updated in place.
$(VENV)/.ok: pyproject.toml constraints.txt
	@if command -v uv >/dev/null; then \
	    { [ -x $(PY) ] || uv venv $(VENV); } && \
	    VIRTUAL_ENV=$(VENV) uv pip install --quiet -e . --group dev -c constraints.txt; \
	else \
	    { [ -x $(PY) ] || $(PYTHON) -m venv $(VENV); } && \
	    $(PY) -m pip install --quiet --upgrade 'pip>=25.1' && \
	    PYTHONWARNINGS=ignore $(PY) -m pip install --quiet -e . --group dev -c constraints.txt; \
	fi
	@touch $@

train: $(VENV)/.ok  ## make train ARGS="experiment=ave_hmmoe scale=mini"
	$(PY) train.py $(ARGS)

eval: $(VENV)/.ok  ## make eval ARGS="ckpt_path=<run>/checkpoints/best.ckpt"
	$(PY) eval.py $(ARGS)

test: $(VENV)/.ok  ## everything that needs neither network nor real data
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -m 'not real and not gpu' $(ARGS)

test-real: $(VENV)/.ok  ## the tests that read real data (../shared/realdata or $HMMOE_REAL_DATA)
	$(PY) -m pytest -m real $(ARGS)

bench: $(VENV)/.ok  ## training step, inference and growth of HMMoE beside its rivals, as ratios
	$(PY) -m benchmarks.step $(ARGS)

lint: $(VENV)/.ok  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.ok  ## let ruff rewrite
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

constraints:  ## pin again what pyproject.toml resolves to; names and versions only, no address
	uv pip compile pyproject.toml --group dev --universal --no-header --no-annotate --upgrade -o constraints.txt

clean:  ## caches; never logs/ or data/
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
