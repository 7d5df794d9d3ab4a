#!/bin/bash
# Tries a package in a Debian with systemd as its first process, in a container of an engine that is
# there: packaging/try.sh PACKAGE.deb IMAGE, with IMAGE such a Debian (debootstrap --variant=minbase
# --include=systemd,systemd-sysv,dbus,iproute2), BUSYBOX a root file system of busybox as a tar file,
# ENGINE hoy (as here) or docker.
set -eu
deb=$(realpath "$1") image=$2 busybox=$(realpath "${BUSYBOX:?a busybox as a tar file}")
engine=${ENGINE:-hoy} machine=hoy-try-$$
place=$(mktemp -d)
trap '$engine rm -f "$machine" >/dev/null 2>&1 || true; rm -rf "$place"' EXIT

say() { printf '== %s\n' "$*"; }
fail() {
    echo "FAILED: $*" >&2
    inside 'systemctl --no-pager status hoy; journalctl --no-pager -u hoy | tail -n 30' >&2 || true
    exit 1
}
inside() { "$engine" exec -e HOY_HOST= -e DOCKER_HOST= "$machine" sh -ec "$1"; }
# Asks until the answer is as it should be.
until_is() {
    for _ in $(seq 200); do
        got=$(inside "$2" 2>/dev/null) || true
        [[ $got != "$1" ]] || return 0
        sleep 0.1
    done
    fail "\`$2\` says \`$got\`, not \`$1\`"
}
is() {
    got=$(inside "$2") || fail "$2"
    [[ $got == "$1" ]] || fail "\`$2\` says \`$got\`, not \`$1\`"
}

# The same package as a later version.
dpkg-deb -R "$deb" "$place/later"
sed -i 's/^Version: .*/&+later/' "$place/later/DEBIAN/control"
cp "$deb" "$place/hoy.deb"
cp "$busybox" "$place/busybox.tar"
dpkg-deb --root-owner-group -Zxz -z1 --build "$place/later" "$place/later.deb" >/dev/null
mkdir "$place/var"

"$engine" run -d --name "$machine" --privileged --stop-signal SIGRTMIN+3 -e container=docker \
    -v "$place/var:/var/lib/hoy" -v "$place:/packages" "$image" /sbin/init >/dev/null
until_is running 'systemctl is-system-running || true'

say install: the socket listens, the service runs and is there after a boot
inside 'dpkg -i /packages/hoy.deb >/dev/null 2>&1'
is 'active active enabled enabled' \
    'echo $(systemctl is-active hoy.socket hoy.service; systemctl is-enabled hoy.socket hoy.service)'
is '660 root hoy' 'stat -c "%a %U %G" /run/hoy.sock'
inside 'hoy import /packages/busybox.tar busybox >/dev/null
    hoy run -d --name box --restart always busybox sleep 100000 >/dev/null'
first=$(inside 'hoy inspect -f "{{.State.Pid}}" box')
same() { is "$first" 'hoy inspect -f "{{.State.Pid}}" box'; }

say restart and death of the daemon: containers run on
inside 'systemctl restart hoy'
same
inside 'kill -9 "$(systemctl show -p MainPID --value hoy)"'
same

say reload: the settings are read again
inside 'mkdir -p /etc/hoy; echo "{\"labels\": [\"read=again\"]}" >/etc/hoy/daemon.json; systemctl reload hoy'
until_is '[read=again]' 'hoy info -f "{{.Labels}}"'

say stop, and the socket starts it anew
inside 'systemctl stop hoy 2>/dev/null'
is inactive 'systemctl is-active hoy || true'
same
inside 'hoy system stop'
until_is inactive 'systemctl is-active hoy || true'
same

say upgrade: a new daemon, the same container
inside 'dpkg -i /packages/later.deb >/dev/null 2>&1'
same

say what is switched off stays off
inside 'systemctl disable hoy >/dev/null 2>&1; dpkg -i /packages/later.deb >/dev/null 2>&1'
is 'disabled disabled' 'echo $(systemctl is-enabled hoy.socket hoy.service)'
inside 'systemctl enable hoy >/dev/null 2>&1'

say boot: what has a policy comes back
"$engine" stop -t 60 "$machine" >/dev/null
"$engine" start "$machine" >/dev/null
until_is running 'systemctl is-system-running || true'
until_is true 'hoy inspect -f "{{.State.Running}}" box'

say removal: nothing runs, nothing is lost
inside 'dpkg -r hoy >/dev/null 2>&1'
is '' 'cat /proc/[0-9]*/comm | grep ^hoy || true; ls /run/hoy.sock 2>/dev/null || true; ip -br link | grep hoy || true'
inside 'dpkg -i /packages/later.deb >/dev/null 2>&1'
until_is 'box true' 'hoy ps -a --format "{{.Names}}" | tr "\n" " "; hoy inspect -f "{{.State.Running}}" box'

say purge: data stays
inside 'dpkg -P hoy >/dev/null 2>&1; test -e /var/lib/hoy/db'
is '' 'find /etc/systemd /usr /var/lib/systemd -name "*hoy*"'
"$engine" stop -t 60 "$machine" >/dev/null
echo 'all is well'
