PYTHON ?= python3
BIN := .venv/bin
SUBSCRIBERS ?=
MAPPING ?=
KEEP ?=

.DEFAULT_GOAL := help
.PHONY: help run demo test check bench contracts lock clean

help: ## Show what there is to run
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

.venv/.installed: requirements.lock pyproject.toml contracts/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	@echo "making the environment in .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e contracts -e .
	@touch $@

run: .venv/.installed ## Start the whole platform on this machine; Ctrl-C stops it
	@$(BIN)/python -m deploy.stack

demo: .venv/.installed ## Drive the main job (SUBSCRIBERS=file.csv MAPPING=file.yaml KEEP=1)
	@$(BIN)/python -m cli demo $(if $(SUBSCRIBERS),--subscribers "$(SUBSCRIBERS)") \
		$(if $(MAPPING),--mapping "$(MAPPING)") $(if $(KEEP),--keep)

test: .venv/.installed ## Run every test, on real PostgreSQL and Kafka
	@$(BIN)/python -m pytest

check: .venv/.installed ## Lint, types, import rules, contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m contracts.generate --check

bench: .venv/.installed ## Measure speed, as ratios
	@$(BIN)/python -m bench

contracts: .venv/.installed ## Write schemas, samples and asyncapi.yaml from the models
	@$(BIN)/python -m contracts.generate

lock: ## Pin the newest dependencies (needs uv)
	@uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --no-header --no-annotate \
		--extra stack --extra dev pyproject.toml -o requirements.lock

clean: ## Remove the environment and the local stack's data
	@rm -rf .venv .stack build *.egg-info contracts/*.egg-info
