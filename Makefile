# Everything a checkout needs, from Python 3.11 or newer, make and a package registry.
#   make demo    install into .venv and run the quickstart; prints a summary and the report's path
#   make test    linters, types, the whole suite, then the core subset on the newest Python present
#   make lint    linters and types only
#   make docs    the documentation as HTML, in build/docs
#   make bench   the benchmarks, peers included
#   make clean   remove the virtual environments and caches (never runs/)
# Another interpreter: make PYTHON=/path/to/python test

PYTHON ?= python3
VENV := .venv
NEWEST_VENV := .venv-newest
BIN := $(VENV)/bin
# One worker per file at a time: the tests of one file share compiled programs.
PYTEST_FLAGS ?= -q -n 2 --dist loadfile --no-loadscope-reorder
PIP_INSTALL := -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs bench clean prepare-newest test-newest

demo: $(VENV)/.installed-demo
	$(BIN)/jaxdiff run configs/quickstart.toml

# Linting keeps one core busy; the other can fetch what the newest Python needs.
test:
	@$(MAKE) --no-print-directory -j 2 lint prepare-newest
	$(BIN)/python -m pytest $(PYTEST_FLAGS)
	@$(MAKE) --no-print-directory test-newest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -q -W -b html docs build/docs
	@echo "build/docs/index.html"

bench: $(VENV)/.installed-bench
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

clean:
	rm -rf $(VENV) $(NEWEST_VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp per set of extras: nothing is installed twice, and a change of dependencies installs again.
$(VENV)/bin/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jaxdiff needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1). Name another: make PYTHON=python3.12"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -e '.[all,dev]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -e '.[all,docs]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -e '.[all,peers]'
	@touch $@

# The newest Python that constraints.txt knows: by name on PATH, then among pyenv's versions.
# A candidate must run, for pyenv puts names on PATH that answer with an error.
NEWEST_PYTHON = $(shell \
  for version in 3.13 3.12; do \
    for candidate in "python$$version" "$${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version".*/bin/python; do \
      if "$$candidate" -c 'import ensurepip, sys; sys.exit("%d.%d" % sys.version_info[:2] != "'$$version'")' >/dev/null 2>&1; then \
        echo "$$candidate"; exit 0; \
      fi; \
    done; \
  done)

# Empty where it is the Python that the suite itself runs on.
OTHER_PYTHON = $(shell \
  newest="$(NEWEST_PYTHON)"; version='import sys; print(sys.version_info[:2])'; \
  if [ -n "$$newest" ] && [ "$$("$$newest" -c "$$version")" != "$$("$(PYTHON)" -c "$$version")" ]; then echo "$$newest"; fi)

prepare-newest:
	@newest="$(OTHER_PYTHON)"; \
	if [ -n "$$newest" ]; then $(MAKE) --no-print-directory NEWEST="$$newest" $(NEWEST_VENV)/.installed; fi

test-newest:
	@newest="$(OTHER_PYTHON)"; \
	if [ -n "$$newest" ]; then \
	  echo "The core subset on $$("$$newest" --version), with the newest jax that constraints.txt names:"; \
	  $(MAKE) --no-print-directory NEWEST="$$newest" run-newest; \
	elif [ -z "$(NEWEST_PYTHON)" ]; then \
	  echo "No Python 3.12 or 3.13 is present: the core subset was NOT run with jax 0.12."; \
	else \
	  echo "The suite above already ran on the newest Python present ($$($(BIN)/python --version)): the core subset is not repeated."; \
	fi

.PHONY: run-newest
run-newest: $(NEWEST_VENV)/.installed
	@$(NEWEST_VENV)/bin/python -c 'import jax, sys; print("python", sys.version.split()[0], "jax", jax.__version__)'
	$(NEWEST_VENV)/bin/python -m pytest $(PYTEST_FLAGS) -m core

$(NEWEST_VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(NEWEST_VENV)/bin/python || "$(NEWEST)" -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python $(PIP_INSTALL) -e '.[all,test]'
	@touch $@
