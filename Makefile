# The only entry points a person needs; each sets up its own virtual environment first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# what the tests need of the extras
EXTRAS := cpu,export,openvino,profile,serve
# whole suites run on every core; a worker takes up to 2 GB
WORKERS := -n auto --maxprocesses=8 --dist worksteal
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: setup demo test test-floors test-reference test-slow lint format types wheel-test bench gpu-test gpu-bench gpu-kit clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install -e ".[$(EXTRAS)]" --group test --group lint
	@touch $@

demo: setup
	$(BIN)/edgeinfer demo --save demo-output

test: setup
	$(BIN)/python -m pytest $(WORKERS)

# the same on the oldest Python, which uv finds or brings (or FLOOR=/path/to/python3.10), with the oldest libraries
# that pyproject.toml allows
FLOOR ?= 3.10
test-floors: setup
	$(BIN)/uv venv -q --clear --python $(FLOOR) build/floors
	$(BIN)/uv pip install -q --python build/floors --resolution lowest-direct -e ".[$(EXTRAS)]" --group test
	build/floors/bin/python -m pytest $(WORKERS)

# parity with the reference implementations; REFERENCE is an environment that has them (tests/reference/README.md)
REFERENCE ?= .venv-reference
test-reference:
	PYTHONPATH=.:export $(REFERENCE)/bin/python -m pytest tests/reference -m reference -p no:randomly

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup
	$(BIN)/mypy

# the wheel, alone in a fresh environment: no source tree, no development packages
wheel-test: setup
	rm -rf dist build/wheel && $(BIN)/python -m build -q --wheel --outdir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip --disable-pip-version-check -q install "$$(echo dist/*.whl)[cpu,export]"
	cd build && wheel/bin/edgeinfer demo --save demo

bench: setup
	$(BIN)/python benchmarks/cpu.py

# on a machine with an NVIDIA GPU; with GPU_PYTHON=python3 in that Python as it is, and nothing is installed.
# GPU_OPTIONS="--seconds 540 --json FILE" says how long it may take, and where the report goes
ifndef GPU_PYTHON
GPU_PYTHON := $(BIN)/python
gpu-test gpu-bench gpu-kit: setup
endif

gpu-test:
	$(GPU_PYTHON) tests/gpu/run.py $(GPU_OPTIONS)

gpu-bench:
	PYTHONPATH=.:export $(GPU_PYTHON) benchmarks/gpu.py $(GPU_OPTIONS)

# what proves the GPU path beside a TensorRT 8.5 whose Python has NumPy and cuda-bindings only (tests/gpu/kit)
gpu-kit:
	$(GPU_PYTHON) tests/gpu/kit/pack.py build/gpu-kit $(GPU_OPTIONS)

clean:
	rm -rf $(VENV) dist build demo-output .pytest_cache .ruff_cache .mypy_cache .hypothesis
