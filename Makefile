# The front door: every target sets up what it needs, so `make test` works on a bare Debian machine.
# The real build is CMake's; see CONTRIBUTING.md for using it directly.

PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)
PYTHON := .venv/bin/python
CMAKE_ARGS ?=

.PHONY: help setup build command test demo fuzz sanitize bench kernels fidelity sparsity wheel release docs format lint clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup:  ## install the Debian packages and the Python environment (.venv); fast when done before
	@scripts/setup.sh

command:  ## build the command alone: no PyTorch, no tests, no bindings
	@scripts/setup.sh demo
	@[ -f $(BUILD)/build.ninja ] || cmake --preset $(PRESET) -DAEROGEL_BUILD_TESTS=OFF -DAEROGEL_BUILD_PYTHON=OFF -DAEROGEL_CUDA=OFF $(CMAKE_ARGS)
	@cmake --build $(BUILD) -j $(JOBS) --target aerogel_cli

build: setup  ## build the library, the command, the tests and the benchmarks in build/release
	@cmake --preset $(PRESET) -DAEROGEL_BUILD_TESTS=ON -DAEROGEL_BUILD_PYTHON=ON -DAEROGEL_CUDA=AUTO $(CMAKE_ARGS)
	@cmake --build $(BUILD) -j $(JOBS)

test: build  ## build, then run every test
	@ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure --no-tests=error

demo: command  ## quality of quantized and sparse videos, speed of a block of real size; writes report.html
	@$(PYTHON) examples/demo/run.py

bench: build  ## measure layers and attentions of real models beside other libraries (ARGS=--all, --levels, --cpu avx2, --check ...)
	@$(PYTHON) bench/compare.py $(ARGS)

kernels: build  ## measure every kernel against PyTorch (ARGS=--check: fail under the floors)
	@$(PYTHON) bench/run.py $(ARGS)

fidelity: build  ## measure what every scheme costs in quality; writes docs/fidelity.md
	@$(PYTHON) bench/fidelity.py

sparsity: build  ## measure sparse attention on the trained model; writes docs/sparsity.md
	@$(PYTHON) bench/sparsity.py

fuzz: setup  ## look for inputs that break a reader of files, for a few minutes
	@JOBS=$(JOBS) scripts/fuzz.sh

sanitize: setup  ## run the suites under the address, undefined-behaviour and thread sanitizers
	@JOBS=$(JOBS) scripts/sanitize.sh

wheel: setup  ## build a wheel in build/wheel and test it in a clean environment
	@scripts/release.sh wheel

release: setup  ## build dist/: the source distribution, wheels and SHA256SUMS, each tested in a clean environment
	@scripts/release.sh

docs: build  ## write docs/python_api.md from the docstrings
	@PYTHONPATH=$(BUILD)/python $(PYTHON) scripts/python_api.py

format:  ## rewrite the C++ sources in the house style
	@scripts/format.sh

lint: build  ## check formatting, clang-tidy and the rules of the house
	@scripts/format.sh --check
	@$(PYTHON) tests/house/tidy.py --alone --build $(BUILD)/tidy
	@AEROGEL_BUILD=$(BUILD) $(PYTHON) -m pytest -q tests/house

clean:  ## remove the build folders; the Python environment stays
	rm -rf build
