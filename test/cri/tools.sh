#!/usr/bin/env bash
# Builds crictl, by which the tests of pods speak to containerd, once, into the cache outside the checkout. Needs Go.
# Usage: test/cri/tools.sh [DIR]
#   DIR  the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm)
# The folder is named after the hash of what it is built from; older ones are removed. Prints it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm}

say() { echo "tools.sh: $*" >&2; }

hash=$(cat "$here/tools/go.mod" "$here/tools/go.sum" | sha256sum | cut -c 1-16)
target=$cache/cri-tools-$hash
mkdir -p "$cache"
exec 9>"$cache/cri-tools.lock"
flock 9
if [ -x "$target/crictl" ]; then
	echo "$target"
	exit 0
fi
if ! command -v go >/dev/null; then
	say "go is missing: install Go 1.25 or newer to build crictl"
	exit 1
fi
work=$(mktemp -d "$cache/.cri-tools-$hash.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "building crictl in $target, which takes some minutes"
(cd "$here/tools" && CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags '-s -w' -o "$work/crictl" sigs.k8s.io/cri-tools/cmd/crictl)
# It looks for a configuration file, and complains if there is none.
echo 'timeout: 30' >"$work/crictl.yaml"
chmod 755 "$work"
mv "$work" "$target"
trap - EXIT
for old in "$cache"/cri-tools-*/; do
	old=${old%/}
	[ "$old" = "$target" ] || rm -rf "$old"
done
echo "$target"
