#!/usr/bin/env bash
# An engine for the tests' cluster: the Docker that runs on this machine, or, where none does, one of its own.
# Usage: test/e2e/docker.sh start|stop DIR
#   start  prints the environment to reach the engine by, as `export` lines: none where Docker runs already
#   stop   ends the engine that start has started, and removes all that it left; no other
#   DIR    its state, on a disk and with a path of up to 60 bytes (for its sockets); images and containers are in it
# The engine is Debian 13's, unpacked into the cache: version 26, which needs no CAP_SYS_RESOURCE as that of Debian 12 does.
# It has a network, mounts and processes of its own, in namespaces: the machine's firewall and routes stay as they are, and
# with its first process all of it ends. The machine reaches it over one pair of interfaces, wasm-e2e-N; nothing leads further.
# `State.Pid` of `docker inspect` counts from its own first process: use `docker exec` rather than nsenter.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm
say() { echo "docker.sh: $*" >&2; }
fail() {
	say "$*"
	exit 1
}
case "$#:${1:-}" in
2:start | 2:stop | 3:inside) dir=$(realpath -m "$2") name=${3:-} ;;
*)
	say "usage: docker.sh start|stop DIR"
	exit 2
	;;
esac
[ ${#dir} -le 60 ] || fail "the path $dir is too long for sockets: choose one of up to 60 bytes"
docker=$cache/docker-26
# What kubelets and systemd in nodes set of the one kernel that there is, and the watches of files, of which a cluster has 50.
kernel=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/pid_max kernel/keys/root_maxkeys
	kernel/keys/root_maxbytes fs/inotify/max_user_instances fs/protected_fifos fs/protected_regular fs/protected_hardlinks fs/protected_symlinks)
mkdir -p "$cache"

. "$here/../mirror.sh"
# Runs what follows until it succeeds.
await() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}

fetch() {
	exec 9>"$cache/docker.lock"
	flock 9
	if [ ! -x "$docker/docker" ]; then
		[ -n "$(debian_mirror)" ] || fail "no Docker runs here, and there is no Debian mirror to take one from: install and start Docker"
		say "fetching Docker from Debian trixie into $docker"
		local work
		work=$(mktemp -d "$cache/.docker.XXXXXX")
		debian_unpack trixie "$work" docker.io docker-cli >&2
		mv "$work"/root/usr/sbin/{dockerd,docker-proxy} "$work/root/usr/bin/docker" "$work"
		rm -rf "$work/root"
		chmod 755 "$work"
		rm -rf "$docker"
		mv "$work" "$docker"
	fi
	exec 9>&-
	"$here/../containerd.sh" "$cache" 1.7 >&2
}

# The process of the record, and not another that has its number by now.
running() {
	[ -f "$dir/engine" ] || return 1
	read -r pid since name <"$dir/engine"
	[ "$(started "$pid")" = "$since" ]
}
# When a process was started, in ticks since boot. Nothing for one that has ended.
started() { # PID
	sed -n 's/^.*) [^ZX] \([^ ]* \)\{18\}\([0-9]*\) .*/\2/p' "/proc/$1/stat" 2>/dev/null || true
}
cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name "$name" 2>/dev/null || true; }
interface() { [ -e "/sys/class/net/$name" ]; }
number() { echo "${name##*-}"; }
answers() { DOCKER_HOST=unix://$dir/docker.sock timeout 10 "$docker/docker" info >/dev/null 2>&1; }

# The first process of the engine's own namespaces: it reaps whatever it is left.
inside() {
	# Shims and plugins have their sockets there whatever the state directory.
	mount -t tmpfs -o mode=0711 tmpfs /run/containerd
	mount -t tmpfs tmpfs /run/docker
	await 10 ip link set up dev outside
	ip link set up dev lo
	ip address add "198.18.$(number).2/30" dev outside
	# What would lead out is refused, not lost: a lookup of a foreign name took 16 s. Docker keeps rules of this chain.
	local host=198.18.$(number).1 chain
	ip route add default via "$host"
	echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
	iptables -N DOCKER-USER
	for chain in DOCKER-USER OUTPUT; do
		iptables -A "$chain" -o outside ! -d "$host" -p tcp -j REJECT --reject-with tcp-reset
		iptables -A "$chain" -o outside ! -d "$host" -j REJECT
	done
	PATH=$docker:$cache/containerd-1.7/bin:$PATH dockerd --config-file "$dir/daemon.json" &
	wait "$!"
}

start() {
	if ! running; then
		if DOCKER_HOST=$(other) timeout 20 docker info >/dev/null 2>&1; then
			say "using the Docker that runs here"
			return
		fi
		stop
		[ "$(id -u)" = 0 ] || fail "no Docker runs here, and starting one needs root: start Docker, or run this as root"
		fetch
		mkdir -p "$dir"
		keep_machine
		launch
	fi
	if ! await 60 answers; then
		tail -n 20 "$dir/log" >&2
		stop
		fail "the engine did not answer within 60 s"
	fi
	printf 'export DOCKER_HOST=%q\nexport PATH=%q:$PATH\nexport E2E_ADDRESS=%q\n' \
		"unix://$dir/docker.sock" "$docker" "198.18.$(number).2"
}

# What engines change of the machine is as before the first of them again after the last.
engines() { compgen -G '/sys/class/net/wasm-e2e-*' >/dev/null; }
keep_machine() {
	local path
	if [ ! -f "$cache/e2e-kernel" ]; then
		(cd /proc/sys && grep -s . "${kernel[@]}" >"$cache/e2e-kernel") || true
	fi
	# An engine mounts something on these, or mounts them into nodes.
	for path in /run/containerd /run/docker /lib/modules; do
		[ -d "$path" ] || { mkdir "$path" && echo "$path" >>"$cache/e2e-made"; }
	done
	[ "$(cat /proc/sys/fs/inotify/max_user_instances)" -ge 1024 ] || echo 1024 >/proc/sys/fs/inotify/max_user_instances
}
restore_machine() {
	local key value
	! engines || return 0
	if [ -f "$cache/e2e-kernel" ]; then
		while IFS=: read -r key value; do
			[ "$(cat "/proc/sys/$key")" = "$value" ] || echo "$value" >"/proc/sys/$key"
		done <"$cache/e2e-kernel"
	fi
	[ ! -f "$cache/e2e-made" ] || xargs -r rmdir --ignore-fail-on-non-empty <"$cache/e2e-made"
	rm -f "$cache/e2e-kernel" "$cache/e2e-made"
}

# DOCKER_HOST of an earlier run of ours says nothing about the machine's Docker.
other() { [ "${DOCKER_HOST:-}" = "unix://$dir/docker.sock" ] || echo "${DOCKER_HOST:-}"; }

launch() {
	# The name of the interface, which only one can have, is that of the cgroup too.
	local n
	for n in $(seq 0 255); do
		name=wasm-e2e-$n
		! interface && [ -z "$(cgroups)" ] || continue
		cat >"$dir/daemon.json" <<-JSON
			{
			  "hosts": ["unix://$dir/docker.sock"], "pidfile": "$dir/docker.pid",
			  "data-root": "$dir/data", "exec-root": "$dir/exec",
			  "cgroup-parent": "/$name", "exec-opts": ["native.cgroupdriver=cgroupfs"]
			}
		JSON
		# A copy of the machine's mounts must not hold those that the machine gives up: hence slave.
		setsid unshare --mount --propagation slave --net --pid --fork --kill-child --mount-proc \
			"$here/docker.sh" inside "$dir" "$name" </dev/null >"$dir/log" 2>&1 9>&- &
		pid=$!
		echo "$pid $(started "$pid") $name" >"$dir/engine"
		await 10 own_network || true
		if ip link add "$name" type veth peer name outside netns "$pid"; then
			ip address add "198.18.$n.1/30" dev "$name"
			ip link set up dev "$name"
			say "started Docker in $dir, at 198.18.$n.2"
			return
		fi
		kill -KILL "$pid"
	done
	fail "no interface name wasm-e2e-N is free"
}
own_network() { [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }

stop() {
	[ -f "$dir/engine" ] || return 0
	if running; then
		# What is frozen does not die.
		local group
		for group in $(cgroups); do
			find "$group" -name freezer.state -exec sh -c 'for f; do echo THAWED >"$f"; done' sh {} + 2>/dev/null || true
			find "$group" -name cgroup.freeze -exec sh -c 'for f; do echo 0 >"$f"; done' sh {} + 2>/dev/null || true
		done
		kill -KILL "$pid" 2>/dev/null || true
		ended() { ! running; }
		await 30 ended || fail "process $pid of the engine does not end"
		say "stopped Docker in $dir"
	fi
	await 30 gone || fail "left behind: $(cgroups | tr '\n' ' ')$(interface && echo "interface $name")"
	restore_machine
	rm -rf "$dir"/{data,exec} "$dir"/{docker.sock,docker.pid,daemon.json,log,engine}
	rmdir --ignore-fail-on-non-empty "$dir"
}
# The kernel takes a moment for the processes of the namespace, and for its interfaces.
gone() {
	local group
	for group in $(cgroups); do
		find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
	done
	[ -z "$(cgroups)" ] && ! interface
}

"$1"
