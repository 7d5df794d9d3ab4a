//! The default profile as the runtime specification has it: for runtimes that compile it
//! themselves. Pure.

use hoy_oci::runtime::{Seccomp, Syscall, SyscallArg};

use super::table::SYSCALLS;
use super::{CLONE_NAMESPACES, EPERM, Verdict, verdict};

const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";

/// The default profile for a set of capabilities, its conditions resolved.
pub fn default_rules(capabilities: u64) -> Seccomp {
    let mut allowed = Vec::new();
    let mut conditional = Vec::new();
    for (name, _, _, always) in SYSCALLS {
        match verdict(name, *always, capabilities) {
            Verdict::Allow => allowed.push((*name).to_owned()),
            Verdict::Errno(EPERM) => {}
            Verdict::Errno(errno) => {
                conditional.push(Syscall { errno_ret: Some(errno), ..rule(name, ERRNO, None) });
            }
            Verdict::Socket => conditional.extend([
                rule(name, ALLOW, Some(("SCMP_CMP_LT", 38, 0))),
                rule(name, ALLOW, Some(("SCMP_CMP_EQ", 39, 0))),
                rule(name, ALLOW, Some(("SCMP_CMP_GT", 40, 0))),
            ]),
            Verdict::Personality => conditional.extend(
                [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff]
                    .map(|value| rule(name, ALLOW, Some(("SCMP_CMP_EQ", value, 0)))),
            ),
            Verdict::Clone => {
                let mask = u64::from(CLONE_NAMESPACES);
                conditional.push(rule(name, ALLOW, Some(("SCMP_CMP_MASKED_EQ", mask, 0))));
            }
        }
    }
    let mut syscalls =
        vec![Syscall { names: allowed, action: ALLOW.to_owned(), ..Syscall::default() }];
    syscalls.extend(conditional);
    Seccomp {
        default_action: ERRNO.to_owned(),
        default_errno_ret: Some(EPERM),
        architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
            .map(str::to_owned)
            .to_vec(),
        syscalls,
        ..Seccomp::default()
    }
}

fn rule(name: &str, action: &str, argument: Option<(&str, u64, u64)>) -> Syscall {
    let args = argument.into_iter().map(|(op, value, value_two)| SyscallArg {
        index: 0,
        value,
        value_two,
        op: op.to_owned(),
    });
    Syscall {
        names: vec![name.to_owned()],
        action: action.to_owned(),
        errno_ret: None,
        args: args.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_verdicts_as_the_program() {
        let rules = default_rules(crate::caps::DEFAULT);
        let of = |name: &str| -> Vec<&Syscall> {
            rules.syscalls.iter().filter(|rule| rule.names.iter().any(|n| n == name)).collect()
        };
        assert_eq!(of("read")[0].action, ALLOW);
        assert!(of("mount").is_empty() && of("bpf").is_empty());
        assert_eq!(of("clone3")[0].errno_ret, Some(38));
        assert_eq!(of("clone")[0].args[0].value, 0x7e02_0000);
        assert_eq!((of("socket").len(), of("personality").len()), (3, 5));
        let all = default_rules(u64::MAX);
        let mount = all.syscalls[0].names.iter().any(|name| name == "mount");
        assert!(mount && all.syscalls.iter().all(|rule| rule.names != ["clone"]));
    }
}
