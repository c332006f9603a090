#!/usr/bin/env bash
# Makes the installer's image and those of the samples.
# Usage: images/build.sh BINARIES [NAME...]
#   BINARIES  the folder with the built wasm-node, containerd-shim-wasm-v1, build-guests and image-tar of this machine
#   NAME      an image: node, or a folder beside this (default: all)
# Environment:
#   REGISTRY   before their names (default: registry.example.com/wasm, which the samples of deploy/ name)
#   VERSION    their tag (default: the workspace's version); never `latest`
#   OUT        where contexts and tars go (default: target/images)
#   PUSH       if set, they are pushed, and named by digest; needs buildx
#   PLATFORMS  what they are for, where buildx builds them (default: this machine's). For another architecture's installer
#              OUT/node/ARCHITECTURE has to hold its two binaries.
# Each is OUT/NAME.tar then, for `ctr images import` and `kind load image-archive`, made by the project's own image-tar. What is pushed
# is built by docker with its buildx from the Dockerfiles: the same files.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
binaries=$(realpath "${1:?usage: images/build.sh BINARIES [NAME...]}")
shift
registry=${REGISTRY:-registry.example.com/wasm}
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/../Cargo.toml" | head -n 1)}
out=$(realpath -m "${OUT:-$here/../target/images}")
case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) architecture=$(uname -m) ;;
esac

say() { echo "build.sh: $*"; }
fail() {
	echo "build.sh: $*" >&2
	exit 1
}
[ "$version" != latest ] || fail "VERSION is latest, which is another image at every pull: name a version"
[ $# -gt 0 ] || set -- $(cd "$here" && ls -d */ | tr -d /)
if [ -n "${PUSH:-}" ] && ! { docker buildx version && docker info; } >/dev/null 2>&1; then
	fail "PUSH is set, and there is no docker with buildx to push with: push $out/NAME.tar by another tool, or install buildx"
fi

mkdir -p "$out/node/$architecture"
for name in "$@"; do
	[ -f "$here/$name/Dockerfile" ] || fail "there is no $here/$name/Dockerfile: expected node or a sample"
done
(cd "$here/.." && "$binaries/build-guests" --samples "$out" "$@")
install -m 0755 "$binaries/wasm-node" "$binaries/containerd-shim-wasm-v1" "$out/node/$architecture/"

for name in "$@"; do
	reference=$registry/$name:$version
	[ "$name" != node ] || reference=$registry/containerd-shim-wasm-node:$version
	if [ -n "${PUSH:-}" ]; then
		docker buildx build --quiet --platform "${PLATFORMS:-linux/$architecture}" --tag "$reference" --provenance=false --push \
			--metadata-file "$out/$name.json" --file "$here/$name/Dockerfile" "$out/$name" >/dev/null
		digest=$(sed -n 's/.*"containerimage.digest": *"\(sha256:[0-9a-f]*\)".*/\1/p' "$out/$name.json" | head -n 1)
		say "$reference is pushed: ${reference%:*}@$digest"
	elif [ "$name" = node ]; then
		files=$(mktemp -d "$out/.node.XXXXXX")
		cp "$out/node/$architecture/"* "$out/node/verify.wasm" "$files/"
		"$binaries/image-tar" --name "$reference" --linux "$architecture" --entrypoint /wasm-node "$files" "$out/$name.tar"
		rm -rf "$files"
		say "$reference is $out/$name.tar"
	else
		"$binaries/image-tar" --name "$reference" "$out/$name/app.wasm" "$out/$name.tar"
		say "$reference is $out/$name.tar"
	fi
done
