#!/bin/busybox sh
# The guest's first process: mounts what a Debian machine has, loads what is a module there, runs
# /hoy/commands, and says how that ended on the second serial line.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 TERM=linux

if [ "$1" != moved ]; then
    # pivot_root refuses the first root, but not a mount of it on top of it.
    busybox mount -o bind / /mnt && cd /mnt && busybox mount -o move . / &&
        exec busybox chroot . /init moved
fi
cd /
busybox mount -t proc -o nosuid,nodev,noexec proc /proc
busybox mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
busybox mount -t devtmpfs -o nosuid dev /dev
busybox mkdir -p /dev/pts /dev/shm /dev/mqueue
busybox mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
busybox mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
busybox mount -t mqueue mqueue /dev/mqueue
busybox mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
busybox mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
busybox mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
busybox mount --make-rshared /
busybox ln -sf /proc/self/fd /dev/fd

# The kernel asks for the others by itself.
for module in virtio_pci virtio_blk virtio_rng loop fuse overlay; do
    modprobe $module || echo "guest: no module $module"
done
busybox mount -t ext4 /dev/vdc /tmp && busybox chmod 1777 /tmp ||
    echo "guest: /tmp is in memory"
busybox ip link set lo up
busybox hostname guest
busybox mkswap /dev/vda >/dev/null && busybox swapon /dev/vda || echo "guest: no swap"

stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>&1

result=0
# run DIRECTORY NAME COMMAND...: one test program; what follows runs whatever comes of it.
run() {
    cd "$1" || exit 1
    name=$2
    shift 2
    echo "== $name"
    "$@"
    code=$?
    read up rest </proc/uptime
    echo "== $name ended with $code, $up s after the start"
    [ $code = 0 ] || [ $result != 0 ] || result=$code
}
. /hoy/commands
echo "@@ the guest ends with $result"
# This waits until the line is sent.
stty -F /dev/ttyS1 raw
busybox poweroff -f
