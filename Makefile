# `make help` lists what there is. The work is done by cargo and by scripts/; this file only names it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
ARGS ?=

.PHONY: help demo test lint fmt docs bench measurements half-dead plants mutants model fuzz image deb deb-check

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Five failures and what defib does about them, in about 35 s; needs only Rust (ARGS="--redis URL --keep")
	@cargo run --locked --profile bench -- demo $(ARGS)

test: ## Everything CI checks, with one summary (DEFIB_REQUIRE_ALL=1 forbids skipping; ONLY="fmt clippy" picks stages)
	@scripts/test.sh $(ONLY)

lint: ## The fast part of `make test`: format, clippy, docs, dependencies
	@scripts/test.sh fmt clippy docs deny

fmt: ## Format the code
	@cargo fmt

docs: ## Build the API documentation and say where it is
	@cargo doc --quiet --locked --no-deps --document-private-items && echo "target/doc/defib/index.html"

bench: ## What one event costs the engine (ARGS=absorb: another part of benches/measure)
	@cargo bench --locked -- $(or $(ARGS),engine)

measurements: ## Everything in docs/measurements.md anew, some minutes each (ONLY="resubscribe idle" picks parts)
	@scripts/measure.sh $(ONLY)

half-dead: ## What can be seen of half-dead subscribers, for docs/half-dead.md (root; ARGS="--soak 3600": an hour with healthy ones)
	@cargo build --locked --quiet && scripts/python-venv.sh && scripts/half-dead.py $(ARGS)

plants: ## Plant faults in the engine: which of them does no simulated world notice? (ONLY="pause coverage" picks)
	@scripts/plants.py $(ONLY)

mutants: ## Plant every fault that cargo-mutants thinks of in the engine: which does no engine test notice? (ONLY="heal.rs guards")
	@scripts/mutants.py $(ONLY)

model: ## Walk three engines through every order of events within bounds (ARGS="3 8": faults, passes)
	@cargo run --locked --quiet --release --manifest-path model/Cargo.toml --target-dir target/model -- $(ARGS)

fuzz: ## Throw bytes at each parser of what others send; needs a nightly (ONLY="resp metrics" picks, FUZZ_SECONDS=600)
	@scripts/fuzz.sh $(ONLY)

image: ## Build the container image defib:local (needs Docker and the base images, see Dockerfile)
	@docker build --tag defib:local .

deb: ## Build the Debian package by cargo-deb, and print its path
	@scripts/deb.sh

deb-check: ## Build it, ask lintian, install, run, upgrade and purge it on a throw-away system (root; DEB=FILE: that one)
	@DEB=$(DEB) scripts/deb-check.sh
