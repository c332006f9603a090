#!/usr/bin/env bash
# Builds crictl, by which the tests of pods speak to containerd, once, into the cache outside the checkout. Needs Go.
# Usage: test/cri/tools.sh [--critest] [DIR]
#   --critest  also critest
#   DIR        the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm)
# The folder is named after the hash of what it is built from; older ones are removed. Prints it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tools=(crictl)
if [ "${1:-}" = --critest ]; then
	tools+=(critest)
	shift
fi
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm}

say() { echo "tools.sh: $*" >&2; }

hash=$(cat "$here/tools/go.mod" "$here/tools/go.sum" | sha256sum | cut -c 1-16)
target=$cache/cri-tools-$hash
mkdir -p "$cache"
exec 9>"$cache/cri-tools.lock"
flock 9
build() { # TOOL FILE
	local flags=(-mod=readonly -trimpath -ldflags '-s -w')
	case $1 in
	crictl) go build "${flags[@]}" -o "$2" sigs.k8s.io/cri-tools/cmd/crictl ;;
	critest) go test "${flags[@]}" -c -o "$2" sigs.k8s.io/cri-tools/cmd/critest ;;
	esac
}

mkdir -p "$target"
for tool in "${tools[@]}"; do
	[ ! -x "$target/$tool" ] || continue
	if ! command -v go >/dev/null; then
		say "go is missing: install Go 1.26 or newer to build $tool"
		exit 1
	fi
	say "building $tool in $target, which may take some minutes"
	(cd "$here/tools" && CGO_ENABLED=0 build "$tool" "$target/.$tool.new")
	mv "$target/.$tool.new" "$target/$tool"
done
# It looks for a configuration file, and complains if there is none.
echo 'timeout: 30' >"$target/crictl.yaml"
for old in "$cache"/cri-tools-*/; do
	old=${old%/}
	[ "$old" = "$target" ] || rm -rf "$old"
done
echo "$target"
