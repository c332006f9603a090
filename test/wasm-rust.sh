#!/usr/bin/env bash
# Makes what the Rust guests of the tests are built in where rustup lacks one of the targets wasm32-wasip1 and wasm32-wasip2:
# Debian forky with its Rust compiler, in a folder of the cache. Prints that folder; prints nothing where it is not needed.
# Usage: test/wasm-rust.sh [DIR]
#   DIR  the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm)
# The folder is named after the hash of this file, and is there complete or not at all; older ones are removed.
# testkit enters it with chroot(8), without mounts and without a network: what cargo needs is put beside the source.
set -euo pipefail

cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm}
here=$(cd "$(dirname "$0")" && pwd)

packages=(rustc cargo libstd-rust-dev-wasm32 lld libc6-dev wasm-tools)

say() { echo "wasm-rust.sh: $*" >&2; }

. "$here/mirror.sh"
# Asked for in the checkout, whose rust-toolchain.toml names the version.
if sysroot=$(cd "$here" && rustc --print sysroot 2>/dev/null) &&
	[ -d "$sysroot/lib/rustlib/wasm32-wasip1/lib" ] && [ -d "$sysroot/lib/rustlib/wasm32-wasip2/lib" ]; then
	say "the Rust toolchain has both targets: there is nothing to make"
	exit 0
fi
hash=$(sha256sum "$here/wasm-rust.sh" | cut -c 1-16)
target=$cache/wasm-rust-$hash
mkdir -p "$cache"
exec 9>"$cache/wasm-rust.lock"
flock 9
if [ -f "$target/version" ]; then
	echo "$target"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	say "debootstrap needs root: run this as root, or: rustup target add wasm32-wasip1 wasm32-wasip2"
	exit 1
fi
if ! command -v debootstrap >/dev/null; then
	say "debootstrap is missing: run test/deps.sh test"
	exit 1
fi

work=$(mktemp -d "$cache/.wasm-rust-$hash.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "making Debian forky with its Rust compiler in $target, which takes about two minutes"
mirror=$(debian_mirror)
include=$(IFS=, && echo "${packages[*]}")
# A debootstrap that is older than forky has no script of that name; sid's makes every later suite. Without a mirror it
# takes its own.
debootstrap --variant=minbase --include="$include" forky "$work/root" "$mirror" sid >"$work/log" 2>&1 9>&- || {
	tail -n 40 "$work/log" "$work/root/debootstrap/debootstrap.log" >&2 || true
	say "debootstrap failed"
	exit 1
}
root=$work/root
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/locale "$root"/usr/share/man
chroot "$root" rustc -vV >"$work/version"
chroot "$root" wasm-tools --version >>"$work/version"
rm -f "$work/log"
chmod 755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
for old in "$cache"/wasm-rust-*/; do
	old=${old%/}
	[ "$old" = "$target" ] || rm -rf "$old"
done
echo "$target"
