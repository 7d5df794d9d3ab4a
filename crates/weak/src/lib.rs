//! Ground: protections left out on purpose, in the control build of the attack tests only.
//!
//! An attack that fails proves something only where it would succeed without what stops it. Each
//! place that stops one asks here whether to leave it out. Without the feature `weakened`, which
//! no program for people is built with, the answer is a constant no, and what would follow a yes
//! is not compiled into the program: `e2e/tests/attacks` looks for the variable's name in it.

/// What can be left out. The name in the variable is the one here, in small letters with dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Shims listen on sockets with a path.
    PathSockets,
    /// cgroups are read-only in a container.
    ReadonlyCgroups,
    /// The console is the terminal that we opened.
    OwnConsole,
    /// Nothing else than the standard streams is open in a container.
    ClosedDescriptors,
    /// Device nodes are made in our own file system.
    OwnDevices,
    /// Documents of an image have a largest size.
    DocumentSize,
    /// A container's environment is its own.
    OwnEnvironment,
    /// The seccomp filter.
    Filter,
    /// A process has the groups of its user, and no others.
    Groups,
    /// Numbers of users are within what all interfaces take.
    Ids,
    /// Inheritable and ambient capabilities are empty.
    Inheritable,
    /// A layer's worker sees nothing but the layer.
    Jail,
    /// A further process has nothing of the host open while it joins.
    CleanJoin,
    /// Masked paths.
    Masks,
    /// What masks is ours.
    OwnMasks,
    /// One document, one meaning.
    OneMeaning,
    /// A number names the user of that number.
    Numbers,
    /// Names below an untrusted root are resolved by the kernel inside of it.
    Paths,
    /// Names are resolved once: what was checked is what is used.
    Once,
    /// The data root is closed to others.
    PrivateState,
    /// Files of proc are written through our own mount.
    OwnProc,
    /// Nothing is mounted over proc.
    UncoveredProc,
    /// /proc, /sys and /dev are directories.
    RealDirectories,
    /// Only regular files are read.
    RegularFiles,
    /// The supervisor's program is a sealed copy in memory.
    SealedProgram,
    /// Only what belongs to a container's own namespaces is set.
    Sysctls,
    /// Names in a layer are resolved below it.
    Unpack,
    /// The working directory lies inside.
    WorkingDirectory,
}

/// Whether to leave a protection out.
#[cfg(not(feature = "weakened"))]
#[inline(always)]
pub const fn without(_: Protection) -> bool {
    false
}

/// Whether to leave a protection out: a list of names, of this process's environment.
#[cfg(feature = "weakened")]
pub fn without(protection: Protection) -> bool {
    let mut name = String::new();
    for letter in format!("{protection:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    let list = std::env::var(VARIABLE).unwrap_or_default();
    list.split(',').any(|entry| entry == name)
}

/// Where the list is: handed on by who clears the environment otherwise.
#[cfg(feature = "weakened")]
pub const VARIABLE: &str = "HOY_WITHOUT_PROTECTION";

/// What a process has whose environment is empty otherwise: nothing.
#[cfg(not(feature = "weakened"))]
#[inline(always)]
pub const fn inherited() -> [(String, String); 0] {
    []
}

/// What a process has whose environment is empty otherwise: the list, or what it should not have.
#[cfg(feature = "weakened")]
pub fn inherited() -> Vec<(String, String)> {
    let mut all: Vec<_> = std::env::vars().collect();
    if !without(Protection::OwnEnvironment) {
        all.retain(|(name, _)| name == VARIABLE);
    }
    all
}
