#!/bin/sh
# Boots the systemd of this machine as pid 1 of namespaces of its own: `boot.sh DIRECTORY PROGRAM [writable]`, run by
# tests/it/support and scripts/deb-check.sh as root in new mount, pid, cgroup, ipc, uts and network namespaces.
#
# Nothing of the host is changed: its files are seen read-only, /tmp and whatever else systemd writes to are file systems
# that go with the namespace. Of the host only DIRECTORY may be written to; DIRECTORY/rules.d is polkit's. PROGRAM can be
# seen in there. From outside, /run is at /proc/PID/root/run.
#
# `writable`: everything can be written to, as on a machine, packages installed and users added; what is written lies above
# the host's files, and goes with the namespace.
set -eu
dir=${1:?a directory} program=${2:?a program} mode=${3:-}
root=$dir/root
if [ $$ != 1 ] || [ "$(readlink /proc/self/ns/mnt)" = "$(readlink /proc/1/ns/mnt)" ]; then
    echo "this is pid $$ of the host's own namespaces, where it would mount over everything: refused" >&2
    exit 1
fi
mkdir -p "$root" "$dir/rules.d"
mount --make-rprivate /
fresh="run tmp var/tmp etc/systemd usr/lib/tmpfiles.d root home"
if [ "$mode" = writable ]; then
    mkdir "$dir/above"
    mount -t tmpfs tmpfs "$dir/above"
    mkdir "$dir/above/files" "$dir/above/work"
    mount -t overlay -o "lowerdir=/,upperdir=$dir/above/files,workdir=$dir/above/work" overlay "$root"
    # There everything may be started.
    rm -f "$root/usr/sbin/policy-rc.d"
else
    mount --bind / "$root"
    mount -o remount,bind,ro "$root"
    fresh="$fresh var/lib var/log"
fi
at=$(findmnt -n -o TARGET --target "$program")
if [ "$at" != / ]; then
    mount --bind "$at" "$root$at"
    mount -o remount,bind,ro "$root$at"
fi

# systemd-tmpfiles empties /tmp at boot: it must be another one than the host's, and have no rules.
for path in $fresh; do
    mount -t tmpfs -o mode=755 tmpfs "$root/$path"
done
chmod 1777 "$root/tmp" "$root/var/tmp"
[ -d "$root$dir" ] || mkdir -p "$root$dir"
mount --bind "$dir" "$root$dir"

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
if [ -d "$root/etc/polkit-1/rules.d" ]; then
    mount --bind "$dir/rules.d" "$root/etc/polkit-1/rules.d"
fi

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"

# Nothing is started but the bus, and what a test asks for.
units=$root/etc/systemd/system
mkdir "$units"
printf '[Unit]\nRequires=dbus.socket\nAllowIsolate=yes\n' >"$units/default.target"
printf '[Manager]\nDefaultTimeoutStopSec=5s\n' >"$root/etc/systemd/system.conf"
# Users have managers of their own only on a machine like others.
[ "$mode" = writable ] || ln -s /dev/null "$units/systemd-logind.service"
for masked in systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-tmpfiles-clean \
    systemd-udevd systemd-udev-trigger systemd-journal-flush systemd-sysusers systemd-timesyncd; do
    ln -s /dev/null "$units/$masked.service"
done
ip link set lo up
# Not only chroot: units with mount namespaces of their own need a root that is one.
mkdir "$root/tmp/old"
cd "$root"
pivot_root . tmp/old
umount -l /tmp/old
rmdir /tmp/old
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=defib-test \
    /lib/systemd/systemd --system --show-status=no --log-target=null
