# danlu: make demo (raw text to a served model), make test (everything CI checks).
#   make demo SERVE=0      stop before serving
#   make demo BUDGET=2m    spend less time on training

PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
SERVE       ?= 1
BUDGET      ?=
RECIPE      ?= quickstart

BIN       := $(VENV)/bin
CONSTRAIN := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: demo test lint install install-dev browser cross clean

demo: install
	$(BIN)/danlu run $(RECIPE) $(if $(BUDGET),--budget "$(BUDGET)") $(if $(filter 0,$(SERVE)),--no-serve)

test: install-dev lint
	$(BIN)/python -m pytest

lint: install-dev
	$(BIN)/ruff check danlu tests bench
	$(BIN)/ruff format --check danlu tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python bench/render.py --check

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAIN) -e ".[all]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet $(CONSTRAIN) -e ".[all,dev]"
	touch $@

# A compiler and an emulator for ARM, for the tests of what is compiled there (Debian and Ubuntu; needs root).
cross:
	command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || \
	  (apt-get update -qq && apt-get install -y -qq --no-install-recommends g++-aarch64-linux-gnu qemu-user >/dev/null)

# Headless Chromium for the tests of the chat page (Debian and Ubuntu; needs root).
browser:
	command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
	  (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
