#!/usr/bin/env bash
# Makes the disk that test/vm.sh boots, once, in a cache outside the checkout: Debian 12 with systemd, a kernel with
# AppArmor, and a unit that runs what the payload disk brings. Prints its directory, with disk, vmlinuz and initrd in it.
# Usage: test/vm/disk.sh [DIR]
#   DIR  the cache (default: ${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm)
# The directory is named after the hash of this file, and is there complete or not at all; older ones are removed.
set -euo pipefail

cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm}
here=$(cd "$(dirname "$0")" && pwd)

# What the tests call beside the shim and containerd: setpriv, nsenter, umount (util-linux, mount), hostname, busybox
# as a Linux program in an image, runc, apparmor_parser, the network of pods.
packages=(systemd systemd-sysv dbus udev linux-image-cloud-amd64 initramfs-tools kmod curl
	apparmor iproute2 procps mount util-linux hostname busybox-static runc
	containernetworking-plugins)

. "$here/../mirror.sh"
hash=$(sha256sum "$here/disk.sh" | cut -c 1-16)
target=$cache/vm-$hash
mkdir -p "$cache"
exec 9>"$cache/vm.lock"
flock 9
if [ -f "$target/disk" ] && [ -f "$target/vmlinuz" ] && [ -f "$target/initrd" ]; then
	echo "$target"
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "disk.sh: debootstrap needs root" >&2
	exit 1
fi

work=$(mktemp -d "$cache/.vm-$hash.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
echo "disk.sh: making the VM's disk in $target" >&2
mirror=$(debian_mirror)
include=$(IFS=, && echo "${packages[*]}")
debootstrap --variant=minbase --include="$include" bookworm "$root" ${mirror:+"$mirror"} >"$work/log" 2>&1 9>&- || {
	tail -n 40 "$work/log" "$root/debootstrap/debootstrap.log" >&2 || true
	echo "disk.sh: debootstrap failed" >&2
	exit 1
}

# The suite has a port of its own (/dev/virtio-ports/suite), so that the console's messages do not end up in its lines.
cat >"$root/etc/systemd/system/payload.service" <<'UNIT'
[Unit]
Description=What the payload disk brings
After=basic.target dbus.service
Wants=dbus.service
RequiresMountsFor=/payload
[Service]
Type=oneshot
ExecStart=/payload/run
StandardOutput=journal+console
# The host reads the logs from a clean filesystem; nothing else needs an orderly end.
ExecStopPost=-/usr/bin/umount /payload
ExecStopPost=/usr/bin/systemctl poweroff --force --force
# containerd and its shims are in cgroups of their own below this one's.
Delegate=yes
TimeoutStartSec=infinity
TasksMax=infinity
[Install]
WantedBy=multi-user.target
UNIT
mkdir "$root/payload"
printf '%s\n' '/dev/vda / ext4 defaults,noatime 0 0' 'LABEL=payload /payload ext4 defaults,noatime 0 0' >"$root/etc/fstab"
echo wasm-vm >"$root/etc/hostname"
: >"$root/etc/machine-id"
chroot "$root" systemctl -q enable payload.service
# Compiling Debian's own AppArmor profiles takes most of a minute under emulation; cases bring their own.
chroot "$root" systemctl -q mask apparmor.service getty@tty1.service serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-pcrphase.service \
	systemd-update-utmp.service ifupdown.service 2>>"$work/log"
cp -L "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp -L "$root"/boot/initrd.img-* "$work/initrd"
rm -rf "$root"/boot/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/locale
truncate -s 3G "$work/disk"
mke2fs -q -t ext4 -L root -E root_owner=0:0 -d "$root" "$work/disk"
rm -rf "$root" "$work/log"

chmod 755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
# A VM that runs has its files open.
for old in "$cache"/vm-*/; do
	old=${old%/}
	[ "$old" = "$target" ] || rm -rf "$old"
done
echo "$target"
