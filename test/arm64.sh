#!/usr/bin/env bash
# Builds the shim and wasm-node for arm64 on another machine, and runs the samples with them on a node of that kind: a kernel
# of Debian for arm64 with containerd 1.7 and one cgroup hierarchy, in a virtual machine under emulation.
# Usage: test/arm64.sh BINARIES [DIR]
#   BINARIES  the folder with the built build-guests and image-tar of this machine
#   DIR       the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm)
# Where rustup has no target aarch64-unknown-linux-gnu, Debian forky's compiler builds, in a folder of the cache named after the
# hash of this file. The binaries end up in DIR/arm64/bin. Building them takes ten minutes or more, once; the VM one.
# Fails if a check in it does (test/arm64/init), if it does not come to its end, and after VM_TIMEOUT (600) seconds.
set -euo pipefail

binaries=$(realpath "${1:?usage: arm64.sh BINARIES [DIR]}")
cache=${2:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm}
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(dirname "$here")
triple=aarch64-unknown-linux-gnu

say() { echo "arm64.sh: $*"; }
fail() {
	echo "arm64.sh: $*" >&2
	exit 1
}
[ "$(uname -m)" != aarch64 ] || fail "this machine is arm64: make test tests it"
[ "$(id -u)" = 0 ] || fail "debootstrap needs root"

. "$here/mirror.sh"
mirror=$(debian_mirror || true)
[ -n "$mirror" ] || fail "the apt sources of this machine name no Debian mirror, where the node's kernel and containerd come from"
hash=$(sha256sum "$here/arm64.sh" | cut -c 1-16)
mkdir -p "$cache/arm64/bin"
exec 9>"$cache/arm64.lock"
flock 9
# Of runs that were killed.
rm -rf "$cache"/arm64/.work.*
work=$(mktemp -d "$cache/arm64/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Of the workspace, what goes onto nodes. LINKER and the flags of .cargo/config.toml are for the target alone.
cargo_build=(cargo build --release --locked --bins -p shim -p node --target "$triple")
linker=CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc

builder() { # prints the folder that Debian forky's compiler for arm64 is in
	local root=$cache/arm64/root-$hash packages
	if [ ! -d "$root" ]; then
		say "making Debian forky with its compilers in $root, which takes three minutes" >&2
		packages=rustc,cargo,gcc,libc6-dev,gcc-aarch64-linux-gnu,libc6-dev-arm64-cross,protobuf-compiler,libprotobuf-dev
		debootstrap --variant=minbase --include="$packages" forky "$work/root" "$mirror" sid >"$work/log" 2>&1 9>&- || {
			tail -n 40 "$work/log" >&2
			fail "debootstrap failed"
		}
		echo 'APT::Architecture "arm64"; APT::Architectures { "arm64"; };' >"$work/apt.conf"
		APT_CONFIG=$work/apt.conf debian_unpack forky "$work" libstd-rust-dev >"$work/log" 2>&1 || {
			tail -n 40 "$work/log" >&2
			fail "no compiled standard library for arm64"
		}
		rm -rf "$cache"/arm64/root-*
		mv "$work/root" "$root"
	fi
	echo "$root"
}

if [ -d "$(cd "$checkout" && rustc --print sysroot)/lib/rustlib/$triple/lib" ]; then
	(cd "$checkout" && env "$linker" "${cargo_build[@]}")
	built=${CARGO_TARGET_DIR:-$checkout/target}/$triple/release
else
	root=$(builder)
	# Without mounts and without a network: the sources of all crates are put beside ours.
	rm -rf "$root/src" "$root/root/.cargo/registry"
	mkdir -p "$root/src" "$root/root/.cargo"
	(cd "$checkout" && cargo fetch --locked && git ls-files -z | tar c --null --files-from - | tar x -C "$root/src")
	rm "$root/src/rust-toolchain.toml"
	cp -a "${CARGO_HOME:-$HOME/.cargo}/registry" "$root/root/.cargo/"
	say "building with $(chroot "$root" rustc --version)"
	chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=/target "$linker" \
		sh -c "cd /src && exec ${cargo_build[*]}"
	built=$root/target/$triple/release
fi
for name in containerd-shim-wasm-v1 wasm-node; do
	install -m 0755 "$built/$name" "$cache/arm64/bin/$name"
	file "$built/$name" | grep -q 'ARM aarch64.*statically linked' || fail "$built/$name is not a static program of arm64"
done

# The node: as much of Debian as containerd needs, all in memory.
vm=$cache/arm64/vm-$hash
if [ ! -d "$vm" ]; then
	say "fetching Debian's kernel and containerd for arm64"
	debootstrap --arch=arm64 --variant=minbase --download-only --include=linux-image-arm64,containerd,busybox-static \
		trixie "$work/debs" "$mirror" sid >"$work/log" 2>&1 9>&- || {
		tail -n 40 "$work/log" >&2
		fail "debootstrap failed"
	}
	for package in containerd libc6 libseccomp2 busybox-static; do
		dpkg-deb -x "$work"/debs/var/cache/apt/archives/"$package"_*.deb "$work/node"
	done
	dpkg-deb -x "$work"/debs/var/cache/apt/archives/linux-image-[0-9]*.deb "$work/kernel"
	mkdir -p "$work/vm/node"/{etc,images,proc,sys,dev,run,tmp}
	cp -a "$work/node/usr" "$work/vm/node/"
	rm -rf "$work/vm/node/usr/share"
	ln -s usr/bin usr/lib "$work/vm/node/"
	cp "$work"/kernel/boot/vmlinuz-* "$work/vm/vmlinuz"
	find "$work/kernel" -name 'overlay.ko.xz' -exec xz -dc {} \; >"$work/vm/node/overlay.ko"
	rm -rf "$cache"/arm64/vm-*
	mv "$work/vm" "$vm"
fi
cp -a "$vm/node" "$work/initrd"
install -m 0755 "$here/arm64/init" "$work/initrd/init"
install -m 0755 "$cache"/arm64/bin/* "$work/initrd/usr/bin/"
samples=(hello-wat hello-c show-go http-rust)
(cd "$checkout" && "$binaries/build-guests" --samples "$work/samples" "${samples[@]}")
for name in "${samples[@]}"; do
	"$binaries/image-tar" --name "example.local/$name:1" "$work/samples/$name/app.wasm" "$work/initrd/images/$name.tar"
done
(cd "$work/initrd" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initrd.gz"

timeout --signal KILL "${VM_TIMEOUT:-600}" qemu-system-aarch64 -M virt -cpu cortex-a72 -smp 2 -m 2500 -nodefaults -display none \
	-no-reboot -kernel "$vm/vmlinuz" -initrd "$work/initrd.gz" -append "console=ttyAMA0 quiet panic=-1" \
	-serial "file:$work/console" </dev/null 9>&- >"$work/qemu" 2>&1 || {
	tail -n 40 "$work/qemu" "$work/console" >&2
	fail "the VM failed, or was stopped at its timeout of ${VM_TIMEOUT:-600} s (VM_TIMEOUT)"
}
tr -d '\r' <"$work/console" | grep -E '^(ok|FAILED|node|checks)' || true
tr -d '\r' <"$work/console" | grep -qE '^checks: [1-9][0-9]* passed, 0 failed$' || {
	tail -n 60 "$work/console" >&2
	fail "the checks failed, or did not come to their end"
}
