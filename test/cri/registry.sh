#!/usr/bin/env bash
# Fetches docker-registry, from which containerd pulls the images of tests, once, into the cache outside the checkout.
# Usage: test/cri/registry.sh [DIR]
#   DIR  the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm)
# It is the package of the machine's own Debian or Ubuntu, unpacked: installing it would start a service. Elsewhere
# `docker-registry` or `registry` of the PATH serves.
set -euo pipefail

cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm}
target=$cache/registry

say() { echo "registry.sh: $*"; }

mkdir -p "$cache"
exec 9>"$cache/registry.lock"
flock 9
if [ -x "$target/docker-registry" ]; then
	say "docker-registry is in $target"
	exit 0
fi
work=$(mktemp -d "$cache/.registry.XXXXXX")
trap 'rm -rf "$work"' EXIT
if program=$(command -v docker-registry || command -v registry); then
	ln -s "$program" "$work/docker-registry"
elif command -v apt-get >/dev/null; then
	download() { (cd "$work" && apt-get -q -o APT::Sandbox::User=root download docker-registry); }
	download || { apt-get -q update && download; }
	dpkg-deb -x "$work"/docker-registry_*.deb "$work/root"
	mv "$work/root/usr/bin/docker-registry" "$work/docker-registry"
	rm -rf "$work/root" "$work"/*.deb
else
	say "there is no docker-registry, and no apt-get: install the package 'docker-registry' or 'registry'" >&2
	exit 1
fi
"$work/docker-registry" --version
chmod 755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
say "docker-registry is in $target"
