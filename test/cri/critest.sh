#!/usr/bin/env bash
# Runs critest, the conformance tests of CRI, with runc's handler and with that of the given shim, on a private containerd in
# a network of its own, and writes what differs. As root; 3 to 5 minutes.
# Usage: test/cri/critest.sh PATH/containerd-shim-wasm-v1 PATH/critest [REPORT]
#   PATH/critest  the program of this repository that does it (crates/testkit)
#   REPORT        a file for the table (default: critest.md); beside it a log of each run
# CRITEST_HANDLERS="runc" runs one handler, CRITEST_FOCUS=REGEX some of the cases.
set -euo pipefail

shim=$(realpath "${1:?usage: critest.sh PATH/containerd-shim-wasm-v1 PATH/critest [REPORT]}")
program=$(realpath "${2:?usage: critest.sh PATH/containerd-shim-wasm-v1 PATH/critest [REPORT]}")
report=$(realpath -m "${3:-critest.md}")
cd "$(dirname "$0")/../.."

test/containerd.sh "" 2.4
test/cri/registry.sh
tools=$(test/cri/tools.sh --critest)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/standin" test/cri/standin/main.go
# Ports, rules of the firewall and shared memory are those of these namespaces alone.
unshare --net --ipc sh -c 'ip link set lo up && exec "$@"' sh "$program" "$tools" "$work/standin" "$shim" "$report"
