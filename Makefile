# Every target sets up what it needs. `make` alone explains.
PYTHON ?= python3
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
STAMP  := $(VENV)/.installed
CONSTRAINTS := .ci/constraints.txt
OP_SOURCES := $(wildcard thaitool/ops/csrc/*) thaitool/ops/build.py

.PHONY: help setup demo test check fix bench gpu-check clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(STAMP)  ## make .venv once: torch, the package and its C++ op (3 to 6 minutes, 5 GB)

$(STAMP): pyproject.toml $(CONSTRAINTS) $(OP_SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "thaitool needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version); pass PYTHON=..." >&2; exit 1; }
	@echo "setup: making $(VENV); about 5 GB, most of it torch with CUDA; 3 to 6 minutes the first time"
	@command -v c++ > /dev/null || { echo "the C++ op needs a compiler: install g++ (Debian: apt-get install g++)" >&2; exit 1; }
	@test -x $(BIN)/pip || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; }
	@echo "setup: 1/3 build tools and torch"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) "setuptools>=77,<82" wheel ninja "torch==2.11.*" "torchaudio==2.11.*"
	@echo "setup: 2/3 dependencies, and the C++ op compiled for this machine"
	@PATH="$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) --no-build-isolation -e ".[dev]"
	@echo "setup: 3/3 looking at the machine"
	@$(BIN)/thaitool doctor
	@touch $(STAMP)

demo: setup  ## all six stages on the example, offline, in about ten minutes on two cores
	@$(MAKE) --no-print-directory -C examples demo THAITOOL=$(BIN)/thaitool PYTHON=$(BIN)/python

# One thread each: the models are tiny, and threads that wait for each other on a busy machine cost minutes.
test: setup  ## the tests, on up to eight cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 8 --dist loadfile

check: setup  ## format, lint, types, import contract
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

fix: setup  ## format, and repair what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# One thread each, so that rates are per core; the peers are in the dev extra.
bench: setup  ## slow tests, then speed and memory beside other libraries, and the collapse experiment: into tests/bench/results
	@$(BIN)/python -m pytest -m slow
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.scan --out tests/bench/results/scan.json
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.loading --out tests/bench/results/loading.json
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.pretraining --out tests/bench/results/pretraining-cpu.json
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.synth --out tests/bench/results/synth.json
	@$(BIN)/python tests/bench/dtw.py --out tests/bench/results/dtw-cpu.json
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench/align.py --out tests/bench/results/align-cpu.json
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench/finetune.py --out tests/bench/results/finetune-cpu.json
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.infer --out tests/bench/results/infer.json
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.serving --out tests/bench/results/serving.json
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench/collapse.py --full --out tests/bench/results/collapse.json

gpu-check:  ## on a GPU machine: build in place, tests, sanitizer, benchmark; PYTHON has torch and pytest, ARGS see --help
	@$(PYTHON) tests/bench/gpu_check.py $(ARGS)

clean:  ## remove the environment, build products and the demo's output
	rm -rf $(VENV) build dist *.egg-info thaitool/ops/*.so examples/out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
