# edgekd: `make demo` and `make test` are all that a fresh machine needs. `make help` lists the rest.

PYTHON ?= python3
OUT    ?= out
STORE  ?=
ARGS   ?=

BIN   := .venv/bin
READY := .venv/.ready
BACKENDS := .venv/.ready-backends

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint format hooks venv clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'make demo OUT=FOLDER STORE=FOLDER   results, and finished stages to reuse (default: the user'"'"'s cache folder)'
	@echo 'make test ARGS="-k store"           arguments of pytest'

demo: $(READY) ## the whole job on Fashion-MNIST: a teacher and a student in, measured engines in ./out
	@$(BIN)/edgekd compile examples/fashion/recipe.toml --out $(OUT) $(if $(STORE),--store $(STORE))

test: lint $(BACKENDS) ## every check and every test
	@dpkg -s dataset-fashion-mnist >/dev/null 2>&1 || test -d /usr/share/datasets/fashion-mnist || \
	    echo 'note: the tests on all of Fashion-MNIST are skipped; to run them: apt-get install dataset-fashion-mnist'
	@command -v chromium >/dev/null 2>&1 || \
	    echo 'note: the tests of report.html in a browser are skipped; to run them: apt-get install chromium'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder --durations=20 $(ARGS)

quick: $(READY) ## the tests that take seconds
	$(BIN)/python -m pytest -q -m 'not slow' $(ARGS)

lint: $(READY) ## ruff and mypy --strict, nothing changed
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet || { echo 'hint: make format'; exit 1; }
	$(BIN)/mypy

format: $(READY) ## what ruff can mend by itself
	$(BIN)/ruff check --fix --quiet || true
	$(BIN)/ruff format --quiet

hooks: $(READY) ## run the checks before each commit
	$(BIN)/pre-commit install

venv: $(READY) ## .venv with the exact versions in requirements.lock

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "error: edgekd needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)"; echo; \
	    echo 'hint: name another, as in: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 1; } >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo; \
	    echo 'hint: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv'; exit 1; } >&2
	@echo 'installing into .venv (about 1.2 GB, minutes on the first use)' >&2
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(BACKENDS): requirements-backends.lock $(READY)
	@echo 'installing the backends that are extras into .venv (about 700 MB, for the tests)' >&2
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock -r requirements-backends.lock
	@touch $@

clean: ## remove results, builds and caches (.venv and the store stay)
	rm -rf out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find edgekd tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
