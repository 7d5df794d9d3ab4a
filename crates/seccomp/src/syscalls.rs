//! System calls and the binary interfaces that number them.

use crate::table::SYSCALLS;

/// Not there.
pub(crate) const NONE: u32 = u32::MAX;

/// Set in every number of x32, which otherwise looks like x86-64 to a filter.
pub const X32_BIT: u32 = 0x4000_0000;

/// The CPU's own kind: what a kernel is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// The one that this program was built for.
    pub const fn current() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// Docker's word for it in `includes` and `excludes`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    pub const fn native(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }

    /// Every interface through which a process can reach this machine's kernel.
    pub const fn abis(self) -> &'static [Abi] {
        match self {
            Self::X86_64 => &[Abi::X86_64, Abi::X86, Abi::X32],
            Self::Aarch64 => &[Abi::Aarch64, Abi::Arm],
        }
    }
}

/// A way to number system calls and to pass their arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    /// AUDIT_ARCH_*, as a filter sees it. x32 has that of x86-64.
    pub const fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Arguments are compared in their low 32 bits only, as libseccomp does for these.
    pub const fn is_32_bit(self) -> bool {
        matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }

    /// The name in profiles.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X86 => "SCMP_ARCH_X86",
            Self::X32 => "SCMP_ARCH_X32",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
        }
    }
}

/// A system call that some interface knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Syscall(u16);

impl Syscall {
    /// `None` for a name that no interface here knows.
    pub fn named(name: &str) -> Option<Self> {
        let at = SYSCALLS.binary_search_by(|row| row.0.cmp(name)).ok()?;
        u16::try_from(at).ok().map(Self)
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..SYSCALLS.len()).filter_map(|at| u16::try_from(at).ok()).map(Self)
    }

    pub fn name(self) -> &'static str {
        SYSCALLS[usize::from(self.0)].0
    }

    /// As the kernel sees it, with x32's bit.
    pub fn number(self, abi: Abi) -> Option<u32> {
        let row = SYSCALLS[usize::from(self.0)];
        let number = match abi {
            Abi::X86_64 => row.1,
            Abi::X86 => row.2,
            Abi::X32 => row.3,
            Abi::Aarch64 => row.4,
            Abi::Arm => row.5,
        };
        match (number, abi) {
            (NONE, _) => None,
            (number, Abi::X32) => Some(number | X32_BIT),
            (number, _) => Some(number),
        }
    }

    /// On i386 the sockets and System V IPC also go through one number each, with what is to be
    /// done in the first argument: that number and that argument.
    pub fn multiplexed(self, abi: Abi) -> Option<(u32, u64)> {
        const SOCKETCALL: u32 = 102;
        const IPC: u32 = 117;
        if abi != Abi::X86 {
            return None;
        }
        let (number, what) = match self.name() {
            "socket" => (SOCKETCALL, 1),
            "bind" => (SOCKETCALL, 2),
            "connect" => (SOCKETCALL, 3),
            "listen" => (SOCKETCALL, 4),
            "accept" => (SOCKETCALL, 5),
            "getsockname" => (SOCKETCALL, 6),
            "getpeername" => (SOCKETCALL, 7),
            "socketpair" => (SOCKETCALL, 8),
            "send" => (SOCKETCALL, 9),
            "recv" => (SOCKETCALL, 10),
            "sendto" => (SOCKETCALL, 11),
            "recvfrom" => (SOCKETCALL, 12),
            "shutdown" => (SOCKETCALL, 13),
            "setsockopt" => (SOCKETCALL, 14),
            "getsockopt" => (SOCKETCALL, 15),
            "sendmsg" => (SOCKETCALL, 16),
            "recvmsg" => (SOCKETCALL, 17),
            "accept4" => (SOCKETCALL, 18),
            "recvmmsg" => (SOCKETCALL, 19),
            "sendmmsg" => (SOCKETCALL, 20),
            "semop" => (IPC, 1),
            "semget" => (IPC, 2),
            "semctl" => (IPC, 3),
            "semtimedop" => (IPC, 4),
            "msgsnd" => (IPC, 11),
            "msgrcv" => (IPC, 12),
            "msgget" => (IPC, 13),
            "msgctl" => (IPC, 14),
            "shmat" => (IPC, 21),
            "shmdt" => (IPC, 22),
            "shmget" => (IPC, 23),
            "shmctl" => (IPC, 24),
            _ => return None,
        };
        Some((number, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_numbers_are_the_kernels() {
        assert!(SYSCALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (name, abi, number) in [
            ("read", Abi::X86_64, Some(0)),
            ("rt_sigaction", Abi::X32, Some(X32_BIT | 512)),
            ("pwritev2", Abi::X32, Some(X32_BIT | 547)),
            ("socketcall", Abi::X86, Some(102)),
            ("socketcall", Abi::X86_64, None),
            ("openat2", Abi::Aarch64, Some(437)),
            ("set_tls", Abi::Arm, Some(0xf_0005)),
        ] {
            assert_eq!(Syscall::named(name).unwrap().number(abi), number, "{name}");
        }
        assert_eq!(Syscall::named("no_such_call"), None);
        for abi in Machine::X86_64.abis().iter().chain(Machine::Aarch64.abis()) {
            let mut numbers: Vec<u32> = Syscall::all().filter_map(|s| s.number(*abi)).collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{abi:?}");
        }
    }
}
