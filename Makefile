# make quickstart   the main job on embedded real data, environment included; ends with a report
# make test         the tests (under 10 minutes on 2 cores)
# make test-full    the whole matrix: float32, torch.compile, kill tests (under 60 minutes)
# make check        format, lint, types, import layers
# make docs         the documentation site, strict

PYTHON ?= python3
VENV ?= .venv
RUN := runs/quickstart
BIN := $(VENV)/bin

.PHONY: quickstart test test-full check format docs clean

quickstart: $(VENV)/.user
	$(BIN)/siliforce quickstart --out $(RUN)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not full"

test-full: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site runs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	@touch $@ $(VENV)/.user
