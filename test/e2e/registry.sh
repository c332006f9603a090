#!/usr/bin/env bash
# A registry in the cluster's network, from which its nodes pull as users' nodes do from theirs.
# Usage: test/e2e/registry.sh CLUSTER IMAGE [ADDRESS]   (with DOCKER_HOST, and kind and docker on the PATH)
#   IMAGE    the nodes' image: the program is the one that test/cri/registry.sh has in the cache, and runs in this
#   ADDRESS  where the engine publishes ports (default: 127.0.0.1)
# Prints ADDRESS:PORT, where images are pushed over plain HTTP. To the nodes it is registry.test: their containerd is told
# so, and nothing else resolves that name. It has no state beyond its container, CLUSTER-registry.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm
name=$1-registry

"$here/../cri/registry.sh" "$cache" >&2
docker create --name "$name" --network "$1" --publish "${3:-127.0.0.1}::5000" --entrypoint /registry/docker-registry "$2" \
	serve /registry/config.yml >/dev/null
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
cp -L "$cache/registry/docker-registry" "$files/"
cat >"$files/config.yml" <<'YAML'
version: 0.1
log: {level: info}
http: {addr: ":5000"}
storage: {filesystem: {rootdirectory: /registry/images}, delete: {enabled: true}}
YAML
chmod 755 "$files"
docker cp -q "$files" "$name:/registry"
docker start "$name" >/dev/null
address=$(docker port "$name" 5000/tcp | head -n 1)
for _ in $(seq 100); do
	answer=$(curl -s -o /dev/null -w '%{http_code}' "http://$address/v2/" || true)
	[ "$answer" != 200 ] || break
	sleep 0.1
done
if [ "$answer" != 200 ]; then
	docker logs "$name" >&2
	echo "registry.sh: the registry does not answer at $address" >&2
	exit 1
fi
for node in $(kind get nodes --name "$1"); do
	docker exec -i "$node" sh -c 'mkdir -p /etc/containerd/certs.d/registry.test && cat >/etc/containerd/certs.d/registry.test/hosts.toml' <<-TOML
		server = "http://$name:5000"
		[host."http://$name:5000"]
	TOML
done
echo "$address"
