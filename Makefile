# make run      set everything up, start Redis, Kafka, Envoy, two enforcers, the detector, a backend and traffic; Ctrl-C ends it
# make test     set everything up and run the tests on real services
# make demo     play the scenario once, without a terminal; exit 0 only if what should happen did
# make stop     end what `make run` or `make demo` left running
# make check    what CI runs: lint, types, generated code, tests, CPU per decision
PYTHON ?= python3
BIN := .venv/bin
PROTOS := $(wildcard proto/ratchet/*/*.proto)
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run demo stop test lint types proto proto-check schemas bench bench-smoke check lock format

help:
	@sed -n '1,5p' Makefile | sed 's/^# //'

setup:
	@$(PYTHON) devstack/bootstrap.py

run: setup
	@$(BIN)/python -m examples.run

demo: setup
	@$(BIN)/python -m examples.demo

stop: setup
	@$(BIN)/python -m examples.run --stop

test: setup
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup
	$(BIN)/mypy

# Generated code is committed; `make proto-check` fails when it is not what the .proto files say.
proto: setup
	$(BIN)/python -m grpc_tools.protoc -Iproto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --python_out=proto --grpc_python_out=proto \
	  --mypy_out=quiet:proto --mypy_grpc_out=quiet:proto $(PROTOS)

proto-check: proto schemas
	git diff --exit-code -- proto topics/schemas config/policies.schema.json config/rules.schema.json

schemas: setup
	$(BIN)/python -m topics schemas --out topics/schemas
	$(BIN)/python -m enforcer schema > config/policies.schema.json
	$(BIN)/python -m detector schema > config/rules.schema.json

bench: setup
	$(BIN)/python -m bench all

# CPU per decision against an empty handler's; fails when the decision path has become dear.
bench-smoke: setup
	$(BIN)/python -m bench smoke

check: lint types proto-check test bench-smoke

# Run after a change of the dependencies in pyproject.toml. The second lock is the part of the first that the services need to
# run: the image installs that, without the tools of developers.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: setup
	$(COMPILE) --all-extras pyproject.toml -o requirements.lock
	$(COMPILE) --constraint requirements.lock --no-annotate pyproject.toml -o requirements-run.lock

format: setup
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .
