# `make` shows what there is. Every target builds the whole workspace in one profile, so that they share their artifacts;
# .cargo/config.toml has the flags.

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)/$(HOST)/release
SHIM := $(TARGET_DIR)/containerd-shim-wasm-v1
PREFIX ?= /usr/local
# The version of everything: crates, chart, images.
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -n 1)

.DEFAULT_GOAL := help
.PHONY: help build demo images test test-churn test-vm test-kind test-arm64 critest fuzz bench bench-check bench-kind bench-density bench-build lint install deps clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

build: ## Build the static release binary and check that it is static
	@test/deps.sh build
	cargo build --release --locked --workspace --bins
	@file $(SHIM) | grep -q 'statically linked' || { file $(SHIM); echo "$(SHIM) is not static" >&2; exit 1; }
	@if readelf -lW $(SHIM) | grep -q INTERP; then echo "$(SHIM) asks for a dynamic loader" >&2; exit 1; fi
	@echo "built $(SHIM): $$(file -b $(SHIM) | cut -d, -f1-4), $$(stat -c %s $(SHIM)) bytes"

demo: build ## Run sample images on a private containerd: output, exit code, volumes (root)
	test/demo.sh $(SHIM)

REGISTRY ?= registry.example.com/wasm
# As target/images/NAME.tar, for `ctr images import` and `kind load image-archive`. With PUSH=1 from the Dockerfiles in images/, by docker
# with its buildx, to REGISTRY, several PLATFORMS at once.
IMAGES ?=
images: build ## Build the installer's image and the samples' (IMAGES: these) as REGISTRY/NAME:VERSION; PUSH=1 pushes them (root)
	@test/deps.sh test
	@test/wasm-rust.sh >/dev/null
	REGISTRY=$(REGISTRY) VERSION=$(VERSION) images/build.sh $(TARGET_DIR) $(IMAGES)

test: lint build ## Check format and lints, then run all tests, unit and on real containerds (root)
	test/containerd.sh
	test/wasm-rust.sh
	test/cri/tools.sh
	test/cri/registry.sh
	test/e2e/tools.sh --helm
	cargo test --release --locked --workspace --no-fail-fast

SECONDS ?= 60
fuzz: ## Vary the inputs in crates/*/corpus for SECONDS (60) per target; what fails is kept there
	FUZZ_SECONDS=$(SECONDS) cargo test --release --locked --workspace --lib -- --nocapture --test-threads=2 fuzz_tests::

N ?= 10000
test-churn: build ## Make and delete N (10000) containers per containerd, a tenth of them hurt (root)
	test/containerd.sh "" 1.7 2.4
	CHURN_TASKS=$(N) cargo test --release --locked --workspace --test churn

REPORT ?= critest.md
critest: build ## Run CRI's conformance tests with runc and with ours; the table goes to REPORT (critest.md) (root)
	@test/deps.sh test
	test/cri/critest.sh $(SHIM) $(TARGET_DIR)/critest $(REPORT)

test-vm: ## Run the integration tests in a VM with cgroup v2, systemd and AppArmor (root, amd64)
	@test/deps.sh vm
	test/vm.sh $(ARGS)

test-kind: build ## Bring up a cluster of kind, run the kit's rows on it, take it down (root, unless Docker runs; amd64)
	@test/deps.sh kind
	test/wasm-rust.sh
	cargo test --release --locked --workspace --no-run --test e2e
	test/e2e/run.sh cargo test --release --locked --workspace --test e2e -- $(ARGS)

# Not in CI: building for another processor takes a quarter of an hour.
test-arm64: build ## Build for arm64 and run the samples on a node of that kind, in a VM (root; on amd64)
	@test/deps.sh arm64
	@test/wasm-rust.sh >/dev/null
	test/arm64.sh $(TARGET_DIR)

# Workspaces of their own: their dependencies are not the product's. The peer is linked as it is shipped: it has no static form.
PEER_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/peer
STOCK_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/stock-floor
export WASM_BENCH_BIN := $(TARGET_DIR)
bench-build: build
	@test/deps.sh bench
	test/containerd.sh "" 2.4
	@began=$$(date +%s); cd test/bench/peer && RUSTFLAGS= CARGO_TARGET_DIR=$(PEER_DIR) cargo build --release --locked \
		&& install -m 0755 $(PEER_DIR)/$(HOST)/release/containerd-shim-peer-v1 $(abspath $(TARGET_DIR))/ \
		&& echo "the peer was built in $$(($$(date +%s) - began)) s"
	@began=$$(date +%s); cd test/bench/stock-floor && CARGO_TARGET_DIR=$(STOCK_DIR) cargo build --release --locked \
		&& install -m 0755 $(STOCK_DIR)/$(HOST)/release/containerd-shim-stock-floor-v1 $(abspath $(TARGET_DIR))/ \
		&& echo "the stock floor was built in $$(($$(date +%s) - began)) s"
	test/bench/wasmtime.sh

bench: bench-build ## Measure beside runc, crun, a peer, wasmtime and two floors; writes test/bench/results.{json,svg} (root)
	$(TARGET_DIR)/bench run test/bench/results.json test/bench/results.svg

bench-check: bench-build ## Measure again, and name what fell behind test/bench/results.json by more than 15 %
	$(TARGET_DIR)/bench check test/bench/results.json

# Not in CI. The cluster is made for it, and taken down.
bench-kind: bench-build ## Start 80 pods at once on a cluster of kind, beside runc, a peer and the floor; writes test/bench/kind.json (root)
	@test/deps.sh kind
	test/wasm-rust.sh
	test/e2e/run.sh $(TARGET_DIR)/bench kind test/bench/kind.json

DENSITY ?= 1000
DENSITY_HTTP ?= 200
bench-density: build ## Start DENSITY (1000) sleeping containers and DENSITY_HTTP (200) services: what they cost (root)
	@test/deps.sh bench
	test/containerd.sh "" 2.4
	$(TARGET_DIR)/bench density $(DENSITY) $(DENSITY_HTTP)

lint: deps ## Check format and lints
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

install: build ## Install the shim to PREFIX/bin (default /usr/local)
	install -D -m 0755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/containerd-shim-wasm-v1

deps: ## Install what building and testing need (Debian 12, Ubuntu; root)
	test/deps.sh test

clean: ## Remove what was built
	cargo clean
