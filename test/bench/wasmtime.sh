#!/usr/bin/env bash
# Installs wasmtime's own program from crates.io, once, into a cache outside the checkout: a contender of the benchmarks,
# of the version that the product has its engine from.
# Usage: test/bench/wasmtime.sh
set -euo pipefail

version=48.0.8
target=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm/wasmtime-$version
[ ! -x "$target/bin/wasmtime" ] || exit 0

began=$(date +%s)
# Only what `compile`, `run` and `serve` need (this version does not build `serve` without component-model-async). Outside
# of the checkout, whose flags are the product's; cargo moves the program into place when it is whole.
cd /
env -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET RUSTFLAGS= cargo install wasmtime-cli --version "=$version" --locked \
	--root "$target" --no-default-features \
	--features serve,run,compile,component-model-async,pooling-allocator,parallel-compilation
echo "wasmtime $version was built in $(($(date +%s) - began)) s"
