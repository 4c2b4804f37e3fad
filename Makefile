# What a person types. `make run` and `make test` need Python 3.11 or newer, a C++ compiler, and nothing of ours:
# .venv is made on first use, and the package is built and installed into it again whenever a source has changed.

.DEFAULT_GOAL := help
.PHONY: help run test test-cuda check format bench docs figures sanitize neon clean

PYTHON ?= python3
EXTRAS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := $(shell find src native -name __pycache__ -prune -o -print)

comma := ,
empty :=
space := $(empty) $(empty)
TEST_EXTRAS := $(subst $(space),$(comma),$(strip test $(EXTRAS)))

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

run: $(VENV)/.installed-none  ## build, install and generate with the embedded model
	@$(BIN)/stepahead run --depth 3 --temperature 0.7 --min-p 0.05 --seed 2

test: $(VENV)/.installed-$(TEST_EXTRAS)  ## the whole suite; EXTRAS=oracle adds torch, transformers and llama.cpp
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-cuda:  ## the GPU backend's tests, on a machine with a GPU
	TRITON_INTERPRET=0 $(MAKE) test EXTRAS="cuda $(EXTRAS)" PYTEST_ARGS="tests/backends/cuda $(PYTEST_ARGS)"

check: $(VENV)/.installed-test  ## linter, formatter and type checker
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-test  ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-none  ## what drafting gains on this machine, with the embedded model
	@$(BIN)/stepahead bench

docs: $(VENV)/.installed-docs  ## the documentation, into site/
	$(BIN)/python tools/docs/cli_reference.py
	$(BIN)/python tools/docs/clients.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

figures: $(VENV)/.installed-none  ## measure, and put the table and the picture into the README
	$(BIN)/python tools/docs/figures.py

sanitize: $(VENV)/.installed-test  ## the native code under the address and undefined-behaviour sanitizers
	PATH="$(abspath $(BIN)):$$PATH" PYTHON="$(abspath $(BIN))/python" native/tests/run_sanitized.sh

neon:  ## the NEON kernels, cross-compiled and emulated; on Debian: g++-aarch64-linux-gnu qemu-user
	native/tests/run_emulated.sh

clean:  ## remove what was built
	rm -rf $(VENV) build dist site

# The package with extras, always a real installation: tests and commands see what `pip install .` gives, not the tree.
# Without build isolation, so that build/ stays valid and an edit recompiles one file.
$(VENV)/.installed-%: $(VENV)/.ready pyproject.toml CMakeLists.txt LICENSE README.md $(SOURCES)
	$(PIP) install --no-build-isolation --config-settings=cmake.define.STEPAHEAD_WERROR=ON \
		$(if $(filter none,$*),.,".[$*]")
	@touch $@

$(VENV)/.ready: tools/check_machine.py
	@$(PYTHON) tools/check_machine.py
	$(PYTHON) -m venv $(VENV)
	@echo "installing what the build needs"
	@$(PIP) install $$($(BIN)/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	@$(PIP) install $$($(BIN)/python -c 'from scikit_build_core.build import get_requires_for_build_wheel as needed; \
		print(*needed() or ["pip"])')
	@touch $@
