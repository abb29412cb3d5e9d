PYTHON ?= python3
BIN := .venv/bin
SUBSCRIBERS ?=
MAPPING ?=
KEEP ?=
GATEWAY ?=
KAFKA ?=
ADMINISTRATOR ?=
ENGINE ?= docker
BUILD_OPTIONS ?=
VOLUMES ?=
OBSERVABILITY ?=
REQUESTS ?= 20000
SEED ?=
ROUNDS ?= 24
BEHIND ?= 100000
OUTAGE ?= 60
export DOTMAC_IMAGE ?= localhost/dotmac-platform:dev

.DEFAULT_GOAL := help
.PHONY: help run demo timings image up down test test-chaos test-containers fuzz sbom check bench contracts release-contracts lock clean

help: ## Show what there is to run
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

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
		$(if $(MAPPING),--mapping "$(MAPPING)") $(if $(KEEP),--keep) $(if $(GATEWAY),--gateway "$(GATEWAY)") \
		$(if $(KAFKA),--kafka "$(KAFKA)") $(if $(ADMINISTRATOR),--administrator "$(ADMINISTRATOR)")

image: ## Build the container image of every service
	@$(ENGINE) build $(BUILD_OPTIONS) --file deploy/Dockerfile --tag $(DOTMAC_IMAGE) .

up: image ## Start the whole platform in containers (OBSERVABILITY=1 adds traces, metrics, dashboards)
	@$(if $(OBSERVABILITY),COMPOSE_PROFILES=observability OTLP_ENDPOINT=http://otel-collector:4318) \
		$(PYTHON) -m deploy.compose up

down: ## Stop the containers (VOLUMES=1 removes their data)
	@$(PYTHON) -m deploy.compose down $(if $(VOLUMES),--volumes)

timings: .venv/.installed ## Show where the time of the last demo went
	@$(BIN)/python -m cli timings

test: .venv/.installed ## Run every test, on real PostgreSQL and Kafka
	@$(BIN)/python -m pytest

test-chaos: .venv/.installed ## Crash and cut off everything under load (ROUNDS=24 SEED=n BEHIND=100000 OUTAGE=60)
	@ROUNDS=$(ROUNDS) SEED=$(or $(SEED),$(shell shuf -i 1-999999999 -n 1)) BEHIND=$(BEHIND) OUTAGE=$(OUTAGE) $(BIN)/python -m pytest tests/chaos

test-containers: .venv/.installed image ## Run the tests of what servers and tenants do in containers
	@# To all others it makes no difference whose servers they are, nor to what runs in processes: `make test` has them.
	@STACK_SERVERS=testcontainers $(BIN)/python -m pytest -k "container or messaging" tests/containers $(foreach what, \
		messaging targets target_crashes target_failures releases moves drift,tests/integration/test_$(what).py)

fuzz: .venv/.installed ## Send 20,000 made-up requests to every operation (REQUESTS=n SEED=n)
	@$(BIN)/python -m tests.fuzz --requests $(REQUESTS) $(if $(SEED),--seed $(SEED))

sbom: .venv/.installed ## Write the bill of materials (CycloneDX) to build/sbom.json
	@mkdir -p build
	@$(BIN)/python -m deploy.security.sbom > build/sbom.json
	@echo build/sbom.json

check: .venv/.installed ## Lint, types, import rules, contracts, manifests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m contracts.generate --check
	@$(BIN)/python -m deploy.kubernetes check

bench: .venv/.installed ## Measure speed, as ratios
	@$(BIN)/python -m bench

contracts: .venv/.installed ## Write schemas, samples, asyncapi.yaml and Kubernetes' topics and users from the models
	@$(BIN)/python -m contracts.generate
	@$(BIN)/python -m deploy.kubernetes write

release-contracts: .venv/.installed ## Freeze the contracts as the version that contracts/pyproject.toml names
	@$(BIN)/python -m contracts.generate --release

lock: ## Pin the newest dependencies, and of these what runs in an image (needs uv)
	@uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --no-header --no-annotate \
		--extra stack --extra dev pyproject.toml -o requirements.lock
	@uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate \
		--constraint requirements.lock pyproject.toml -o requirements.runtime.lock

clean: ## Remove the environment and the local stack's data
	@rm -rf "$$(readlink -f .stack/postgres)" # root keeps the database outside the checkout
	@rm -rf .venv .stack build *.egg-info contracts/*.egg-info
