//! The table of docs/SECURITY.md, tried: each attack against the real build, which must withstand
//! it, and against the control build with one protection left out, where it must succeed.
//!
//! Arguments are parts of names; HOY_WEAK_PROGRAMS is the directory of the control build;
//! HOY_ATTACK_SECONDS is how long each race lasts.

mod files;
mod images;
mod kernel;
mod mounts;
mod processes;
mod side;
mod state;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use side::Side;

/// `Err` is the harm that was done.
type Verdict = Result<(), String>;

/// Whether the attack can be shown to work.
enum Control {
    /// With these protections left out, by their names.
    Without(&'static str),
    /// Not, and why.
    Cannot(&'static str),
}
use Control::{Cannot, Without};

struct Attack {
    /// As docs/SECURITY.md calls it.
    name: &'static str,
    control: Control,
    run: fn(&Side) -> Verdict,
}

const fn attack(name: &'static str, control: Control, run: fn(&Side) -> Verdict) -> Attack {
    Attack { name, control, run }
}

const ATTACKS: &[Attack] = &[
    attack("mount-targets", Without("paths"), mounts::targets),
    attack("mount-race", Without("once"), mounts::race),
    attack("engine-files", Without("paths"), mounts::engine_files),
    attack("working-directories", Without("paths"), mounts::working_directories),
    attack("proc-is-a-link", Without("real-directories"), mounts::proc_is_a_link),
    attack("proc-covered", Without("uncovered-proc"), mounts::proc_covered),
    attack("masks-planted", Without("own-masks"), mounts::masks_planted),
    attack("console-planted", Without("own-console"), mounts::console_planted),
    attack("devices-outside", Without("own-devices,paths"), mounts::devices_outside),
    attack("sysctl-redirected", Without("own-proc,uncovered-proc"), mounts::sysctl_redirected),
    attack("cgroups-writable", Without("readonly-cgroups"), mounts::cgroups_writable),
    attack("numeric-names", Without("numbers"), processes::numeric_names),
    attack("user-numbers", Without("ids"), processes::user_numbers),
    attack("user-strings", Without("ids"), processes::user_strings),
    attack("groups", Without("groups"), processes::groups),
    attack("inheritable", Without("inheritable"), processes::inheritable),
    attack("descriptors", Without("closed-descriptors,working-directory"), processes::descriptors),
    attack("exec-spied", Without("clean-join"), processes::exec_spied),
    attack("own-program", Without("sealed-program"), processes::own_program),
    attack("environment", Without("own-environment"), processes::environment),
    attack(
        "exec-flood",
        Cannot("streams do not pass through the daemon: there is nothing to leave out"),
        processes::exec_flood,
    ),
    attack(
        "hang-ups",
        Cannot("a session is a descriptor of the supervisor: there is no task to leak"),
        processes::hang_ups,
    ),
    attack("archives", Without("unpack,jail"), images::archives),
    attack("documents-too-large", Without("document-size"), images::documents_too_large),
    attack("two-meanings", Without("one-meaning"), images::two_meanings),
    attack(
        "steering",
        Cannot("no code reads an image's labels or runs its programs for the host"),
        images::steering,
    ),
    attack(
        "volumes",
        Cannot("images with volumes are refused until volumes exist"),
        images::volumes,
    ),
    attack("files-read", Without("regular-files"), files::read_by_the_host),
    attack("files-raced", Without("once"), files::raced),
    attack(
        "layers-unchanged",
        Cannot("writes to a lower layer are the kernel's to prevent"),
        files::layers_unchanged,
    ),
    attack("primitives", Without("filter"), kernel::primitives),
    attack("new-namespaces", Without("filter"), kernel::new_namespaces),
    attack("sysctls", Without("sysctls"), kernel::sysctls),
    attack("masks", Without("masks"), kernel::masks),
    attack("abstract-sockets", Without("path-sockets"), state::abstract_sockets),
    attack("state-walked", Without("private-state"), state::walked),
    attack(
        "ports",
        Cannot("the daemon opens no port by itself: there is nothing to leave out"),
        state::ports,
    ),
    attack(
        "source-address",
        Cannot("IPv4 is the kernel's, no proxy stands between: there is nothing to leave out"),
        state::source_address,
    ),
    attack(
        "certificates",
        Cannot("the TLS library has no switch that hoy could leave out"),
        state::certificates,
    ),
];

/// What became of one attack.
struct Outcome {
    name: &'static str,
    real: Result<(), String>,
    control: String,
    good: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let wanted: Vec<&Attack> = ATTACKS
        .iter()
        .filter(|a| filters.is_empty() || filters.iter().any(|f| a.name.contains(f.as_str())))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for attack in &wanted {
            println!("{}: test", attack.name);
        }
        return ExitCode::SUCCESS;
    }
    let mut good = true;
    if filters.is_empty() {
        for check in [documented, nothing_is_weakened] {
            if let Err(fault) = check() {
                println!("{fault}");
                good = false;
            }
        }
    }
    let weakened = std::env::var_os("HOY_WEAK_PROGRAMS").map(PathBuf::from);
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(attack) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = both(attack, weakened.as_deref());
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|outcome| ATTACKS.iter().position(|a| a.name == outcome.name));
    println!("\n{:<22} {:<12} control build", "attack", "real build");
    for Outcome { name, real, control, good: fine } in &outcomes {
        let shown = if real.is_ok() { "withstood" } else { "SUCCEEDED" };
        println!("{name:<22} {shown:<12} {control}");
        if let Err(harm) = real {
            println!("{:<22} {harm}", "");
        }
        good &= fine;
    }
    let withstood = outcomes.iter().filter(|outcome| outcome.real.is_ok()).count();
    let shown = outcomes.iter().filter(|outcome| outcome.control.starts_with("works")).count();
    println!("\n{} attacks: {withstood} withstood, {shown} shown to work", outcomes.len());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn both(attack: &Attack, weakened: Option<&std::path::Path>) -> Outcome {
    let programs = hoy_testkit::programs();
    let caught = |programs: PathBuf, without: &str| {
        std::panic::catch_unwind(|| {
            let side = Side::new(&programs, without);
            (attack.run)(&side)
        })
    };
    let broken = "the test broke: see above".to_owned();
    let real = caught(programs, "").unwrap_or_else(|_| Err(broken.clone()));
    let (control, shown) = match (&attack.control, weakened) {
        (Cannot(why), _) => (format!("not shown: {why}"), true),
        (Without(_), None) => ("not tried: no HOY_WEAK_PROGRAMS".to_owned(), true),
        (Without(names), Some(weakened)) => match caught(weakened.to_owned(), names) {
            Ok(Err(harm)) => {
                let harm: String = harm.lines().next().unwrap_or("").chars().take(100).collect();
                (format!("works without {names}: {harm}"), true)
            }
            Ok(Ok(())) => (format!("WITHSTOOD without {names}: the test proves nothing"), false),
            Err(_) => (broken, false),
        },
    };
    let good = real.is_ok() && shown;
    println!("{}: {}", attack.name, if good { "ok" } else { "FAILED" });
    Outcome { name: attack.name, real, control, good }
}

/// The document and the tests name the same attacks.
fn documented() -> Verdict {
    let path = hoy_testkit::workspace().join("docs/SECURITY.md");
    let text = std::fs::read_to_string(path).unwrap();
    let unnamed =
        ATTACKS.iter().filter(|a| !text.contains(&format!("`{}`", a.name))).map(|a| a.name);
    let unnamed: Vec<_> = unnamed.collect();
    if unnamed.is_empty() { Ok(()) } else { Err(format!("not in docs/SECURITY.md: {unnamed:?}")) }
}

/// The programs for people ask for no protection to be left out: they do not know the word.
fn nothing_is_weakened() -> Verdict {
    let word = side::VARIABLE.as_bytes();
    let has = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        bytes.windows(word.len()).any(|part| part == word)
    };
    for program in ["hoyd", "hoy-shim", "hoy-init", "hoy"] {
        if has(hoy_testkit::programs().join(program)) {
            return Err(format!("{program} is a weakened build"));
        }
    }
    if let Some(weakened) = std::env::var_os("HOY_WEAK_PROGRAMS").map(PathBuf::from) {
        for program in ["hoyd", "hoy-shim"] {
            if !has(weakened.join(program)) {
                return Err(format!("{program} of the control build is not weakened"));
            }
        }
    }
    Ok(())
}
