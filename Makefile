# Everything works from a bare clone: `make demo` and `make test` bring what they need.
# The environment is .venv, everything built is under build/ and dist/.

VENV    := .venv
BIN     := $(VENV)/bin
SAMPLES := build/samples
DEMO    ?= threshold-moves
# Tests of one file stay on one worker: the live ones are sensitive to each other's load.
PYTEST  := $(BIN)/python -m pytest -n 2 --dist loadfile
PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

# What the system must have for the goals of this call: python, and for most a C compiler and strace.
GOALS := $(or $(MAKECMDGOALS),help)
NEEDS := python
ifneq (,$(filter demo samples test live check bench verify-all,$(GOALS)))
NEEDS += cc
endif
ifneq (,$(filter test live check bench verify-all,$(GOALS)))
NEEDS += strace
endif
# Programs that the live tests trace, on a terminal and elsewhere.
ifneq (,$(filter test live check verify-all,$(GOALS)))
NEEDS += /usr/bin/python3 less vim
endif
ifneq (,$(filter screenshot,$(GOALS)))
NEEDS += cc chromium chromedriver
endif

.PHONY: help
help: ## show this list (the default)
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

# ---- the environment: stamps inside .venv, renewed when pyproject.toml changes ----

.PHONY: system
system:
	@sh .ci/system-packages $(NEEDS)

$(VENV)/.made: | system
	@echo "making $(VENV)"
	@$$(PYTHON="$(PYTHON)" sh .ci/find-python) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo "installing memtrace and its dependencies into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/.developed: $(VENV)/.installed
	@echo "installing the test tools and linters"
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.tested

$(VENV)/.documented: $(VENV)/.installed
	@echo "installing what the documentation needs"
	@$(PIP) install --editable '.[docs]'
	@touch $@

.PHONY: venv
venv: $(VENV)/.installed | system ## memtrace in .venv, editable

.PHONY: dev
dev: $(VENV)/.developed | system ## the same with test tools and linters

# ---- try it ----

.PHONY: samples
samples: | system ## build the sample programs into build/samples
	@$(MAKE) --silent --no-print-directory -C samples OUT="$(CURDIR)/$(SAMPLES)"

.PHONY: demo
demo: $(VENV)/.installed samples | system ## run memtrace on a sample (DEMO=name) and report what it saw
	@echo
	@echo '$$ memtrace run -o build/demo.json -- $(SAMPLES)/$(DEMO)'
	@$(BIN)/memtrace run -o build/demo.json -- $(SAMPLES)/$(DEMO)
	@echo
	@echo '$$ memtrace report build/demo.json'
	@$(BIN)/memtrace report build/demo.json
	@echo '$$ memtrace report build/demo.json --format html -o build/demo.html'
	@$(BIN)/memtrace report build/demo.json --format html -o build/demo.html
	@echo 'to look at in a browser: $(CURDIR)/build/demo.html'

# ---- test it ----

.PHONY: test
test: $(VENV)/.tested samples | system ## all tests but the slow ones
	@$(PYTEST)

.PHONY: live
live: $(VENV)/.tested samples | system ## only the tests that trace real processes
	@$(PYTEST) -m "live and not slow"

.PHONY: verify-all
verify-all: $(VENV)/.tested samples | system ## all tests, the slow ones too
	@$(PYTEST) -m ""

.PHONY: lint
lint: $(VENV)/.developed | system ## style: ruff check, ruff format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

.PHONY: type
type: $(VENV)/.developed | system ## types: mypy --strict
	@$(BIN)/mypy

.PHONY: contracts
contracts: $(VENV)/.developed | system ## which package may import which: import-linter
	@$(BIN)/lint-imports

.PHONY: check
check: lint type contracts test ## lint, type, contracts and test

.PHONY: bench
bench: $(VENV)/.installed samples | system ## what tracing costs, beside strace
	@$(BIN)/python benchmarks/bench.py

.PHONY: readme
readme: $(VENV)/.installed samples | system ## run the commands of README.md, tutorial and faq, and write their output there
	@$(BIN)/python tests/live/readme.py

.PHONY: docs
docs: $(VENV)/.documented | system ## the site in build/docs/html and the man page build/docs/man/memtrace.1
	@$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs/html
	@$(BIN)/python .ci/check_site.py build/docs/html
	@mkdir -p build/docs/man
	@cp docs/man/memtrace.1 build/docs/man/

.PHONY: docs-accept
docs-accept: $(VENV)/.installed | system ## write the pages that tell --help, findings and words, and the man page, anew
	@$(BIN)/python docs/generate.py

.PHONY: screenshot
screenshot: $(VENV)/.tested demo | system ## take docs/screenshot.png of the demo's page, with chromium
	@$(BIN)/python tests/browser/screenshot.py build/demo.html docs/screenshot.png light 1420

.PHONY: golden-accept
golden-accept: $(VENV)/.installed | system ## take the reports on stored traces as they are now: see tests/golden/README.md
	@$(BIN)/python tests/golden/accept.py

# ---- ship it ----

.PHONY: dist
dist: $(VENV)/.developed | system ## wheel and sdist into dist/
	@rm -rf dist
	@mkdir -p build
	@$(BIN)/python -m build --outdir dist . >build/dist.log 2>&1 || { cat build/dist.log; exit 1; }
	@$(BIN)/python .ci/check_wheel.py dist/*.whl
	@ls dist

.PHONY: clean
clean: ## remove all that make made, the environment too
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
