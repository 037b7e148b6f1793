# Everything runs in .venv, which the first target that needs it makes. `make` alone lists the targets.
#   PYTHON=python3.12 make test     choose the Python
#   make sweep ARGS="--help"        pass flags on; also for test, test-all, test-latest and faults

VENV   := .venv
LATEST := .venv-latest
ARGS   ?=
export PYTHON VENV LATEST

.DEFAULT_GOAL := help
.PHONY: help env sweep test test-all test-latest faults lint format docs bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env:  ## make .venv with the pinned requirements, or bring it up to date
	@sh -c "$$FUNCTIONS$$ENV"

sweep: env  ## run the first experiment: information in the weights as β varies (ARGS="...")
	@$(VENV)/bin/python -m experiments.beta_sweep $(ARGS)

test: env  ## run the tests, without the slow ones
	@$(VENV)/bin/python -m pytest $(ARGS)

test-all: env  ## run every test, the slow ones too, on programs as users compile them
	@JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(VENV)/bin/python -m pytest -m "" $(ARGS)

test-latest:  ## run the tests on Python 3.12 or newer with the newest releases, in .venv-latest
	@sh -c "$$FUNCTIONS$$ENV_LATEST"
	@$(LATEST)/bin/python -m pytest $(ARGS)

faults: env  ## kill, fill up and damage runs in every way that they must survive
	@$(VENV)/bin/python -m pytest -m faults -n 0 -v tests/faults $(ARGS)

lint: env  ## check style, formatting and types
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy

format: env  ## format the code and mend what ruff can mend
	@$(VENV)/bin/python -m ruff check --fix-only .
	@$(VENV)/bin/python -m ruff format .

docs: env  ## build the documentation into site/
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check \
	  --no-build-isolation -c requirements.txt -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

bench: env  ## run every benchmark, side by side with peers
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check \
	  --no-build-isolation -c requirements.txt -e '.[bench]'
	@for file in benchmarks/[!_]*.py; do \
	  name=$${file#benchmarks/}; echo "== $$file"; \
	  $(VENV)/bin/python -m "benchmarks.$${name%.py}" $(ARGS) || echo "not run"; \
	done

clean:  ## remove environments, caches and builds; results stay
	rm -rf $(VENV) $(LATEST) build dist site *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Shell functions of the environment targets.
define FUNCTIONS
set -eu

# A line that names the interpreter $$1 runs; empty where it does not run.
identity() {
  "$$1" -c 'import sys; print(sys.base_prefix, *sys.version.split())' 2>/dev/null || true
}

# Whether $$1 is a Python >= 3.$$2 that can make an environment. Shims may exist and yet fail, so try.
usable() {
  "$$1" -c "import sys, venv, ensurepip; assert sys.version_info >= (3, $$2)" >/dev/null 2>&1
}

# The first usable Python >= 3.$$1 among the others, as the path of the interpreter itself.
find_python() {
  minor=$$1; shift
  for candidate in "$$@" "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[1-9]*/bin/python; do
    if usable "$$candidate" "$$minor"; then
      "$$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
}

# An empty environment $$1 with Python >= 3.$$2, looked for among the others; else with uv.
make_environment() {
  folder=$$1 oldest=$$2; shift 2
  rm -rf "$$folder"
  python=$$(find_python "$$oldest" "$$@")
  uv=$$(command -v uv || command -v "$$HOME/.local/bin/uv" || true)
  if [ -n "$$python" ]; then
    echo "Making $$folder with $$python"
    "$$python" -m venv "$$folder"
  elif [ -n "$$uv" ]; then
    echo "Making $$folder with uv"
    "$$uv" venv --quiet --seed --python ">=3.$$oldest" "$$folder"
  else
    echo "No Python >= 3.$$oldest that can make an environment, and no uv. This installs uv; then run make again:" >&2
    echo "  curl -LsSf https://astral.sh/uv/install.sh | sh" >&2
    exit 1
  fi
}

pip_install() {
  folder=$$1; shift
  "$$folder/bin/python" -m pip install --disable-pip-version-check -q "$$@"
}

endef
export FUNCTIONS

# The stamp holds the interpreter, then what was installed. It goes before pip starts and comes back
# last, so an environment without one is not to be trusted and is made anew.
define ENV
stamp=$$VENV/installed
contents="$$(cat requirements.txt pyproject.toml | cksum) in $$PWD"
interpreter=$$(identity "$$VENV/bin/python")
if [ -n "$$PYTHON" ]; then
  if ! usable "$$PYTHON" 11; then
    echo "PYTHON=$$PYTHON is no Python >= 3.11 that can make an environment; going on without it" >&2
  elif [ "$$(identity "$$PYTHON")" != "$$interpreter" ]; then
    interpreter=
  fi
fi
if [ -z "$$interpreter" ] || [ "$$(sed -n 1p "$$stamp" 2>/dev/null)" != "$$interpreter" ]; then
  make_environment "$$VENV" 11 "$$PYTHON" python3.12 python3.11 python3
elif [ "$$(sed -n 2p "$$stamp")" = "$$contents" ]; then
  exit 0
fi
rm -f "$$stamp"
echo "Installing requirements.txt into $$VENV; the first time this takes some minutes"
pip_install "$$VENV" -r requirements.txt
pip_install "$$VENV" --no-deps --no-build-isolation -e .
interpreter=$$(identity "$$VENV/bin/python")
printf '%s\n' "$$interpreter" "$$contents" > "$$stamp.new"
mv "$$stamp.new" "$$stamp"
endef
export ENV

define ENV_LATEST
stamp=$$LATEST/installed
interpreter=$$(identity "$$LATEST/bin/python")
if [ -z "$$interpreter" ] || [ "$$(cat "$$stamp" 2>/dev/null)" != "$$interpreter" ]; then
  make_environment "$$LATEST" 12 "$$PYTHON" python3.12 python3.13 python3
fi
rm -f "$$stamp"
echo "Installing the newest releases into $$LATEST"
pip_install "$$LATEST" --upgrade --upgrade-strategy eager -e '.[experiments,gibbs,test]'
identity "$$LATEST/bin/python" > "$$stamp.new"
mv "$$stamp.new" "$$stamp"
endef
export ENV_LATEST
