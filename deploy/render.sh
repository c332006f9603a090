#!/usr/bin/env bash
# Renders the chart to manifests, for clusters without Helm: install.yaml, and uninstall.yaml, which is what `helm uninstall`
# runs first. A test compares those in this folder with what this script makes.
# Usage: deploy/render.sh [DIR [OPTION...]]
#   DIR     where they go (default: this folder)
#   OPTION  of `helm template`, for other values than the chart's own, for example --set image.registry=... (default: the
#           registry that the samples name, too)
# The helm of the PATH renders them, if HELM names no other.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
helm=${HELM:-helm}
dir=${1:-$here}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- --set image.registry=registry.example.com/wasm
name=containerd-shim-wasm
if ! command -v "$helm" >/dev/null; then
	echo "render.sh: helm is missing: install Helm 3.18 or newer, or: HELM=\$(test/e2e/tools.sh --helm)/helm $0" >&2
	exit 1
fi

# The version is one that the chart allows, not the cluster's: nothing in the chart depends on it.
render() { "$helm" template "$name" "$here/../charts/$name" --namespace "$name" --kube-version 1.30.0 "${options[@]}" "$@"; }

options=("$@")
{
	echo "# The chart $name, rendered by deploy/render.sh: change the chart, not this."
	echo "# kubectl apply --filename install.yaml; to take it away: see uninstall.yaml."
	cat <<END
---
apiVersion: v1
kind: Namespace
metadata:
  name: $name
  labels:
    # The installer needs folders of the node, which Pod Security's other levels forbid. Wasm pods need nothing of the kind.
    pod-security.kubernetes.io/enforce: privileged
END
	render --no-hooks
} >"$dir/.install.yaml"
{
	echo "# Takes the runtime off every node. Rendered from the chart $name by deploy/render.sh: change the chart, not this."
	echo "# kubectl apply --filename uninstall.yaml"
	echo "# kubectl --namespace $name wait job/$name-uninstall --for condition=complete --timeout 1h"
	echo "# kubectl delete --filename uninstall.yaml --filename install.yaml"
	echo "# A job that failed is waited for in vain, and says why: kubectl --namespace $name logs job/$name-uninstall"
	echo "# Delete it then, and apply this again."
	# Without the annotations of Helm's hooks, which are all that these have.
	render --show-only templates/uninstall-rbac.yaml --show-only templates/uninstall.yaml |
		sed -e '/^  annotations:$/d' -e '/^    helm\.sh\/hook/d'
} >"$dir/.uninstall.yaml"
mv "$dir/.install.yaml" "$dir/install.yaml"
mv "$dir/.uninstall.yaml" "$dir/uninstall.yaml"
