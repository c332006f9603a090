#!/usr/bin/env bash
# Asks the API server of a cluster with the chart installed for what its accounts may do to nodes, and for what they may not: the
# admission policy and RBAC together. Changes nothing: every request is a dry run.
# Usage: test/e2e/policy.sh NAMESPACE     with kubectl, helm and KUBECONFIG of a cluster of at least two nodes
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
namespace=${1:?usage: policy.sh NAMESPACE}
name=containerd-shim-wasm
label=io.containerd.wasm.v1/node
annotation=io.containerd.wasm.v1/version
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The uninstaller's rights are there only while it runs.
uninstaller() { # apply|delete
	helm template wasm "$here/../../charts/$name" --namespace "$namespace" --set image.registry=r --kube-version 1.30.0 \
		--show-only templates/uninstall-rbac.yaml | kubectl "$1" --filename - >/dev/null
}
uninstaller apply
trap 'uninstaller delete; rm -rf "$work"' EXIT

read -r pod uid own < <(kubectl --namespace "$namespace" get pods --selector app.kubernetes.io/component=installer \
	--output 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.spec.nodeName}{"\n"}{end}') || {
	echo "policy.sh: no installer runs in $namespace" >&2
	exit 1
}
other=$(kubectl get nodes --output name | sed 's#^node/##' | grep -vx "$own" | head -n 1)
# A certificate in it would count for more than the token.
kubectl config view --raw --minify --flatten >"$work/config"
kubectl --kubeconfig "$work/config" config unset users >/dev/null
declare -A token=(
	[installer]=$(kubectl --namespace "$namespace" create token $name --bound-object-kind Pod --bound-object-name "$pod" --bound-object-uid "$uid")
	[unbound]=$(kubectl --namespace "$namespace" create token $name)
	[uninstaller]=$(kubectl --namespace "$namespace" create token $name-uninstall)
)

passed=0 failed=0
check() { # WHO NODE PATCH EXPECTED: `yes`, or a part of the refusal
	local said found=no
	said=$(kubectl --kubeconfig "$work/config" --token "${token[$1]}" patch node "$2" --type merge --patch "$3" --dry-run=server 2>&1) && found=yes
	if [ "$4" = yes ] && [ $found = yes ] || { [ "$4" != yes ] && [ $found = no ] && [[ $said == *"$4"* ]]; }; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "policy.sh: $1 on $2, $3: expected $4: $said" >&2
	fi
}
labelled() { echo "{\"metadata\":{\"labels\":{\"$label\":$1}}}"; }

own_only='changes its own node only'
for state in '"pending"' '"verified"' '"failed"' null; do
	check installer "$own" "$(labelled "$state")" yes
done
check installer "$own" "{\"metadata\":{\"annotations\":{\"$annotation\":\"0.0.0\"}}}" yes
check installer "$own" "$(labelled '"else"')" 'cannot become else'
check installer "$other" "$(labelled '"failed"')" "$own_only"
check unbound "$own" "$(labelled '"failed"')" "$own_only"
check installer "$own" '{"metadata":{"labels":{"other":"x"}}}' 'changes no label but'
check installer "$own" '{"metadata":{"labels":null}}' 'changes no label but'
check installer "$own" '{"metadata":{"annotations":{"other":"x"}}}' 'changes no annotation but'
check installer "$own" '{"metadata":{"annotations":null}}' 'changes no annotation but'
check installer "$own" '{"metadata":{"finalizers":["example.com/x"]}}' 'what a node is'
check installer "$own" '{"spec":{"unschedulable":true}}' 'what a node is'
check installer "$own" '{"spec":{"taints":[{"key":"x","effect":"NoExecute"}]}}' 'what a node is'
for node in "$own" "$other"; do
	check uninstaller "$node" "$(labelled '"pending"')" yes
	check uninstaller "$node" "{\"metadata\":{\"labels\":{\"$label\":null},\"annotations\":{\"$annotation\":null}}}" yes
	check uninstaller "$node" '{"metadata":{"labels":{"other":"x"}}}' 'changes no label but'
	check uninstaller "$node" '{"spec":{"unschedulable":true}}' 'what a node is'
done
# Not `verified`, which both may be already.
check uninstaller "$other" "$(labelled '"failed"')" 'cannot become failed'
echo "$passed passed, $failed failed"
[ $failed = 0 ]
