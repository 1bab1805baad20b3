#!/usr/bin/env bash
# `make deb-check`: builds the Debian package, has lintian look at it, and installs it on a system that goes with this
# script: this machine's files with everything written above them, a systemd of its own as pid 1 (tests/systemd/boot.sh).
# There the units run, the machine's and a user's, the package is upgraded under a running node, removed, and purged.
#
# Not part of `make test`: cargo-deb and an optimised build take minutes. The units themselves are tested there.
# Needs root, systemd, dbus, dbus-user-session, lintian. DEB=FILE takes a package that is built already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=
fail() {
    echo "deb-check: $*" >&2
    # It goes with the rest.
    if [ -n "$dir" ] && [ -s "$dir/log" ]; then
        echo "what the system said as it came up:" >&2
        tail -n 40 "$dir/log" >&2
    fi
    exit 1
}
[ "$(id -u)" = 0 ] || fail "needs root: it makes namespaces and mounts"
for tool in lintian dpkg-deb unshare setpriv nsenter loginctl; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install lintian dpkg util-linux systemd"
done
[ -e /usr/lib/systemd/user/dbus.socket ] || fail "users have no bus here: apt-get install dbus-user-session"

if [ -n "${DEB:-}" ]; then
    deb=$DEB
else
    deb=$(scripts/deb.sh)
fi
echo "== $deb, $(stat -c %s "$deb") bytes"
dpkg-deb --info "$deb" | sed -n '/^ Package:/,$p'

echo "== lintian"
lintian --allow-root --fail-on error,warning "$deb"

dir=$(mktemp -d)
cgroup=$(awk '/ - cgroup2 /{print $5; exit}' /proc/self/mountinfo)/defib-deb-check-$$
chmod 755 "$dir"
mkdir "$cgroup"
cp "$deb" "$dir/defib.deb"
sh -c 'echo $$ >"$1/cgroup.procs" && exec setpriv --pdeathsig KILL unshare -m -p -f -C -i -u -n --kill-child \
    sh tests/systemd/boot.sh "$2" /usr/bin/true writable' sh "$cgroup" "$dir" >"$dir/log" 2>&1 &
boot=$!
gone() {
    kill -KILL "$boot" 2>/dev/null || true
    wait "$boot" 2>/dev/null || true
    for _ in $(seq 200); do
        find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [ -d "$cgroup" ] || break
        sleep 0.02
    done
    rm -rf "$dir"
}
trap gone EXIT

init=
inside() { nsenter -t "$init" -m -p -C -n -r -w -- "$@"; }
until_is() { # WHAT COMMAND...: waits for what the command says
    local what=$1
    shift
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    inside journalctl --no-pager -n 60 >&2 || true
    fail "waited in vain until $what"
}
booted() {
    init=$(tr -d ' ' <"/proc/$boot/task/$boot/children") && [ -n "$init" ] &&
        inside busctl status org.freedesktop.systemd1
}
until_is "a systemd of its own is up" booted
shown() { inside systemctl show --value -p "$2" "$1"; }
is() { [ "$2" = "$3" ] || fail "$1 is \"$2\", not \"$3\""; }
# What there is, but for what dpkg and systemd keep of themselves.
files() {
    inside find /etc /usr /var /opt /srv -xdev \
        -not -path '/var/log/*' -not -path '/var/cache/*' -not -path '/var/lib/dpkg/*' -not -path '/var/lib/systemd/*' \
        -not -regex '.*/\(passwd\|shadow\|group\|gshadow\|subuid\|subgid\)-' | sort
}

files >"$dir/before"
echo "== install: nothing is started"
inside dpkg --install "$dir/defib.deb"
is "the unit" "$(inside systemctl is-active defib || true) $(inside systemctl is-enabled defib || true)" "inactive disabled"
inside id defib
inside defib check-config --config /etc/defib/defib.toml

echo "== the machine's unit"
inside systemctl start defib
is "its state" "$(shown defib ActiveState)" active
is "its user" "$(inside ps -o user= -p "$(shown defib MainPID)")" defib
until_is "it answers" inside defib probe healthz --url http://127.0.0.1:7337
inside systemctl stop defib
is "how it ended" "$(shown defib Result) $(shown defib ExecMainStatus)" "success 0"
! inside test -e /run/defib || fail "/run/defib is left"

echo "== an upgrade restarts a node that runs, and keeps what was written into its configuration"
inside systemctl enable --now defib
inside sh -c 'echo "# mine" >>/etc/defib/defib.toml'
before=$(shown defib InvocationID)
inside dpkg --install "$dir/defib.deb"
is "its state" "$(shown defib ActiveState) $(inside systemctl is-enabled defib)" "active enabled"
[ "$(shown defib InvocationID)" != "$before" ] || fail "the old program runs on"
inside tail -n 1 /etc/defib/defib.toml | grep -qx '# mine' || fail "the configuration was overwritten"

echo "== a user's unit"
inside useradd --create-home tester
user=$(inside id -u tester)
inside loginctl enable-linger tester
as_user() {
    inside setpriv --reuid tester --regid tester --init-groups env -i PATH="$PATH" HOME=/home/tester \
        XDG_RUNTIME_DIR="/run/user/$user" "$@"
}
until_is "the user has a manager" as_user systemctl --user is-active default.target
as_user sh -c 'mkdir -p ~/.config/defib && printf "[http]\nlisten = \"127.0.0.1:7338\"\n" >~/.config/defib/defib.toml'
as_user systemctl --user enable --now defib
is "its state" "$(as_user systemctl --user is-active defib)" active
until_is "it answers" inside defib probe healthz --url http://127.0.0.1:7338
as_user systemctl --user disable --now defib
is "how it ended" "$(as_user systemctl --user show --value -p Result defib)" success
inside loginctl disable-linger tester
until_is "the user's manager is gone" inside sh -c "! systemctl is-active user@$user"
until_is "the user can be removed" inside userdel --remove tester

echo "== removed, it is stopped, and its configuration stays"
inside dpkg --remove defib
is "the unit" "$(inside systemctl is-active defib || true)" inactive
inside test -e /etc/defib/defib.toml
! inside test -e /usr/bin/defib || fail "the program is left"

echo "== purged, nothing is left"
inside dpkg --purge defib
! inside id defib 2>/dev/null || fail "the user is left"
files >"$dir/after"
diff "$dir/before" "$dir/after" || fail "that is left, or was taken"
echo "deb-check: all is well"
