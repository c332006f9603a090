#!/usr/bin/env bash
# The pods' network where the nodes' image was built here: on each node a pair of interfaces per pod, routes from node to node,
# and the node's address for what leaves the pods' network. kind's own image brings a network.
# Usage: test/e2e/net.sh CLUSTER   (with DOCKER_HOST, KUBECONFIG, and kind, kubectl and docker on the PATH)
set -euo pipefail

# As kind has it, unless told otherwise.
pods=10.244.0.0/16

field() { kubectl get node "$1" -o "jsonpath={$2}"; }

nodes=$(kind get nodes --name "$1")
service=$(kubectl get service kubernetes -o 'jsonpath={.spec.clusterIP}')
declare -A ranges
for node in $nodes; do
	# The controller gives a node its range a moment after the node has joined.
	range=
	for _ in $(seq 100); do
		range=$(field "$node" .spec.podCIDR)
		[ -z "$range" ] || break
		sleep 0.2
	done
	if [ -z "$range" ]; then
		echo "net.sh: node $node was given no range of addresses for pods" >&2
		exit 1
	fi
	ranges[$node]=$range
done
for node in $nodes; do
	# At each start of the node, whose interfaces are new then.
	{
		for other in $nodes; do
			address=$(field "$other" '.status.addresses[?(@.type=="InternalIP")].address')
			[ "$other" = "$node" ] || echo "ip route replace ${ranges[$other]} via $address"
		done
		echo "iptables -t nat -A POSTROUTING -s $pods ! -d $pods -j MASQUERADE"
	} | docker exec -i "$node" sh -ec 'cat >/etc/pods-network
		printf "[Service]\nType=oneshot\nExecStart=/bin/sh -e /etc/pods-network\n[Install]\nWantedBy=multi-user.target\n" \
			>/etc/systemd/system/pods-network.service
		systemctl -q enable --now pods-network'
	# A pod that asks for the API before kube-proxy has made its rules waits for 30 s before it asks again.
	for _ in $(seq 300); do
		! docker exec "$node" curl -sk -m 1 -o /dev/null "https://$service/healthz" || break
		sleep 0.2
	done
	docker exec -i "$node" sh -c 'cat >/etc/cni/net.d/10-pods.conflist' <<-JSON
		{"cniVersion": "1.0.0", "name": "pods", "plugins": [
		  {"type": "ptp", "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
		   "ranges": [[{"subnet": "${ranges[$node]}"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}
		]}
	JSON
done
