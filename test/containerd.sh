#!/usr/bin/env bash
# Fetches the versions of containerd that the tests and the demo run against, once, into a cache outside the checkout.
# Usage: test/containerd.sh [DIR [VERSION...]]
#   DIR      the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm)
#   VERSION  1.6, 1.7, 2.1, 2.3 or 2.4 (default: these), or system: what the machine's own distribution has
# Each version ends up in DIR/containerd-VERSION/bin, complete or not at all.
# 1.6, 1.7 and 2.1 are Debian bookworm's, trixie's and sid's packages, unpacked; where the machine has no Debian mirror in its
# apt sources (Ubuntu), where sid has gone on to another line, and for 2.3 and 2.4 everywhere, they are built with Go from
# the module proxy.
# CONTAINERD_FROM=go builds all of them with Go.
set -euo pipefail

cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- 1.6 1.7 2.1 2.3 2.4

# The releases that are built with Go.
declare -A release=([1.6]=v1.6.38 [1.7]=v1.7.27 [2.1]=v2.1.9 [2.3]=v2.3.7 [2.4]=v2.4.2)
declare -A suite=([1.6]=bookworm [1.7]=trixie [2.1]=sid)

say() { echo "containerd.sh: $*"; }
fail() {
	echo "containerd.sh: $*" >&2
	exit 1
}

. "$(dirname "$0")/mirror.sh"

# Fails if the suite has another line by now.
debian_package() { # VERSION DIR
	debian_unpack "${suite[$1]}" "$2" containerd
	mv "$2/root/usr/bin" "$2/bin"
	rm -rf "$2/root"
	case $("$2/bin/containerd" --version) in *" $1."* | *" v$1."*) ;; *) rm -rf "$2/bin" && return 1 ;; esac
}

# The package of the machine's own sources, unpacked and not installed.
system_package() { # DIR
	(cd "$1" && apt-get -q -o APT::Sandbox::User=root download containerd) ||
		(apt-get -q update && cd "$1" && apt-get -q -o APT::Sandbox::User=root download containerd)
	dpkg-deb -x "$1"/containerd_*.deb "$1/root"
	mv "$1/root/usr/bin" "$1/bin"
	rm -rf "$1/root" "$1"/containerd_*.deb
}

need_go() {
	command -v go >/dev/null || fail "go is missing: install Go 1.26 or newer to build containerd $1"
}

from_go() { # VERSION DIR
	need_go "$1"
	say "building $1 (${release[$1]}) with Go"
	case $1 in 1.*) go_build_module "$@" ;; *) go_install "$@" ;; esac
}

# containerd 1.x has `replace` lines in its go.mod, which `go install` refuses: build in a copy of the module.
go_build_module() { # VERSION DIR
	local module
	module=$(cd "$2" && go mod download -json "github.com/containerd/containerd@${release[$1]}" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	[ -d "$module" ] || fail "the module proxy has no containerd ${release[$1]}"
	cp -r "$module" "$2/src"
	chmod -R u+w "$2/src"
	local stamp="-X github.com/containerd/containerd/version.Version=${release[$1]}"
	(cd "$2/src" && CGO_ENABLED=0 go build -trimpath -tags no_btrfs,no_devmapper,no_zfs -ldflags "-s -w $stamp" -o "$2/bin/" \
		./cmd/containerd ./cmd/ctr ./cmd/containerd-shim-runc-v2)
	rm -rf "$2/src"
}

go_install() { # VERSION DIR
	local stamp="-X github.com/containerd/containerd/v2/version.Version=${release[$1]}"
	mkdir -p "$2/bin"
	GOBIN=$2/bin CGO_ENABLED=0 go install -trimpath -tags no_btrfs,no_devmapper,no_zfs -ldflags "-s -w $stamp" \
		"github.com/containerd/containerd/v2/cmd/containerd@${release[$1]}" \
		"github.com/containerd/containerd/v2/cmd/ctr@${release[$1]}" \
		"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@${release[$1]}"
}

mkdir -p "$cache"
exec 9>"$cache/containerd.lock"
flock 9
for version in "$@"; do
	target=$cache/containerd-$version
	if [ -x "$target/bin/containerd" ] && [ -x "$target/bin/ctr" ] && [ -x "$target/bin/containerd-shim-runc-v2" ]; then
		say "$version is in $target"
		continue
	fi
	[ "$version" = system ] || [ -n "${release[$version]:-}" ] || fail "unknown version $version: expected system or one of ${!release[*]}"
	work=$(mktemp -d "$cache/.containerd-$version.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	if [ "$version" = system ]; then
		say "fetching this distribution's package"
		system_package "$work"
	elif [ "${CONTAINERD_FROM:-}" != go ] && [ -n "${suite[$version]:-}" ] && [ -n "$(debian_mirror)" ]; then
		say "fetching $version from Debian ${suite[$version]}"
		debian_package "$version" "$work" || from_go "$version" "$work"
	else
		from_go "$version" "$work"
	fi
	"$work/bin/containerd" --version
	chmod 755 "$work"
	rm -rf "$target"
	mv "$work" "$target"
	trap - EXIT
	say "$version is in $target"
done
