#!/usr/bin/env bash
# Runs the sample images on a private containerd with the given shim and shows what a container sees.
# Usage: test/demo.sh PATH/containerd-shim-wasm-v1     (as root; everything it starts is stopped at the end)
set -euo pipefail
cd "$(dirname "$0")/.."

shim=$(realpath "${1:?usage: demo.sh PATH/containerd-shim-wasm-v1}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm

if [ "$(id -u)" != 0 ]; then
	echo "demo.sh: containers need root: run it with sudo" >&2
	exit 1
fi
test/deps.sh demo

# The first that is there already; else the package of this distribution, which is the quickest to get.
bin=
for version in 2.4 1.7 1.6 system; do
	[ -z "$bin" ] && [ -x "$cache/containerd-$version/bin/ctr" ] && bin=$cache/containerd-$version/bin
done
if [ -z "$bin" ]; then
	test/containerd.sh "$cache" system
	bin=$cache/containerd-system/bin
fi

# Short, because sockets below it have paths of at most 107 bytes.
dir=$(mktemp -d /tmp/demo.XXXXXX)
daemon=
ctr() { "$bin/ctr" --address "$dir/c.sock" --namespace demo "$@"; }
stop() {
	if [ -n "$daemon" ]; then
		for id in $(ctr containers list -q 2>/dev/null); do
			ctr tasks delete --force "$id" >/dev/null 2>&1 || true
			ctr containers delete "$id" >/dev/null 2>&1 || true
		done
		kill "$daemon" 2>/dev/null || true
		wait "$daemon" 2>/dev/null || true
	fi
	rm -rf "$dir"
}
trap stop EXIT

# Not below /tmp, which may be mounted noexec: code is mapped from it. Kept, as a node keeps its own.
compiled=$cache/demo-compiled
mkdir "$dir/fifo" "$dir/volume"
format=2
case $("$bin/containerd" --version) in *" v2."* | *" 2."*) format=3 ;; esac
cat >"$dir/config.toml" <<END
version = $format
root = "$dir/root"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
address = "$dir/c.sock"
[ttrpc]
address = "$dir/c.sock.ttrpc"
END
if [ "$format" = 3 ]; then
	# Otherwise it tells shims to put their sockets into the node's own directory.
	printf '[plugins."io.containerd.shim.v1.manager"]\nsocket_dir = "%s"\n' "$dir/s" >>"$dir/config.toml"
fi
printf '[cache]\ndir = "%s"\n' "$compiled" >"$dir/operator.toml"

echo "== $("$bin/containerd" --version)"
PATH=$(dirname "$shim"):$bin:$PATH "$bin/containerd" --config "$dir/config.toml" 2>"$dir/log" &
daemon=$!
deadline=$((SECONDS + 30))
until ctr version >/dev/null 2>&1; do
	if [ $SECONDS -ge $deadline ] || ! kill -0 "$daemon" 2>/dev/null; then
		echo "demo.sh: containerd does not answer:" >&2
		tail -n 20 "$dir/log" >&2
		exit 1
	fi
done

echo "== building images from images/hello and images/notes"
# Built with the shim, in the same place.
tar() { "$(dirname "$shim")/image-tar" "$@"; }
clang --target=wasm32-wasi -O2 -o "$dir/notes.wasm" images/notes/notes.c
tar --name example.local/hello:1 images/hello/hello.wat "$dir/hello.tar"
tar --name example.local/notes:1 "$dir/notes.wasm" "$dir/notes.tar"
for image in hello notes; do ctr images import "$dir/$image.tar"; done

# What a user types, shown and run; EXPECTED is the exit code it must have.
run() { # EXPECTED ctr-run-arguments...
	local expected=$1 code=0
	shift
	echo
	echo "\$ ctr run --rm --runtime io.containerd.wasm.v1 $*" | sed "s#$dir#/tmp/demo#g"
	ctr run --rm --runtime io.containerd.wasm.v1 --runtime-config-path "$dir/operator.toml" \
		--fifo-dir "$dir/fifo" "$@" </dev/null || code=$?
	echo "exit code $code"
	if [ "$code" != "$expected" ]; then
		echo "demo.sh: expected exit code $expected; the log:" >&2
		tail -n 40 "$dir/log" >&2
		exit 1
	fi
}

echo "a note from the node" >"$dir/volume/note.txt"
volume="type=bind,src=$dir/volume,dst=/notes"
run 0 example.local/hello:1 hello
run 0 --env WHO=containerd example.local/notes:1 greet /notes.wasm hello
run 7 example.local/notes:1 leave /notes.wasm exit 7
run 0 --mount "$volume,options=rbind:ro" example.local/notes:1 reader /notes.wasm read /notes/note.txt
run 1 --mount "$volume,options=rbind:ro" example.local/notes:1 refused /notes.wasm write /notes/note.txt changed
run 0 --mount "$volume,options=rbind:rw" example.local/notes:1 writer /notes.wasm write /notes/reply.txt "from the guest"
echo
echo "== on the node: $(cat "$dir/volume/reply.txt"); note.txt still says: $(cat "$dir/volume/note.txt")"
echo "== stopping"
