# The commands of daily work; `make` alone lists them. The logic is in scripts/.

export MALLARD_CACHE ?= $(HOME)/.cache/mallard
export CARGO_TARGET_DIR ?= $(MALLARD_CACHE)/target

.DEFAULT_GOAL := help
.PHONY: help demo build test test-deep conformance lint fmt fuzz bench bench-ingest bench-merge clean-demo

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: build ## a lakehouse on real data, served until Ctrl-C (ARGS="--listen 127.0.0.1:0" adds flags)
	@$(CARGO_TARGET_DIR)/release/flight-server demo $(ARGS)

build: ## the binaries, into target/release
	@scripts/build

test: ## all tests: Rust, and clients in Python, Java (JDBC) and Go
	@scripts/test

test-deep: ## the same with many more property test cases, seeds and queries
	@MALLARD_DEEP=1 PROPTEST_CASES=$${PROPTEST_CASES:-5000} scripts/test

conformance: ## docs/conformance.md, from the tests of all clients
	@MALLARD_WRITE_CONFORMANCE=1 scripts/test python jdbc go

lint: ## format, clippy, licences and banned crates
	@scripts/lint

fmt: ## format the Rust code
	@cargo fmt --all

bench: ## size and speed of the frame compressions
	@scripts/env cargo run --release --locked -p proto --example frame_compression

bench-ingest: build ## ingest into a fake Firehose, beside FastAPI and boto3 (ARGS="--seconds 5" shortens it)
	@scripts/bench-ingest $(ARGS)

bench-merge: build ## merges into ten million rows, beside DuckDB and delta-rs (ARGS="--rows 1000000" shortens it)
	@scripts/bench-merge $(ARGS)

fuzz: ## frames, Flight messages and handles, some seconds each (FUZZ_SECONDS=600 for longer)
	@scripts/fuzz $(or $(FUZZ_SECONDS),20)

clean-demo: ## remove the demo's data
	rm -rf mallard-demo
