# Two commands: `make demo` and `make test`. Each makes its own .venv if there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check test-slow test-gpu test-clients test-browser sanitize clean

demo: $(VENV)/.installed  ## Watch a small model think: sample, vote, verify; prints answer, posterior and bill.
	$(BIN)/outthink demo

test: $(VENV)/.installed-dev check  ## Lint, types, import rules, the test suite, and the kernels' parity under sanitizers.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --hypothesis-seed=0 -m "not slow and not gpu and not clients and not browser"
	@if command -v c++ >/dev/null && command -v cmake >/dev/null; then \
	    tests/kernels/sanitized.sh $(BIN)/python -q -n 2 -m "not slow" -k "not invariance and not threads and not generic"; \
	else echo "The sanitized run of the kernels' tests is left out: it needs c++ and cmake."; fi

check: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/pyright
	$(BIN)/lint-imports

test-slow: $(VENV)/.installed-dev  ## The long checks: millions of draws, full parity grids.
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.installed-dev  ## The checks that need a CUDA device.
	$(BIN)/python -m pytest -m gpu

# torch goes first: asked for by another package, pip might pick a newer build with gigabytes of CUDA.
$(VENV)/.installed: pyproject.toml CMakeLists.txt $(wildcard src/outthink/kernels/cpu/csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet "torch>=2.11,<2.14"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	touch $@

sanitize: $(VENV)/.installed-dev  ## All of the kernels' tests on a build with the address and undefined-behaviour sanitizers.
	tests/kernels/sanitized.sh $(BIN)/python

test-clients: $(VENV)/.installed-dev  ## The checks against other servers, installed in environments of their own.
	$(BIN)/python -m pytest -m clients

test-browser: $(VENV)/.installed-dev  ## The page in a headless Chromium, driven from an environment of its own.
	$(BIN)/python -m pytest -m browser

clean:
	rm -rf $(VENV) build dist
