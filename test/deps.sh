#!/usr/bin/env bash
# Installs what building, testing and the demo need beyond the Rust toolchain, on Debian 12 and Ubuntu.
# Usage: test/deps.sh build|demo|test|kind|vm|arm64|bench   (each includes those before it, the last four those of test; default: test)
# Idempotent; installs only what is absent.
set -euo pipefail

build=(gcc libc6-dev make protobuf-compiler file binutils bsdextrautils)
demo=(clang lld wasi-libc util-linux)
tests=(busybox-static containernetworking-plugins curl iproute2 iptables openssl runc debootstrap debian-archive-keyring python3-venv)
# What a private Docker and a cluster's nodes are made with, where none are to be had.
kind=(kmod)
vm=(qemu-system-x86 e2fsprogs)
arm64=(qemu-system-arm gcc-aarch64-linux-gnu libc6-dev-arm64-cross cpio xz-utils)
bench=(crun libseccomp-dev pkg-config g++ wrk)
# Not beside a Node.js that has another origin, whose package brings npm along.
command -v node >/dev/null && command -v npm >/dev/null || tests+=(nodejs npm)

set=${1:-test}
case $set in
build) wanted=("${build[@]}") ;;
demo) wanted=("${build[@]}" "${demo[@]}") ;;
test) wanted=("${build[@]}" "${demo[@]}" "${tests[@]}") ;;
kind) wanted=("${build[@]}" "${demo[@]}" "${tests[@]}" "${kind[@]}") ;;
vm) wanted=("${build[@]}" "${demo[@]}" "${tests[@]}" "${vm[@]}") ;;
arm64) wanted=("${build[@]}" "${demo[@]}" "${tests[@]}" "${arm64[@]}") ;;
bench) wanted=("${build[@]}" "${demo[@]}" "${tests[@]}" "${bench[@]}") ;;
*)
	echo "deps.sh: unknown set '$set': expected build, demo, test, kind, vm, arm64 or bench" >&2
	exit 2
	;;
esac

if ! command -v cargo >/dev/null; then
	echo "deps.sh: cargo is missing: install the Rust toolchain with rustup (rust-toolchain.toml names the version)" >&2
	exit 1
fi
# Elsewhere than on Debian and Ubuntu the tools are looked for, and the user installs what is missing.
if ! command -v apt-get >/dev/null; then
	tools=(cc make protoc file readelf)
	[ "$set" = build ] || tools+=(clang wasm-ld setpriv)
	case $set in test | kind | vm | arm64 | bench) tools+=(busybox curl ip iptables openssl runc go python3 node npm) ;; esac
	[ "$set" != bench ] || tools+=(crun pkg-config c++ wrk)
	[ "$set" != kind ] || tools+=(debootstrap unshare)
	[ "$set" != arm64 ] || tools+=(debootstrap qemu-system-aarch64 aarch64-linux-gnu-gcc cpio xz)
	[ "$set" != vm ] || tools+=(qemu-system-x86_64 debootstrap mke2fs debugfs)
	case $set in test | kind | vm | arm64 | bench) tools+=(/usr/lib/cni/ptp /usr/lib/cni/host-local) ;; esac
	for tool in "${tools[@]}"; do
		command -v "$tool" >/dev/null && continue
		echo "deps.sh: $tool is missing, and there is no apt-get: install the equivalents of: ${wanted[*]}" >&2
		exit 1
	done
	exit 0
fi

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# The compiler's runtime library for wasm32 is a package of each clang version: libclang-rt-14-dev-wasm32.
wasm_runtime() {
	apt-cache depends clang | sed -n 's/^ *Depends: clang-\([0-9][0-9]*\)$/libclang-rt-\1-dev-wasm32/p' | head -n 1
}

missing=()
for package in "${wanted[@]}"; do
	installed "$package" || missing+=("$package")
done
if [ "$set" != build ]; then
	runtime=$(wasm_runtime)
	if [ -z "$runtime" ]; then
		apt-get update -q
		runtime=$(wasm_runtime)
	fi
	[ -z "$runtime" ] || installed "$runtime" || missing+=("$runtime")
fi
if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "deps.sh: missing packages: run as root: apt-get install -y --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
	echo "deps.sh: installing ${missing[*]}"
	apt-get update -q
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

case $set in
test | kind | vm | arm64 | bench)
	command -v go >/dev/null && exit 0
	echo "deps.sh: go is missing: install Go 1.26 or newer (it builds containerd 2.4, crictl and the Go guests)" >&2
	exit 1
	;;
esac
