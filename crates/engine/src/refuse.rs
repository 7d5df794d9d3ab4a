//! What is not built yet is refused by name, never parsed and ignored.
//!
//! Pure. A field leaves this file in the commit that makes it act on the kernel.

use hoy_wire::HostConfig;

use crate::error::{Error, Result};

/// Refuses a request that asks for anything that hoy does not have.
pub(crate) fn unbuilt(host: &HostConfig) -> Result<()> {
    let checks: &[(bool, &str)] = &[(!host.cgroup.is_empty(), "the cgroup specification")];
    if let Some((_, what)) = checks.iter().find(|(asked, _)| *asked) {
        return Err(Error::unavailable(what));
    }
    for option in host.security_opt.iter().flatten() {
        let name = option.split([':', '=']).next().unwrap_or("");
        match option.as_str() {
            "no-new-privileges"
            | "no-new-privileges=true"
            | "no-new-privileges:true"
            | "no-new-privileges=false"
            | "no-new-privileges:false"
            | "systempaths=unconfined" => {}
            // What it says is looked at where it is compiled.
            _ if name == "seccomp" && option.len() > name.len() => {}
            // The host decides: see `lsm`.
            _ if matches!(name, "apparmor" | "label") && option.len() > name.len() + 1 => {}
            _ if matches!(name, "apparmor" | "label" | "writable-cgroups") => {
                return Err(Error::unavailable(format!("--security-opt {option}")));
            }
            _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_request_passes_and_others_are_named() {
        unbuilt(&HostConfig::default()).unwrap();
        let host = HostConfig { cgroup: "x".into(), ..HostConfig::default() };
        let error = unbuilt(&host).unwrap_err();
        assert_eq!(error.to_string(), "the cgroup specification is not available yet");
        let host = HostConfig { security_opt: Some(vec!["bogus".into()]), ..HostConfig::default() };
        assert_eq!(unbuilt(&host).unwrap_err().kind(), hoy_types::ErrorKind::InvalidParameter);
    }
}
