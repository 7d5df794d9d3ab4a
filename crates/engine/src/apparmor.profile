# What hoy's containers may do unless asked otherwise.

profile hoy-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # Whoever supervises a container may end it.
  signal (receive) peer=unconfined,
  signal (receive) peer=hoyd,
  signal (receive) peer=hoy-shim,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
@daemon@
  # Containers among themselves.
  signal (send,receive) peer=hoy-default,
  ptrace (trace,read,tracedby,readby) peer=hoy-default,

  # The tree of mounts stays as it was made, whatever the capabilities.
  deny mount,

  # Of /proc only the processes' own directories are written to, and what lies in /proc/sys about
  # shared memory.
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys[^/]*/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/ke[^r]** w,
  deny /proc/sys/kernel/{?,??} w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # Of /sys only cgroups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
