//! What the compiled programs answer, and what is refused as a profile.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use hoy_seccomp::{
    Abi, Action, CompileError, Facts, Machine, Profile, ProfileError, Program, Version, X32_BIT,
    builtin, compile,
};
use support::{DOCKER, Data, SYS_ADMIN, parse, run, steps};

const X86_64: u32 = Abi::X86_64.audit_arch();
const I386: u32 = Abi::X86.audit_arch();
const ENOSYS: u32 = Action::Errno(38).code();
const EPERM: u32 = Action::Errno(1).code();
const ALLOW: u32 = Action::Allow.code();

fn facts(capabilities: u64) -> Facts {
    Facts { capabilities, machine: Machine::X86_64, kernel: Version(6, 1) }
}

fn program(profile: &Profile, capabilities: u64) -> Program {
    compile(&profile.resolve(&facts(capabilities)).unwrap()).unwrap()
}

fn custom(text: &str) -> Program {
    program(&parse(text).unwrap(), DOCKER)
}

fn native(program: &Program, number: u32, args: &[u64]) -> u32 {
    let mut data = Data::new(X86_64, number);
    data.args[..args.len()].copy_from_slice(args);
    run(&program.instructions, &data)
}

#[test]
fn dockers_default() {
    let program = program(builtin(), DOCKER);
    for (number, argument, answer) in [
        (0, 0, ALLOW),
        (41, 2, ALLOW),
        (41, 38, EPERM),
        (41, 39, ALLOW),
        (41, 40, EPERM),
        (41, 44, ALLOW),
        (41, 1 << 32, ALLOW),
        (56, 17, ALLOW),
        (56, 0x1000_0000, EPERM),
        (56, 0x0002_0000, EPERM),
        (135, 0, ALLOW),
        (135, 8, ALLOW),
        (135, 1, EPERM),
        (135, 0xffff_ffff, ALLOW),
        (135, u64::MAX, EPERM),
        (165, 0, EPERM),
        (425, 0, EPERM),
        (435, 0, ENOSYS),
        (466, 0, ALLOW),
        (467, 0, ENOSYS),
        (X32_BIT | 512, 0, ALLOW),
        (X32_BIT | 13, 0, EPERM),
        (X32_BIT | 548, 0, ENOSYS),
        (X32_BIT | 41, 40, EPERM),
        (u32::MAX, 0, ENOSYS),
    ] {
        assert_eq!(native(&program, number, &[argument]), answer, "{number} {argument:#x}");
    }
    assert_eq!(run(&program.instructions, &Data::new(0x1234, 0)), Action::KillThread.code());
    let all = self::program(builtin(), u64::MAX);
    assert_eq!(native(&all, 56, &[0x1000_0000]), ALLOW);
    assert_eq!(native(&all, 435, &[]), ALLOW);
    assert_eq!(native(&self::program(builtin(), SYS_ADMIN), 165, &[]), ALLOW);
    let old = Facts { kernel: Version(4, 4), ..facts(DOCKER) };
    let old = compile(&builtin().resolve(&old).unwrap()).unwrap();
    assert_eq!((native(&program, 101, &[]), native(&old, 101, &[])), (ALLOW, EPERM));
}

#[test]
fn the_default_is_small_and_shallow() {
    for capabilities in [DOCKER, u64::MAX, 0] {
        let program = program(builtin(), capabilities);
        let deepest = |arch: u32, numbers: std::ops::Range<u32>| {
            numbers.map(|nr| steps(&program.instructions, &Data::new(arch, nr)).1).max().unwrap()
        };
        let length = program.instructions.len();
        let (deep, compat) = (deepest(X86_64, 0..512), deepest(I386, 0..512));
        println!("{capabilities:#x}: {length} instructions, depth {deep}, i386 {compat}");
        assert!(length < 300 && deep < 20 && compat < 20, "{length} {deep} {compat}");
    }
}

#[test]
fn actions_and_their_numbers() {
    for (action, errno, code) in [
        ("SCMP_ACT_KILL", "", 0),
        ("SCMP_ACT_KILL_THREAD", "", 0),
        ("SCMP_ACT_KILL_PROCESS", "", 0x8000_0000),
        ("SCMP_ACT_TRAP", "", 0x0003_0000),
        ("SCMP_ACT_ERRNO", "", 0x0005_0001),
        ("SCMP_ACT_ERRNO", r#", "errnoRet": 13"#, 0x0005_000d),
        ("SCMP_ACT_TRACE", r#", "errnoRet": 7"#, 0x7ff0_0007),
        ("SCMP_ACT_LOG", "", 0x7ffc_0000),
    ] {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW",
                 "syscalls": [{{"names": ["mkdir"], "action": "{action}"{errno}}}]}}"#
        );
        let program = custom(&text);
        assert_eq!(native(&program, 83, &[]), code, "{action}");
        assert_eq!(native(&program, 84, &[]), ALLOW, "{action}");
        // Nothing beyond is refused where everything else is allowed.
        assert_eq!(native(&program, 5000, &[]), ALLOW, "{action}");
    }
}

#[test]
fn operators_compare_all_64_bits_without_a_sign() {
    const BIG: u64 = 0x1_0000_0005;
    type Holds = fn(u64) -> bool;
    let operators: [(&str, Holds); 7] = [
        ("NE", |a| a != BIG),
        ("LT", |a| a < BIG),
        ("LE", |a| a <= BIG),
        ("EQ", |a| a == BIG),
        ("GE", |a| a >= BIG),
        ("GT", |a| a > BIG),
        ("MASKED_EQ", |a| a & BIG == 5),
    ];
    for (operator, holds) in operators {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["lseek"],
                 "action": "SCMP_ACT_ALLOW", "args":
                 [{{"index": 1, "value": {BIG}, "valueTwo": 5, "op": "SCMP_CMP_{operator}"}}]}}]}}"#
        );
        let program = custom(&text);
        for argument in
            [0, 4, 5, 6, BIG - 1, BIG, BIG + 1, BIG << 1, 0x1_0000_0000, u64::MAX, 1 << 63]
        {
            let expected = if holds(argument) { ALLOW } else { EPERM };
            assert_eq!(native(&program, 8, &[0, argument]), expected, "{operator} {argument:#x}");
        }
    }
}

#[test]
fn arguments_are_anded_and_rules_ored_and_the_strictest_wins() {
    let program = custom(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["fcntl"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["fcntl"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 2, "value": 3, "op": "SCMP_CMP_EQ"}]},
            {"names": ["fcntl"], "action": "SCMP_ACT_KILL_PROCESS", "args": [
                {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    for (args, answer) in [
        ([1, 2, 0], ALLOW),
        ([1, 0, 0], EPERM),
        ([0, 2, 0], EPERM),
        ([0, 0, 3], ALLOW),
        ([0, 9, 3], Action::KillProcess.code()),
    ] {
        assert_eq!(native(&program, 72, &args), answer, "{args:?}");
    }
    // One argument compared twice: each comparison for itself, as Docker's runtimes do.
    let twice = custom(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["fcntl"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!([0, 1, 2].map(|fd| native(&twice, 72, &[fd])), [EPERM, ALLOW, ALLOW]);
}

#[test]
fn without_a_condition_the_first_rule_settles_it() {
    let program = custom(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["fcntl"], "action": "SCMP_ACT_TRAP", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["fcntl"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["fcntl", "dup"], "action": "SCMP_ACT_KILL"},
            {"names": ["dup"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!([0, 1].map(|fd| native(&program, 72, &[fd])), [ALLOW, ALLOW]);
    assert_eq!(native(&program, 32, &[]), Action::KillThread.code());
}

#[test]
fn a_refused_socket_is_refused_by_its_other_door_too() {
    let program = custom(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": ["socket", "shmget"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let i386 = |number, what| {
        let mut data = Data::new(I386, number);
        data.args[0] = what;
        run(&program.instructions, &data)
    };
    assert_eq!((i386(359, 0), i386(102, 1), i386(102, 2)), (EPERM, EPERM, ALLOW));
    assert_eq!((i386(395, 0), i386(117, 23), i386(117, 1)), (EPERM, EPERM, ALLOW));
    // x32 was not named.
    assert_eq!(native(&program, X32_BIT, &[]), Action::KillThread.code());
}

#[test]
fn nothing_is_no_filter_and_flags_are_kept() {
    let none = parse("{}").unwrap();
    assert!(none.resolve(&facts(DOCKER)).is_none());
    assert_eq!(custom(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).flags, 4);
    let flags = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG",
                    "SECCOMP_FILTER_FLAG_TSYNC"], "syscalls": null}"#;
    assert_eq!(custom(flags).flags, 3);
    assert_eq!(custom(r#"{"defaultAction": "SCMP_ACT_LOG", "flags": []}"#).flags, 0);
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let rule = |rule: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
                [{{"names": ["read"], "action": "SCMP_ACT_LOG"}}, {rule}]}}"#
        )
    };
    let argument = |argument: &str| {
        rule(&format!(
            r#"{{"names": ["read"], "action": "SCMP_ACT_TRAP",
                 "args": [{{"index": 1, "op": "SCMP_CMP_EQ"}}, {argument}]}}"#
        ))
    };
    let cases: &[(String, &str)] = &[
        ("[]".into(), "expected an object, not a list"),
        (r#"{"defaultAction": 1}"#.into(), "defaultAction: expected a string, not a number"),
        (
            r#"{"defaultAction": "SCMP_ACT_NONE"}"#.into(),
            r#"defaultAction: unknown action "SCMP_ACT_NONE""#,
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 3}"#.into(),
            "defaultErrnoRet: SCMP_ACT_ALLOW has no errno",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}"#.into(),
            "defaultErrnoRet: 5000 is beyond 4095",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS"}"#.into(),
            "defaultErrno: an error by name is not read: give its number as errnoRet",
        ),
        (
            r#"{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#.into(),
            "defaultAction is missing",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}"#.into(),
            r#"architectures[0]: unknown architecture "SCMP_ARCH_VAX""#,
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#
                .into(),
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either \
             'architectures' or 'archMap'",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}"#.into(),
            r#"flags[0]: unknown flag "SECCOMP_FILTER_FLAG_X""#,
        ),
        (r#"{"defaultActoin": "SCMP_ACT_ALLOW"}"#.into(), r#"unknown key "defaultActoin""#),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultAction": "SCMP_ACT_LOG"}"#.into(),
            r#"the key "defaultAction" is given twice"#,
        ),
        (rule(r#""read""#), "syscalls[1]: expected an object, not a string"),
        (rule(r#"{"names": ["read"]}"#), "syscalls[1]: action is missing"),
        (rule(r#"{"action": "SCMP_ACT_ALLOW"}"#), "syscalls[1]: names is missing"),
        (
            rule(r#"{"names": ["read"], "name": "write", "action": "SCMP_ACT_TRAP"}"#),
            "syscalls[1]: both 'name' and 'names' are specified in the seccomp profile, use \
             either 'name' or 'names'",
        ),
        (
            rule(r#"{"names": ["read", ""], "action": "SCMP_ACT_TRAP"}"#),
            "syscalls[1].names[1]: empty string is not a valid syscall",
        ),
        (
            rule(r#"{"names": ["read"], "action": "SCMP_ACT_TRAP", "errnoRet": 1}"#),
            "syscalls[1].errnoRet: SCMP_ACT_TRAP has no errno",
        ),
        (
            rule(r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}"#),
            "syscalls[1].action: SCMP_ACT_NOTIFY is not available yet",
        ),
        (
            rule(r#"{"names": ["read"], "action": "SCMP_ACT_TRAP", "exclude": {}}"#),
            r#"syscalls[1]: unknown key "exclude""#,
        ),
        (
            rule(r#"{"names": ["a"], "action": "SCMP_ACT_TRAP", "excludes": {"caps": ["X"]}}"#),
            r#"syscalls[1].excludes.caps[0]: unknown capability "X""#,
        ),
        (
            rule(r#"{"names": ["a"], "action": "SCMP_ACT_TRAP", "includes": {"minKernel": "6"}}"#),
            r#"syscalls[1].includes.minKernel: invalid kernel version "6", expected "<kernel>.<major>""#,
        ),
        (
            argument(r#"{"index": 2, "op": "SCMP_CMP_XX"}"#),
            r#"syscalls[1].args[1]: unknown operator "SCMP_CMP_XX""#,
        ),
        (
            argument(r#"{"index": 6, "op": "SCMP_CMP_EQ"}"#),
            "syscalls[1].args[1].index: a system call has no argument 6",
        ),
        (
            argument(r#"{"index": 2, "value": -1, "op": "SCMP_CMP_EQ"}"#),
            "syscalls[1].args[1].value: expected a whole number from 0 on",
        ),
        (argument(r#"{"index": 2}"#), "syscalls[1].args[1]: op is missing"),
    ];
    for (text, message) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert_eq!(error, format!("seccomp profile: {message}"), "{text}");
    }
    let broken = parse(r#"{"defaultAction": "#).unwrap_err().to_string();
    assert!(broken.starts_with("Decoding seccomp profile failed: "), "{broken}");
    let huge = format!("{}{{}}", " ".repeat(hoy_seccomp::MAX_BYTES));
    assert_eq!(parse(&huge).unwrap_err(), ProfileError::TooLarge);
    let deep = "[".repeat(100_000);
    assert!(matches!(parse(&deep), Err(ProfileError::Json(_))));
}

#[test]
fn contradictions_and_what_is_too_long_name_their_rules() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["dup", "fcntl"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
        {"names": ["write"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["fcntl"], "action": "SCMP_ACT_TRAP",
         "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;
    let profile = parse(text).unwrap();
    let error = compile(&profile.resolve(&facts(DOCKER)).unwrap()).unwrap_err();
    assert_eq!(error, CompileError::Contradiction { first: 1, second: 3, name: "fcntl" });
    assert_eq!(
        error.to_string(),
        "seccomp profile: syscalls[3]: the same arguments of \"fcntl\" as in syscalls[1], with \
         another action"
    );
    let rules: Vec<String> = (0..3000_u64)
        .map(|value| {
            format!(
                r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args":
                    [{{"index": 0, "value": {}, "op": "SCMP_CMP_EQ"}}]}}"#,
                value << 32 | value
            )
        })
        .collect();
    let text =
        format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, rules.join(","));
    let profile = parse(&text).unwrap();
    let error = compile(&profile.resolve(&facts(DOCKER)).unwrap()).unwrap_err();
    assert!(matches!(error, CompileError::TooLong(_)), "{error}");
    assert!(error.to_string().ends_with("and the kernel takes 4096"), "{error}");
    // Half of that fits, and long ways are jumped over.
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#,
        rules[..900].join(",")
    );
    let program = custom(&text);
    for value in [0, 1, 300, 899] {
        assert_eq!(native(&program, 0, &[value << 32 | value]), ALLOW);
        assert_eq!(native(&program, 0, &[value << 32 | (value + 1)]), EPERM);
    }
    assert_eq!(native(&program, 0, &[900 << 32 | 900]), EPERM);
}

#[test]
fn conditions_of_rules() {
    let rule = |number: u32, condition: &str| {
        format!(r#"{{"name": "{}", "action": "SCMP_ACT_ALLOW", {condition}}}"#, name(number))
    };
    fn name(number: u32) -> &'static str {
        ["read", "write", "open", "close", "stat", "fstat", "lstat", "poll"][number as usize]
    }
    let rules = [
        rule(0, r#""includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}"#),
        rule(1, r#""includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}"#),
        rule(2, r#""excludes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}"#),
        rule(3, r#""excludes": {"caps": ["CAP_SYS_ADMIN"]}, "includes": {"arches": ["amd64"]}"#),
        rule(4, r#""includes": {"arches": ["arm64"]}"#),
        rule(5, r#""excludes": {"arches": ["amd64"]}"#),
        rule(6, r#""includes": {"minKernel": "6.1"}, "comment": "x""#),
        rule(7, r#""includes": {"minKernel": "6.2"}, "excludes": null"#),
    ];
    let program = custom(&format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#,
        rules.join(",")
    ));
    let allowed: Vec<u32> =
        (0..8).filter(|number| native(&program, *number, &[]) == ALLOW).collect();
    // What is beyond the newest call in force is unknown.
    assert_eq!(native(&program, 7, &[]), ENOSYS);
    assert_eq!(allowed, [0, 3, 6]);
}
