#!/usr/bin/env bash
# Runs the integration tests, and those of pods, on a node as users have them: Debian 12 with systemd, one cgroup hierarchy (version 2) and
# AppArmor, in a virtual machine under software emulation, with containerd 2.4.
# Usage: test/vm.sh [ARGUMENT...]
#   ARGUMENT  what the test binaries take: a filter (v2_4::lifecycle), --skip NAME, --exact, --test-threads N.
#             Without any, all run but those that this node decides nothing about, which are among the slowest under
#             emulation; `test/vm.sh v2_4` runs them too.
# Environment:
#   VM_LOGS     a directory to keep the logs in: console, suite (its output), log/journal, log/dmesg
#   VM_TIMEOUT  seconds that the whole run may take (default 1200)
#   VM_ACCEL    tcg (default) or kvm
# Fails if a test does, if libtest's closing line is missing, if the VM does not start, and at the timeout.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm
limit=${VM_TIMEOUT:-1200}
accel=${VM_ACCEL:-tcg}
# Boot takes about 20 s under emulation on an idle machine.
boot_limit=240

# What images, spec and cache must be like, and what takes minutes under emulation for its amount of work.
elsewhere=(v2_4::cache:: v2_4::refusals:: v2_4::images:: v2_4::output::a_go_program
	v2_4::exports:: v2_4::wasi3:: v2_4::http:: v2_4::sockets:: v2_4::load:: v2_4::network::
	v2_4::loggers:: v2_4::deaths:: v2_4::disks:: v2_4::restarts:: v2_4::upgrade::
	v2_4::profiles::calls_ v2_4::profiles::arguments_ v2_4::profiles::the_default_ v2_4::profiles::seccomp_
	v2_4::profiles::a_call_ v2_4::profiles::a_list_
	v2_4::lifecycle::a_create_given_up_leaves_no_half_state
	v2_4::leftovers::nothing_after_the_shim_was_killed_while_compiling
	v2_4::leftovers::nothing_after_two_hundred_cycles)
# Of pods, what cgroups and systemd have a part in.
elsewhere_of_pods=(v2_4::annotations:: v2_4::churn:: v2_4::images:: v2_4::lifecycle:: v2_4::logs:: v2_4::mounts::
	v2_4::restarts:: v2_4::security::)
of_pods=("$@")
if [ $# = 0 ]; then
	for name in "${elsewhere[@]}"; do
		set -- "$@" --skip "$name"
	done
	for name in "${elsewhere_of_pods[@]}"; do
		of_pods+=(--skip "$name")
	done
fi

say() { echo "vm.sh: $*"; }
fail() {
	echo "vm.sh: $*" >&2
	exit 1
}

case $accel in
tcg) accel=tcg,thread=multi cpu=max ;;
kvm) cpu=host ;;
*) fail "unknown VM_ACCEL '$accel': expected tcg or kvm" ;;
esac

[ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m): the VM runs the binaries built here, and is amd64 only"
test/containerd.sh "$cache" 2.4
test/wasm-rust.sh "$cache" >/dev/null
crictl=$(test/cri/tools.sh "$cache")
disk=$(test/vm/disk.sh "$cache")

work=$(mktemp -d)
qemu=
finish() {
	if [ -n "$qemu" ]; then
		kill -KILL "$qemu" 2>/dev/null || true
		wait "$qemu" 2>/dev/null || true
	fi
	if [ -n "${VM_LOGS:-}" ]; then
		mkdir -p "$VM_LOGS"
		cp -r "$work"/console "$work"/suite "$work"/log "$VM_LOGS" 2>/dev/null || true
	fi
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Builds what is not built, and says where it is.
targets=$work/targets
cargo test --release --locked --workspace --no-run --message-format json >"$targets"
built() { # KIND NAME HARNESS: a program has a second executable, with its unit tests
	sed -n "s/.*\"kind\":\[\"$1\"\].*\"name\":\"$2\".*\"profile\":{[^}]*\"test\":$3}.*\"executable\":\"\([^\"]*\)\".*/\1/p" "$targets"
}
shim=$(built bin containerd-shim-wasm-v1 false)
tests=$(built test containerd true)
tests_of_pods=$(built test cri true)
guests=$(built bin build-guests false)
for file in "$shim" "$tests" "$tests_of_pods" "$guests"; do
	[ -x "$file" ] || fail "cargo names no executable for the shim, its tests or build-guests"
done

payload=$work/payload
mkdir -p "$payload/bin" "$payload/guests" "$payload/log" "$payload/crictl" "$payload/cache/containerd-shim-wasm/containerd-2.4"
cp test/vm/run "$payload/run"
cp "$shim" "$payload/bin/containerd-shim-wasm-v1"
cp "$tests" "$payload/bin/containerd-tests"
cp "$tests_of_pods" "$payload/bin/cri-tests"
cp "$crictl/crictl" "$crictl/crictl.yaml" "$payload/crictl"
cp -r "$cache/containerd-2.4/bin" "$payload/cache/containerd-shim-wasm/containerd-2.4/bin"
"$guests" "$payload/guests"
versions=(--skip v1_6:: --skip v1_7:: --skip v2_1:: --skip v2_3::)
printf '%s\0' --color never "${versions[@]}" "$@" >"$payload/arguments-containerd"
printf '%s\0' --color never "${versions[@]}" "${of_pods[@]}" >"$payload/arguments-cri"
truncate -s 640M "$work/payload.disk"
mke2fs -q -t ext4 -L payload -E root_owner=0:0 -d "$payload" "$work/payload.disk"
rm -rf "$payload"

started=$SECONDS
: >"$work/suite"
# The disk stays as it is (snapshot): what the VM writes to it is in a file without a name.
TMPDIR=$work qemu-system-x86_64 -accel "$accel" -cpu "$cpu" -smp 2 -m 3072 -nodefaults -display none -no-reboot \
	-kernel "$disk/vmlinuz" -initrd "$disk/initrd" \
	-append "root=/dev/vda rw console=ttyS0 panic=-1 loglevel=5 mitigations=off" \
	-drive "file=$disk/disk,format=raw,if=virtio,snapshot=on,cache=unsafe" \
	-drive "file=$work/payload.disk,format=raw,if=virtio,cache=unsafe" \
	-serial "file:$work/console" \
	-device virtio-serial-pci -chardev "file,id=suite,path=$work/suite" -device virtserialport,chardev=suite,name=suite \
	-device virtio-rng-pci </dev/null >"$work/qemu" 2>&1 &
qemu=$!

running() { kill -0 "$qemu" 2>/dev/null; }
passed() { echo $((SECONDS - started)); }
tail -n +1 -f --pid="$qemu" "$work/suite" &
follow=$!
why=
while running; do
	if [ "$(passed)" -gt "$limit" ]; then
		why="the run was stopped at its timeout of $limit s (VM_TIMEOUT)"
	elif [ ! -s "$work/suite" ] && [ "$(passed)" -gt "$boot_limit" ]; then
		why="the VM did not start the suite within $boot_limit s"
	fi
	if [ -n "$why" ]; then
		kill -KILL "$qemu"
		break
	fi
	sleep 1
done
wait "$qemu" 2>/dev/null || [ -n "$why" ] || why="qemu failed: $(cat "$work/qemu")"
qemu=
wait "$follow" || true
debugfs -R "rdump /log $work" "$work/payload.disk" >/dev/null 2>&1 || true

status=$(sed -n 's/^vm: exit status //p' "$work/suite" | tail -n 1)
if grep -q 'Kernel panic' "$work/console"; then
	why="the VM's kernel panicked"
elif [ -z "$why" ] && [ -z "$status" ]; then
	why="the VM ended without the suite's exit status"
fi
if [ -n "$why" ]; then
	tail -n 40 "$work/console" >&2
	fail "$why; above is the end of its console"
fi
[ "$status" = 0 ] || fail "the suite failed with exit status $status after $(passed) s; VM_LOGS=DIR keeps the logs"
grep -q '^test result: ok\. [1-9]' "$work/suite" || fail "the suite left without a closing line, or ran no test"
say "passed in $(passed) s"
