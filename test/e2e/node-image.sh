#!/usr/bin/env bash
# Gives the engine the image that the cluster's nodes run, and prints its reference. Needs DOCKER_HOST as docker.sh gives it.
# Usage: test/e2e/node-image.sh
# Environment:
#   NODE_IMAGE  its reference (kindest/node:v1.36.4). Without it, kind's own image of Kubernetes 1.36 if the engine can pull
#               it, else one built here of packages only: Debian 12 with systemd, what tools.sh builds, kind's files.
# The built one is kept as an archive in the cache, named after the hash of what it is made of; older ones are removed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm
# The release notes of kind 0.33 name it.
stock=kindest/node:v1.36.4@sha256:099e049362a1526b2db71494e1947aae99bd16290d7c895f2b7ea312e3cbfaed
# What an image of kind's has, as far as pods without special storage need it.
packages=(systemd systemd-sysv conntrack iptables nftables iproute2 ethtool util-linux mount kmod libseccomp2 pigz e2fsprogs
	bash ca-certificates curl jq procps runc socat ipset)
# What kube-proxy calls.
proxy=(iptables nftables conntrack ipset kmod)

say() { echo "node-image.sh: $*" >&2; }
fail() {
	say "$*"
	exit 1
}
has() { docker image inspect "$1" >/dev/null 2>&1; }

if [ -n "${NODE_IMAGE:-}" ]; then
	has "$NODE_IMAGE" || docker pull -q "$NODE_IMAGE" >/dev/null || fail "NODE_IMAGE is $NODE_IMAGE, which the engine neither has nor can pull"
	say "nodes run $NODE_IMAGE, as NODE_IMAGE says"
	echo "$NODE_IMAGE"
	exit 0
fi
if has "$stock" || timeout 300 docker pull -q "$stock" >/dev/null 2>&1; then
	say "nodes run $stock"
	echo "$stock"
	exit 0
fi

tools=$("$here/tools.sh" "$cache")
hash=$({ cat "$here/node-image.sh" && realpath "$tools"/* && "$tools/containerd" --version; } | sha256sum | cut -c 1-16)
image=containerd-shim-wasm-e2e-node:$hash
archive=$cache/node-image-$hash.tar
exec 9>"$cache/node-image.lock"
flock 9

# The archive is of files only; the engine makes an image of it.
load() {
	has "$image" || docker import -c 'ENV container=docker' -c 'STOPSIGNAL SIGRTMIN+3' \
		-c 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' "$archive" "$image" >/dev/null
	say "nodes run $image, which was built here: $stock could not be pulled"
	echo "$image"
}
if [ -f "$archive" ]; then
	load
	exit 0
fi
[ "$(id -u)" = 0 ] || fail "building a node image needs root: choose one that can be pulled (NODE_IMAGE)"

say "building a node image, which takes two minutes"
. "$here/../mirror.sh"
work=$(mktemp -d "$cache/.node-image.XXXXXX")
daemon=
finish() {
	[ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
root=$work/root

mirror=$(debian_mirror)
include=$(IFS=, && echo "${packages[*]}")
debootstrap --variant=minbase --include="$include" bookworm "$root" ${mirror:+"$mirror"} >"$work/log" 2>&1 9>&- || {
	tail -n 40 "$work/log" >&2
	fail "debootstrap failed"
}

# The programs of a few packages, with the libraries that they are linked to and those that they load. Of each link on the
# way to a file, too: commands such as iptables are links of alternatives.
chroot "$root" sh -c '
	name() {
		path=$(readlink -f "${1%/*}")/${1##*/}
		echo "$path"
		[ ! -L "$path" ] || case $(readlink "$path") in
		/*) name "$(readlink "$path")" ;;
		*) name "${path%/*}/$(readlink "$path")" ;;
		esac
	}
	files=$(dpkg -L "$@" | grep -E "^(/usr)?/s?bin/.|/xtables/.")
	libraries=$(ldd $files 2>/dev/null | sed -n "s/^[^/]*\(\/[^ ]*\) (0x.*/\1/p" | sort -u)
	for file in $files $libraries /usr/sbin/*tables* /etc/protocols; do name "$file"; done
	for link in /bin /sbin /lib /lib64; do [ ! -L "$link" ] || echo "$link"; done' sh "${proxy[@]}" |
	sort -u | sed 's/^\///' >"$work/list"
mkdir "$work/proxy"
tar -C "$root" --no-recursion -T "$work/list" -c | tar -C "$work/proxy" -x

# kind's own files, from the module that kind is built of.
version=v$("$tools/kind" version -q)
files=$(cd "$work" && go mod download -json "sigs.k8s.io/kind@$version" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')/images/base/files
[ -d "$files/kind" ] || fail "the module of kind $version has no images/base/files"
cp -r --no-preserve=mode,ownership "$files"/. "$root/"
chmod 755 "$root"/usr/local/bin/* "$root/kind" "$root/kind/bin" "$root"/kind/bin/*

mkdir -p "$root/opt/cni/bin" "$root/etc/cni/net.d" "$root/etc/kubernetes/manifests"
install -m 755 "$tools"/{containerd,ctr,containerd-shim-runc-v2,crictl} "$root/usr/local/bin/"
install -m 755 "$tools"/{kubelet,kubeadm,kubectl} "$root/usr/bin/"
install -m 755 "$tools"/{bridge,ptp,loopback,host-local,portmap} "$root/opt/cni/bin/"
kubernetes=$("$tools/kubelet" --version | sed 's/^Kubernetes //')
printf %s "$kubernetes" >"$root/kind/version"
# A container may be without the right to lower its processes' scores, and its pods cannot have lower ones then.
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"
# Limits of open files are the engine's. Nothing mounts the machine's identity: kind's hook for that is left out.
"$tools/ctr" oci spec | chroot "$root" jq 'del(.process.rlimits)' >"$root/etc/containerd/cri-base.json"

# In a container, systemd starts what a node needs and nothing that a machine does.
echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
rm -f "$root"/etc/systemd/system/*.wants/* "$root"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* \
	"$root"/lib/systemd/system/sockets.target.wants/*{udev,initctl}* \
	"$root/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service"
chroot "$root" systemctl -q enable kubelet.service containerd.service undo-mount-hacks.service
# It would change the machine's kernel, not the container.
chroot "$root" systemctl -q mask systemd-binfmt.service

# The images of the control plane, each a program and what it needs.
archive_image() { # NAME DIR ENTRYPOINT
	local dir=$work/image digest
	mkdir -p "$dir"
	tar -C "$2" --owner 0 --group 0 -cf "$dir/layer.tar" .
	digest=$(sha256sum "$dir/layer.tar" | cut -d ' ' -f 1)
	cat >"$dir/config.json" <<-JSON
		{"architecture": "$(go env GOARCH)", "os": "linux",
		 "config": {"Entrypoint": ["$3"], "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
		 "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]}}
	JSON
	echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$1\"], \"Layers\": [\"layer.tar\"]}]" >"$dir/manifest.json"
	tar -C "$dir" -cf "$work/images/$(basename "${1%:*}").tar" manifest.json config.json layer.tar
	rm -rf "$dir"
}
program_image() { # NAME PROGRAM PATH
	local dir=$work/program
	mkdir -p "$dir/tmp" "$dir/etc/ssl/certs" "$dir$(dirname "$3")"
	cp "$root/etc/ssl/certs/ca-certificates.crt" "$dir/etc/ssl/certs/"
	install -m 755 "$2" "$dir$3"
	archive_image "$1" "$dir" "$3"
	rm -rf "$dir"
}
mkdir "$work/images"
wanted() { # PROGRAM
	"$tools/kubeadm" config images list --kubernetes-version "$kubernetes" 2>/dev/null | grep "/$1:" || fail "kubeadm names no image of $1"
}
for program in kube-apiserver kube-controller-manager kube-scheduler etcd; do
	name=$(wanted "$program")
	program_image "$name" "$tools/$program" "/usr/local/bin/$program"
done
name=$(wanted coredns)
program_image "$name" "$tools/coredns" /coredns
echo 'int pause(void); int main(void) { for (;;) pause(); }' | gcc -Os -static -x c -o "$work/pause" -
name=$(sed -n 's/^ *sandbox_image = "\(.*\)"/\1/p' "$root/etc/containerd/config.toml")
program_image "$name" "$work/pause" /pause
name=$(wanted kube-proxy)
mkdir -p "$work/proxy/usr/local/bin" "$work/proxy/run" "$work/proxy/tmp"
install -m 755 "$tools/kube-proxy" "$work/proxy/usr/local/bin/"
archive_image "$name" "$work/proxy" /usr/local/bin/kube-proxy

# A node's containerd has them unpacked: by one of the same version, which keeps the layers as little as a node's does.
mkdir -p "$root/var/lib/containerd" "$work/run"
cat >"$work/containerd.toml" <<TOML
version = 3
root = "$root/var/lib/containerd"
state = "$work/run"
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[grpc]
  address = "$work/run/socket"
TOML
"$tools/containerd" -c "$work/containerd.toml" >"$work/containerd.log" 2>&1 9>&- &
daemon=$!
for _ in $(seq 100); do
	"$tools/ctr" -a "$work/run/socket" version >/dev/null 2>&1 && break
	sleep 0.1
done
for file in "$work"/images/*.tar; do
	"$tools/ctr" -a "$work/run/socket" -n k8s.io images import --local --discard-unpacked-layers "$file" >"$work/log" 2>&1 || {
		cat "$work/log" "$work/containerd.log" >&2
		fail "containerd does not take $(basename "$file")"
	}
done
"$tools/ctr" -a "$work/run/socket" -n k8s.io content prune references >/dev/null
kill "$daemon"
wait "$daemon" || true
daemon=

rm -rf "$root"/var/lib/containerd/tmpmounts "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
	"$root"/usr/share/{doc,man,locale,info}
tar -C "$root" --xattrs -cf "$work/archive" .
mv "$work/archive" "$archive"
for old in "$cache"/node-image-*.tar; do
	[ "$old" = "$archive" ] || rm -f "$old"
done
load
