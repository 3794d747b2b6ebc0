PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench clean

help:
	@echo "make demo    enlarge a photo four times and say where the pictures are"
	@echo "make test    format, lint, types, floors, docs and tests"
	@echo "make lint    the same without docs and tests"
	@echo "make docs    build the documentation into site/"
	@echo "make bench   time the import, and run every benchmark on toys; sparse-attn bench --help measures"
	@echo "make clean   remove what the other commands made, except .venv and runs"

$(INSTALLED): pyproject.toml hatch_build.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed and $(PYTHON) is not: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
		{ echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "installing into .venv (once; PyTorch is a large download)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,docs]"
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/sparse-attn demo

lint: $(INSTALLED)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/clang-format --dry-run --Werror sparse_attn/ops/backends/cpp/*
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

docs: $(INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

test: lint docs
	@$(BIN)/pytest

bench: $(INSTALLED)
	@$(BIN)/python benchmarks/import_time.py
	@$(BIN)/python benchmarks/attention.py

clean:
	rm -rf site build dist demo-output .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find sparse_attn tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
