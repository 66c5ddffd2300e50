# Everything sets itself up: `make demo` and `make test` need only Python 3.10+, a C/C++ compiler and a package registry.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: demo test check format lint types layers bench levels clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP) ## the whole line on the built-in sample: machine, advice, quantize, verify, chat
	$(BIN)/quantdeck demo --headless

# The tests start and kill hundreds of processes at once: what fails in that crowd must pass alone.
test: $(STAMP) ## all tests
	$(BIN)/python -m pytest -n auto --dist loadgroup --cache-clear \
	|| $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

check: lint types layers test ## what CI runs

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## kernel times against libggml, as ratios
	PYTHONPATH=tests $(BIN)/python -m benchmarks.kernels

levels: $(STAMP) ## every level of the sample, with and without imatrix, made and measured
	PYTHONPATH=tests $(BIN)/python -m benchmarks.levels

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
