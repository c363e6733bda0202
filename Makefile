# Two commands do everything: `make demo` and `make test`. Each makes a virtual environment, installs, and runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread a process: tests run in two processes, and threads that spin against each other cost ten times the work.
TEST_THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

.PHONY: setup demo test lint docs clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

# threads that sleep while they wait: on a machine with other work, spinning ones make training ten times slower
demo: setup
	OMP_WAIT_POLICY=PASSIVE $(BIN)/lmvic demo

test: setup
	$(TEST_THREADS) $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build demo outputs .pytest_cache .ruff_cache
