#!/bin/sh
# A tour: what a new user would do first, against a daemon of its own, in a network namespace of
# its own. Ends everything that it has started.
set -eu
programs=${HOY_PROGRAMS:?the directory with hoy, hoyd, hoy-shim and hoy-init: run ./x demo}
root=$(mktemp -d)
export HOY_HOST="unix://$root/sock" PATH="$programs:$PATH"

unshare --net sh -c 'ip link set lo up; exec sleep 600' &
holder=$!
trap 'hoy system stop --clean || true; kill $holder; rm -rf "$root"; find /sys/fs/cgroup -depth -type d -path "*/hoydemo-$$*" -exec rmdir {} + 2>/dev/null || true' EXIT
sleep 0.2
inside="nsenter --net=/proc/$holder/ns/net --"
$inside hoyd --data-root "$root/data" --exec-root "$root/run" --pidfile "$root/pid" \
    --cgroup-parent "hoydemo-$$" --host "$HOY_HOST" --config-file=/dev/null 2>"$root/log" &
until [ -S "$root/sock" ]; do sleep 0.05; done

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
step hoy run --rm hello
mkdir -p "$root/fs/bin" && cp /bin/busybox "$root/fs/bin/"
for name in sh ls cat echo sleep httpd wget hostname ps; do ln -s busybox "$root/fs/bin/$name"; done
tar -C "$root/fs" -cf "$root/fs.tar" .
step hoy import "$root/fs.tar" tiny
step hoy run -d --name web -p 8080:80 tiny sh -c 'echo "served by $(hostname)" >/index.html; exec httpd -f -h /'
sleep 0.3
step $inside curl -s http://127.0.0.1:8080/
step hoy ps
kill -9 "$(cat "$root/pid")"
printf '\nThe daemon was killed. The server:\n'
step $inside curl -s http://127.0.0.1:8080/
rm -f "$root/sock"
$inside hoyd --data-root "$root/data" --exec-root "$root/run" --pidfile "$root/pid" \
    --cgroup-parent "hoydemo-$$" --host "$HOY_HOST" --config-file=/dev/null 2>>"$root/log" &
until [ -S "$root/sock" ]; do sleep 0.05; done
step hoy exec web ps
step hoy rm -f web
