#!/usr/bin/env bash
# A Kubernetes cluster on this machine, of kind: one control plane and two workers, each a container with systemd in it, and
# a registry that they pull from.
# Usage: test/e2e/cluster.sh up|down [DIR]
#   up    prints how to reach it, as `export` lines; a cluster that is up stays as it is. If it fails, it has taken down
#         what it made.
#   down  removes the cluster, its network, the registry, the engine if up has started one, and DIR: nothing is left
#   DIR   its state (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm/e2e)
# In a script: trap 'test/e2e/cluster.sh down' EXIT; environment=$(test/e2e/cluster.sh up); eval "$environment"
# Environment:
#   NODE_IMAGE   the nodes' image (see node-image.sh)
#   E2E_CLUSTER  the cluster's name (default: wasm-e2e): two on one engine need two names
#   E2E_LOGS     a directory for the nodes' logs, if up fails
# The exports: KUBECONFIG, KUBECACHEDIR, PATH with docker, kind, kubectl, helm and crictl, DOCKER_HOST if the engine was
# started here, E2E_CLUSTER, E2E_ADDRESS (where the engine publishes ports), E2E_NODE_IMAGE, and E2E_REGISTRY, which images
# are pushed to; to the nodes it is registry.test.
# The first worker is as kind makes it: containerd forgets the layers of images once they are unpacked, and pulls by
# its older way. The second keeps them, and pulls by the way of most nodes.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm
say() { echo "cluster.sh: $*" >&2; }
case "$#:${1:-}" in
[12]:up | [12]:down) dir=$(realpath -m "${2:-$cache/e2e}") ;;
*)
	say "usage: cluster.sh up|down [DIR]"
	exit 2
	;;
esac

cluster=${E2E_CLUSTER:-wasm-e2e}
began=$SECONDS
step() { say "$* ($((SECONDS - began)) s)"; }
line() { printf 'export %s=%q\n' "$1" "$2"; }

up() {
	if [ -f "$dir/env" ]; then
		# shellcheck source=/dev/null
		if (eval "$(cat "$dir/env")" && timeout 30 kubectl get --raw /readyz) >/dev/null 2>&1; then
			say "the cluster in $dir is up"
			return
		fi
		say "the cluster in $dir does not answer: making it anew"
	fi
	down
	mkdir -p "$dir"
	trap failed EXIT
	trap 'exit 130' INT TERM
	create
	trap - EXIT INT TERM
}

failed() {
	trap - EXIT
	say "failed: taking down what was made"
	[ -z "${E2E_LOGS:-}" ] || kind export logs "$E2E_LOGS" --name "$cluster" >&2 || true
	down
	exit 1
}

create() {
	# down knows by these what there may be, however far this comes.
	echo "$cluster" >"$dir/cluster"
	export KUBECONFIG=$dir/kubeconfig KUBECACHEDIR=$dir/kube-cache
	local tools engine image registry
	tools=$("$here/tools.sh" "$cache")
	# What runs on must not hold the lock.
	engine=$("$here/docker.sh" start "$dir/engine" 8>&-)
	if [ -z "$engine" ]; then
		engine=$(
			[ -z "${DOCKER_HOST:-}" ] || line DOCKER_HOST "$DOCKER_HOST"
			line E2E_ADDRESS "${E2E_ADDRESS:-127.0.0.1}"
		)
	fi
	echo "$engine" >"$dir/docker"
	eval "$engine"
	export PATH=$tools:$PATH
	step "the engine runs"
	image=$("$here/node-image.sh")
	echo "$image" >"$dir/image"
	step "the engine has the nodes' image"

	local built=false
	case $image in containerd-shim-wasm-*) built=true ;; esac
	sed "s/127\.0\.0\.1/$E2E_ADDRESS/; s/disableDefaultCNI: .*/disableDefaultCNI: $built/" "$here/kind.yaml" >"$dir/kind.yaml"
	# A network of its own goes with the cluster; kind's usual one would stay.
	KIND_EXPERIMENTAL_DOCKER_NETWORK=$cluster kind create cluster --name "$cluster" --image "$image" --config "$dir/kind.yaml" \
		--kubeconfig "$KUBECONFIG" --retain >"$dir/kind.log" 2>&1 || {
		cat "$dir/kind.log" >&2
		return 1
	}
	step "kind has made the cluster"
	if $built; then
		"$here/net.sh" "$cluster"
	fi
	docker exec "$cluster-worker2" sed -i 's/discard_unpacked_layers = true/discard_unpacked_layers = false/' /etc/containerd/config.toml
	docker exec "$cluster-worker2" systemctl restart containerd
	registry=$("$here/registry.sh" "$cluster" "$image" "$E2E_ADDRESS")
	step "the registry answers"
	kubectl wait --for condition=Ready nodes --all --timeout 180s >&2
	kubectl -n kube-system rollout status deployment/coredns --timeout 180s >&2
	step "the cluster is up"

	{
		echo "$engine"
		line KUBECONFIG "$KUBECONFIG"
		line KUBECACHEDIR "$KUBECACHEDIR"
		echo "$(line PATH "$tools"):\$PATH"
		line E2E_CLUSTER "$cluster"
		line E2E_NODE_IMAGE "$image"
		line E2E_REGISTRY "$registry"
	} >"$dir/env"
}

down() {
	[ -d "$dir" ] || return 0
	if [ -f "$dir/docker" ]; then
		# shellcheck source=/dev/null
		eval "$(cat "$dir/docker")"
	fi
	if [ -f "$dir/engine/engine" ]; then
		# All of it ends with its engine.
		"$here/docker.sh" stop "$dir/engine"
	elif [ -f "$dir/cluster" ]; then
		remove "$(cat "$dir/cluster")"
	fi
	rm -rf "$dir"/{env,docker,image,cluster,kind.yaml,kind.log,kubeconfig,kubeconfig.lock,kube-cache}
	rmdir "$dir"
	step "the cluster is down"
}

# What is the cluster's in an engine that is not ours.
remove() { # CLUSTER
	local nodes image
	nodes=$(docker ps -aq --filter "label=io.x-k8s.kind.cluster=$1")
	# shellcheck disable=SC2086
	docker rm -f -v $nodes "$1-registry" >/dev/null 2>&1 || true
	docker network rm "$1" >/dev/null 2>&1 || true
	image=$(cat "$dir/image" 2>/dev/null || true)
	# One that was built here is in the cache too.
	case $image in containerd-shim-wasm-*) docker image rm "$image" >/dev/null 2>&1 || true ;; esac
}

mkdir -p "$cache"
exec 8>"$cache/e2e.lock"
flock 8
case $1 in
up)
	up >&2
	cat "$dir/env"
	;;
down) down ;;
esac
