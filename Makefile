# `make` shows what there is. Every target builds the whole workspace in one profile, so that they share their artifacts;
# .cargo/config.toml has the flags.

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)/$(HOST)/release
SHIM := $(TARGET_DIR)/containerd-shim-wasm-v1
PREFIX ?= /usr/local

.DEFAULT_GOAL := help
.PHONY: help build demo test test-churn test-vm fuzz lint install deps clean

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

test: lint build ## Check format and lints, then run all tests, unit and on real containerds (root)
	test/containerd.sh
	cargo test --release --locked --workspace

SECONDS ?= 60
fuzz: ## Vary the inputs in crates/*/corpus for SECONDS (60) per target; what fails is kept there
	FUZZ_SECONDS=$(SECONDS) cargo test --release --locked --workspace --lib -- --nocapture --test-threads=2 fuzz_tests::

N ?= 10000
test-churn: build ## Make and delete N (10000) containers per containerd, a tenth of them hurt (root)
	test/containerd.sh
	CHURN_TASKS=$(N) cargo test --release --locked --workspace --test churn

test-vm: ## Run the integration tests in a VM with cgroup v2, systemd and AppArmor (root, amd64)
	@test/deps.sh vm
	test/vm.sh $(ARGS)

lint: deps ## Check format and lints
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

install: build ## Install the shim to PREFIX/bin (default /usr/local)
	install -D -m 0755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/containerd-shim-wasm-v1

deps: ## Install what building and testing need (Debian 12, Ubuntu; root)
	test/deps.sh test

clean: ## Remove what was built
	cargo clean
