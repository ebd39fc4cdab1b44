# `make` lists what there is. Everything is built once: every target uses the same profile and, by
# building all targets of the whole workspace, the same features.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help up down run e2e test soak torture lint ci fmt build clean bench-relay bench-latency bench-consumer bench-api simulate kept-seeds mutate fuzz-api writers cloudevents

BIN := $(or $(CARGO_TARGET_DIR),target)/debug
STACK := $(BIN)/local-stack
SIMULATION := $(or $(CARGO_TARGET_DIR),target)/simulation/simulation
# What `make ci` leaves out of `make soak`: a quarter of an hour.
SHORT_SOAK := --skip three_brokers --skip twenty_million
# What only measuring and fuzzing need is installed below the target folder, once.
TOOLS := target/tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build ## start a Postgres and a Kafka on this machine, without containers
	@$(STACK) up

down: build ## stop them and remove their data
	@$(STACK) down

run: build ## run the three services on them until Ctrl-C; PORT chooses the API's port
	@$(BIN)/e2e run

e2e: build ## check the whole system; LOCAL_STACK=native or compose says where
	@$(BIN)/e2e check

test: build ## run all tests, on the running stack or on one for the time of the tests
	@# They wait for servers more than they compute, so there are more of them at once than cores.
	@echo "Every test has a database and topics of its own on a real Postgres and a real Kafka."
	@echo "Those of order-api, order-consumer and outbox-relay take minutes: they kill, freeze and cut off servers."
	@if ! $(STACK) status >/dev/null; then trap '$(STACK) down' EXIT; $(STACK) up; fi; \
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-6} cargo test --workspace

soak: build ## run the tests that take minutes: a million events, 10 GB of large ones, 20 million dead entries, thirty-two relays, three brokers that fail in turn, a promoted standby
	@if ! $(STACK) status >/dev/null; then trap '$(STACK) down' EXIT; $(STACK) up; fi; \
	cargo test --workspace --test relay -- --ignored $(SOAK)

torture: build ## let brokers, the primary, networks and services fail at random for MINUTES=10; SEED=n repeats the faults
	@$(BIN)/e2e torture --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

simulate: ## run the relay and the consumer in simulated worlds until one breaks a promise; SEED=n shows one, SIMULATE_SECONDS=n ends it
	cargo build --profile simulation -p simulation
	@$(SIMULATION) $(if $(SEED),replay $(SEED),search $(if $(SIMULATE_SECONDS),--seconds $(SIMULATE_SECONDS)))

kept-seeds: ## run the seeds that once found a fault
	cargo build --profile simulation -p simulation
	@$(SIMULATION) kept

mutate: ## take one thing out of the code at a time, and show that the simulation notices (an hour)
	@crates/simulation/mutations/run

lint: ## check the format, clippy's advice and the direction of the dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --quiet --test dependencies

ci: ## all checks, as .ci/run does, with their times
	@for target in lint build test kept-seeds simulate soak e2e; do \
		echo "== make $$target"; begun=$$SECONDS; \
		$(MAKE) --no-print-directory $$target SOAK="$(SHORT_SOAK)" SIMULATE_SECONDS=110; \
		echo "== make $$target: $$((SECONDS - begun)) s"; \
	done; echo "== all: $$SECONDS s"

bench-relay: ## measure the relay beside the bare parts and the usual outbox (half an hour)
	cargo build --release -p bench -p outbox-relay
	$(or $(CARGO_TARGET_DIR),target)/release/bench relay --json $(or $(CARGO_TARGET_DIR),target)/bench-relay.json

bench-api: build ## measure the API under load, commits shared and not (minutes)
	cargo build --release --package order-api --bins --examples
	@test -x $(TOOLS)/bin/oha || \
		cargo install oha --version 1.8.0 --locked --root $(TOOLS) --target-dir $(TOOLS)/build
	@$(STACK) status >/dev/null || $(STACK) up
	@release=$(or $(CARGO_TARGET_DIR),target)/release; \
	$$release/examples/bench_api $$release/order-api $(TOOLS)/bin/oha

fuzz-api: build ## hold the API against its OpenAPI document with schemathesis (Python)
	@$(STACK) status >/dev/null || $(STACK) up
	@crates/order-api/fuzz/run $(BIN)

writers: build ## run the examples of docs/writers.md in every language that is on this machine
	@$(STACK) status >/dev/null || $(STACK) up
	@crates/e2e/writers/run $(BIN)

cloudevents: build ## read what the relay wrote with the CloudEvents SDK for Python
	@$(STACK) status >/dev/null || $(STACK) up
	@crates/e2e/cloudevents/run $(BIN)

bench-latency: ## measure from the commit of an order to that of its effect, at 500 orders/s
	cargo build --release -p bench -p order-api -p outbox-relay -p order-consumer
	$(or $(CARGO_TARGET_DIR),target)/release/bench latency

bench-consumer: build ## measure a consumer's batch beside the bare insert of its inbox rows
	@if ! $(STACK) status >/dev/null; then trap '$(STACK) down' EXIT; $(STACK) up; fi; \
	cargo test --release -p order-consumer --test consumer speed -- --ignored --nocapture

fmt: ## format the code
	cargo fmt --all

build: ## build everything
	cargo build --workspace --all-targets

clean: ## remove what was built
	cargo clean
