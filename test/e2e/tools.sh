#!/usr/bin/env bash
# Builds what a real Kubernetes cluster on one machine is made of, once, into the cache outside the checkout: kubelet,
# kubeadm, kubectl and the control plane, etcd, CoreDNS, the CNI plugins, kind and helm, all with Go from the module proxy.
# containerd and crictl are those that the other tests have. Needs Go 1.26, 10 GB on the way and a quarter of an hour on two cores.
# Usage: test/e2e/tools.sh [--helm] [DIR]
#   --helm  helm only, which `make test` checks the chart with
#   DIR     the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm)
# The folder is named after the hash of what it is built from; older ones are removed. Prints it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
only=
if [ "${1:-}" = --helm ]; then
	only=helm
	shift
fi
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm}

kind=v0.33.0
helm=v3.21.4
kubernetes=$(sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' "$here/tools/kubernetes/go.mod")
flags=(-mod=readonly -trimpath -ldflags)

say() { echo "tools.sh: $*" >&2; }
if [ -z "$kubernetes" ]; then
	say "tools/kubernetes/go.mod names no version of k8s.io/kubernetes"
	exit 1
fi

hash=$({ cat "$here"/tools/{kubernetes,node}/go.{mod,sum} && echo "$kind ${flags[*]}"; } | sha256sum | cut -c 1-16)
target=$cache/kind-tools-$hash
helm_target=$cache/helm-$helm
mkdir -p "$cache"
have() { # DIR FILE...
	local dir=$1 file
	shift
	for file in "$@"; do
		[ -x "$dir/$file" ] || return 1
	done
}

if [ "$only" = helm ] && have "$helm_target" helm; then
	# Not behind somebody who builds the rest.
	echo "$helm_target"
	exit 0
fi
exec 9>"$cache/kind-tools.lock"
flock 9
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Go's own build cache grows by 6 GB for these, which nothing needs again: it is of this run.
begin() { # WHAT
	if ! command -v go >/dev/null; then
		say "go is missing: install Go 1.26 or newer to build $1"
		exit 1
	fi
	if [ -z "$work" ]; then
		work=$(mktemp -d "$cache/.kind-tools.XXXXXX")
		export GOCACHE=$work/cache GOTMPDIR=$work/tmp GOBIN=$work/bin CGO_ENABLED=0
		# The compiler collects less of its garbage: it is done soon, and the machine has memory.
		export GOGC=400
		mkdir "$GOTMPDIR" "$GOBIN"
	fi
	say "building $1"
}

finish() { # DIR FILE...
	local to=$1
	shift
	mkdir -p "$to"
	(cd "$work/bin" && mv "$@" "$to/")
}

control=(kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
node=(bridge ptp loopback host-local portmap coredns etcd)
if ! have "$helm_target" helm; then
	begin "helm $helm"
	go install -trimpath -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$helm" "helm.sh/helm/v3/cmd/helm@$helm"
	finish "$helm_target" helm
fi
for old in "$cache"/helm-*/; do
	old=${old%/}
	[ "$old" = "$helm_target" ] || rm -rf "$old"
done
if [ "$only" = helm ]; then
	echo "$helm_target"
	exit 0
fi

if ! have "$target" kind; then
	begin "kind $kind"
	go install -trimpath -ldflags '-s -w' "sigs.k8s.io/kind@$kind"
	finish "$target" kind
fi
if ! have "$target" "${node[@]}"; then
	begin "etcd, CoreDNS and the CNI plugins"
	(cd "$here/tools/node" && go build "${flags[@]}" '-s -w' -o "$work/bin/" tool)
	mv "$work/bin/server" "$work/bin/etcd"
	finish "$target" "${node[@]}"
fi
if ! have "$target" "${control[@]}"; then
	begin "Kubernetes $kubernetes, which takes ten minutes on two cores"
	# kubeadm compares what the components say of themselves.
	number=${kubernetes#v}
	stamp=
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		stamp="$stamp -X $package.gitVersion=$kubernetes -X $package.gitMajor=${number%%.*} -X $package.gitMinor=$(echo "$number" | cut -d . -f 2)"
	done
	(cd "$here/tools/kubernetes" && go build "${flags[@]}" "-s -w$stamp" -o "$work/bin/" tool)
	finish "$target" "${control[@]}"
fi

# What other scripts have in the cache is beside the rest by name.
"$here/../containerd.sh" "$cache" 2.3 >&2
crictl=$("$here/../cri/tools.sh" "$cache")
ln -sfn "$cache/containerd-2.3/bin/"{containerd,ctr,containerd-shim-runc-v2} "$crictl/crictl" "$helm_target/helm" "$target/"
for old in "$cache"/kind-tools-*/; do
	old=${old%/}
	[ "$old" = "$target" ] || rm -rf "$old"
done
echo "$target"
