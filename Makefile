# Every command a person needs. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
RUN := scripts/with-docker.sh

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## One rental through every part of the system, with real parts, and its receipt
	@$(RUN) gpumarket dev demo

test: setup-test ## All tests on real parts: unit, integration, end to end, Forge, Ape
	@$(RUN) scripts/test.sh

dev: setup ## The whole market on this machine, until Ctrl-C
	@$(RUN) gpumarket dev

# forge lint leaves artifacts without bytecode, so it gets a folder of its own: tests deploy from out/.
check: setup ## Format, lint, types, generated files
	@. scripts/env.sh && ruff format --check . && ruff check . && mypy && forge fmt --check \
	  && FOUNDRY_OUT=.build/lint/out FOUNDRY_CACHE_PATH=.build/lint/cache forge lint --severity high --severity med --deny warnings \
	  && forge build && python scripts/_bindings.py --check

bindings: setup ## Rewrite generated files: ABI, events, GraphQL schema
	@. scripts/env.sh && forge build && python scripts/_bindings.py && gpumarket indexer schema > indexer/schema.graphql \
	  && python -m gpumarket.cli.reference > docs/cli.md

gas: setup ## Gas of every entry point and of whole rentals, beside the neighbours'; rewrites tests/gas.json
	@. scripts/env.sh && forge build && python -m tests.gas

fuzz: setup ## New random inputs: the invariants over 1000 histories of 100 calls, 10,000 inputs for every fuzz test
	@. scripts/env.sh && seed=0x$$(od -An -N8 -tx8 /dev/urandom | tr -d ' ') && echo "fuzz seed $$seed" \
	  && FOUNDRY_PROFILE=fuzz forge test --fuzz-seed $$seed --match-test 'invariant|testFuzz'

mutants: setup ## Faults put into the contracts one by one: the Forge suite must find each
	@. scripts/env.sh && python scripts/_mutants.py

setup: ## Install what is missing (runs by itself before the others)
	@scripts/setup.sh base

setup-test:
	@scripts/setup.sh test

clean: ## Remove everything built, keep the caches in the home folder
	rm -rf .venv .venv-ape .tools .build .dev node_modules out cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help demo test dev check bindings gas fuzz mutants setup setup-test clean
