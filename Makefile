# `make help` lists the targets. Everything is set up by the target that needs it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PACKAGE := tools/mcp-server-jupyter
# A second, tiny wheel: other import names of the same.
NAMES := tools/tk-ai-extension
BIN := $(PACKAGE)/.venv/bin
ROOT ?= notebooks
DIST ?= dist
ARGS ?=
# Processes that run tests side by side. Most tests wait for other processes: half as many again as there are cores.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores + (cores + 1) / 2)))

# One shell line: the newest suitable Python runs the set-up script, which ends at once when nothing changed.
setup = python=$$($(PACKAGE)/scripts/find-python) && "$$python" $(PACKAGE)/scripts/bootstrap.py

# A command among the extension's packages, with Node 24; left out, in words, where npm is missing (status 77).
EXTENSION := vscode-extension
node = $(EXTENSION)/scripts/with-node $(1) || [ $$? -eq 77 ]

-include deploy/testcluster/Makefile.inc
-include deploy/compose/Makefile.inc

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort -u | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1|\2/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

.PHONY: env-run env-dev
env-run:
	@$(setup) run
env-dev:
	@$(setup) dev

.PHONY: run
run: env-run ## Start the server on ROOT (default: ./notebooks, filled with a sample), with local kernels
	@mkdir -p $(ROOT)
	@exec $(BIN)/mcp-server-jupyter serve --root $(ROOT) --sample $(ARGS)

.PHONY: test test-long
test: env-dev ## Run the tests; ARGS go to pytest, e.g. ARGS="-k notebooks"
	@$(MAKE) --no-print-directory test-extension
	@cd $(PACKAGE) && .venv/bin/python -m pytest -n $(WORKERS) --durations=40 $(ARGS)
.PHONY: test-extension
test-extension: env-dev ## Run the VS Code extension's tests that need no editor; says so where npm is missing
	@$(call node,npm run --silent test)
test-long: env-dev ## Run the long ones: chaos, fuzz, conformance, soak; ARGS go to pytest
	@cd $(PACKAGE) && .venv/bin/python -m pytest -n auto -m long --timeout=600 --durations=20 $(ARGS)

.PHONY: check check-format check-lint check-types check-layers check-extension check-workflows
check: check-format check-lint check-types check-layers check-extension check-workflows ## Format, lint, types and layers
check-format: env-dev
	@cd $(PACKAGE) && .venv/bin/ruff format --check . && .venv/bin/ruff format --config pyproject.toml --check $(abspath $(NAMES))
check-lint: env-dev
	@cd $(PACKAGE) && .venv/bin/ruff check . && .venv/bin/ruff check --config pyproject.toml $(abspath $(NAMES))
check-types: env-dev
	@cd $(PACKAGE) && .venv/bin/mypy && .venv/bin/mypy --package bench && \
	.venv/bin/mypy $(abspath $(NAMES))/src
check-layers: env-dev
	@cd $(PACKAGE) && .venv/bin/lint-imports
check-extension: env-dev
	@$(call node,npm run --silent check)
check-workflows: env-dev
	@$(BIN)/zizmor --offline --quiet --no-progress .github
	@.ci/actionlint

.PHONY: format
format: env-dev ## Format the code and mend what lint can
	@cd $(PACKAGE) && .venv/bin/ruff check --fix-only --quiet . && .venv/bin/ruff format .

.PHONY: e2e e2e-full
e2e: env-dev ## Drive the packaged extension in a real VS Code, in headless Chromium; pictures in vscode-extension/e2e/shots
	@$(EXTENSION)/scripts/with-node npm run --silent e2e
e2e-full: env-dev ## The same with what takes longer or is not yet even: every command, two windows, upgrades
	@$(EXTENSION)/scripts/with-node npm run --silent e2e-full

.PHONY: e2e-jupyter
e2e-jupyter: env-dev ## Run the tests against real Jupyters with live documents, installed in the user's cache; ARGS go to pytest
	@cd $(PACKAGE) && .venv/bin/python scripts/jupyters.py plain collaboration documents extension browser >/dev/null && \
	.venv/bin/python -m pytest -c tests/e2e/jupyter/pytest.ini tests/e2e/jupyter $(ARGS)

.PHONY: e2e-hub e2e-hub-full
e2e-hub: env-dev ## Run the tests against a real JupyterHub with its proxy, installed in the user's cache; needs npm; ARGS go to pytest
	@cd $(PACKAGE) && .venv/bin/python -m pytest -c tests/e2e/hub/pytest.ini tests/e2e/hub $(ARGS)
e2e-hub-full: env-dev ## The same with what is only measured: a call through the service beside one straight to the extension
	@cd $(PACKAGE) && .venv/bin/python -m pytest -s -c tests/e2e/hub/pytest.ini -o python_files='test_*.py full_*.py' tests/e2e/hub $(ARGS)

.PHONY: bench
bench: env-dev ## Measure against the raw kernel round trip; ARGS=--quick for a smoke run
	@cd $(PACKAGE) && .venv/bin/python -m bench $(ARGS)

.PHONY: demo
demo: env-run ## Let a client work through the sample analysis; writes ROOT/analysis-demo.ipynb
	@mkdir -p $(ROOT)
	@$(BIN)/python $(PACKAGE)/scripts/demo.py $(ROOT) $(ARGS)

.PHONY: package
package: env-dev ## Build the wheel, its bundle for Claude Desktop and the extension's packages into DIST (default: ./dist); without npm not the last
	@$(EXTENSION)/scripts/with-node npm run --silent package -- $(abspath $(DIST)) || { [ $$? -eq 77 ] && \
	python=$$($(PACKAGE)/scripts/find-python) && poetry=$$("$$python" $(PACKAGE)/scripts/bootstrap.py poetry) && \
	"$$poetry" -m poetry --no-interaction --project $(PACKAGE) build --format wheel --output $(abspath $(DIST)); }
	@$(BIN)/python $(PACKAGE)/scripts/mcpb.py $(abspath $(DIST))
	@python=$$($(PACKAGE)/scripts/find-python) && poetry=$$("$$python" $(PACKAGE)/scripts/bootstrap.py poetry) && \
	"$$poetry" -m poetry --no-interaction --project $(NAMES) build --format wheel --output $(abspath $(DIST))

.PHONY: image-context
image-context: ## Fill DIST/image with what the images of deploy/docker are made from: the wheel and the locked versions
	@rm -rf $(DIST)/image
	@python=$$($(PACKAGE)/scripts/find-python) && poetry=$$("$$python" $(PACKAGE)/scripts/bootstrap.py poetry) && \
	"$$poetry" -m poetry --no-interaction --project $(PACKAGE) build --format wheel --output $(abspath $(DIST))/image && \
	export="$$poetry -m poetry --no-interaction --project $(PACKAGE) export" && \
	$$export --extras kubernetes --output $(abspath $(DIST))/image/server.txt && \
	$$export --extras sample --without-hashes --output $(abspath $(DIST))/image/kernel.txt
	@touch -t 198001010000 $(DIST)/image/* # a builder takes a new time for a new file, and installs everything again

.PHONY: release release-check release-notes
release: env-dev ## Make the release VERSION=X.Y.Z: gates, packages in DIST, a commit and a tag, no push; DRY_RUN=1 changes nothing
	@$(BIN)/python $(PACKAGE)/scripts/release.py make "$(VERSION)" --dist $(abspath $(DIST)) $(if $(filter-out 0,$(DRY_RUN)),--dry-run)
release-check: env-dev
	@$(BIN)/python $(PACKAGE)/scripts/release.py check "$(VERSION)"
release-notes: package
	@$(BIN)/python $(PACKAGE)/scripts/release.py assets "$(VERSION)" $(abspath $(DIST))

.PHONY: lock
lock: ## Write poetry.lock anew after a change of pyproject.toml; ARGS=--update for the newest versions
	@python=$$($(PACKAGE)/scripts/find-python) && poetry=$$("$$python" $(PACKAGE)/scripts/bootstrap.py poetry) && \
	"$$poetry" $(PACKAGE)/scripts/lock.py $(ARGS)

.PHONY: clean
clean: ## Remove what was built or installed here; notebooks and caches outside the tree stay
	@rm -rf $(PACKAGE)/.venv $(PACKAGE)/dist $(DIST)
	@find $(PACKAGE) -type d \( -name __pycache__ -o -name .pytest_cache -o -name .mypy_cache -o -name .ruff_cache \
	    -o -name .hypothesis -o -name .import_linter_cache \) -prune -exec rm -rf {} +
