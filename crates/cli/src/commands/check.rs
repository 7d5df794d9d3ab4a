//! `system check`: what is there and belongs to nobody, and where the disk's space goes.

use hoy_client::ClientError;
use hoy_wire::CheckReport;
use serde_json::Value;

use super::App;
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::table;
use crate::format::template::{self, Missing};
use crate::print;

pub fn check(app: &App<'_>) -> Result<u8> {
    let format = app.flags.text("format");
    let format = if format == "json" { "{{json .}}" } else { format };
    if !matches!(format, "" | "table") {
        template::check(format)?;
    }
    let repair = if app.flags.switch("repair") { "1" } else { "0" };
    let answer = app.client.post("/hoy/check").query("repair", repair).fetch();
    let answer: Value = answer.map_err(|error| match &error {
        ClientError::Api(api) if api.status == 404 => Failure::new(format!(
            "system check is not available with this engine: {} is not hoyd",
            app.client.endpoint()
        )),
        _ => error.into(),
    })?;
    let report: CheckReport = serde_json::from_value(answer.clone()).map_err(ClientError::from)?;
    match format {
        "" | "table" => print(&shown(&report))?,
        format => print(&(template::one(format, &answer, Missing::Mistake)? + "\n"))?,
    }
    Ok(u8::from(is_left(&report)))
}

/// Whether something was found that is there still.
fn is_left(report: &CheckReport) -> bool {
    report.findings.iter().any(|finding| !finding.repaired)
}

fn size(bytes: u64) -> String {
    human::fine_size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn shown(report: &CheckReport) -> String {
    let mut out = String::new();
    if report.findings.is_empty() {
        out.push_str("Everything that is there belongs to somebody.\n");
    } else {
        let mut lines = vec!["FINDING\tWHAT\tSIZE\tREPAIRED".to_owned()];
        lines.extend(report.findings.iter().map(|found| {
            let repaired = if found.repaired { "yes" } else { "no" };
            // A name is what somebody else chose.
            let what: String =
                found.what.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            format!("{}\t{what}\t{}\t{repaired}", found.kind, size(found.bytes))
        }));
        out.push_str(&table::align(&lines));
    }
    let disk = report.disk;
    let parts = [
        ("Images", disk.images),
        ("Containers", disk.containers),
        ("Volumes", disk.volumes),
        ("Logs", disk.logs),
        ("Trash", disk.trash),
        ("Database", disk.database),
        ("Other", disk.other),
        ("Total", disk.total),
    ];
    let mut lines = vec!["DISK\tSIZE".to_owned()];
    lines.extend(parts.iter().map(|(name, bytes)| format!("{name}\t{}", size(*bytes))));
    out.push('\n');
    out.push_str(&table::align(&lines));
    if is_left(report) && report.findings.iter().all(|finding| !finding.repaired) {
        out.push_str("\nTake away what belongs to nobody: hoy system check --repair\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_that_people_read() {
        let report = |findings: Value| -> CheckReport {
            serde_json::from_value(json!({
                "Findings": findings, "Disk": {"Images": 1_000_000, "Trash": 5, "Total": 1_000_005},
            }))
            .unwrap()
        };
        let clean = report(json!([]));
        assert!(!is_left(&clean) && shown(&clean).starts_with("Everything"));
        assert!(shown(&clean).contains("\nImages       1MB\n"), "{}", shown(&clean));
        let mixed = report(json!([
            {"Kind": "orphan-mount", "What": "/m\u{1b}[0m", "Bytes": 0, "Repaired": true},
            {"Kind": "orphan-directory", "What": "containers/x", "Bytes": 4096, "Repaired": false},
        ]));
        let text = shown(&mixed);
        assert!(is_left(&mixed) && !text.contains("--repair"));
        assert!(text.contains("orphan-mount       /m?[0m         0B        yes\n"), "{text}");
        assert!(text.contains("orphan-directory   containers/x   4.096kB   no\n"), "{text}");
    }
}
