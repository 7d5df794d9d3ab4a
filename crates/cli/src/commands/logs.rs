//! `logs`, and the times that commands take.

use hoy_types::Timestamp;

use super::App;
use super::run::container;
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::parse::duration;
use crate::session::copy_output;

pub fn logs(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let since = moment(flags.text("since"), "since")?;
    let until = moment(flags.text("until"), "until")?;
    let about = app.client.get(format!("{}/json", container(app.arg(0)))).fetch()?;
    let id = about["Id"].as_str().unwrap_or_default();
    let answer = app
        .client
        .get(format!("/containers/{id}/logs"))
        .switch("details", flags.switch("details"))
        .switch("follow", flags.switch("follow"))
        .given("since", &since)
        .query("stderr", "1")
        .query("stdout", "1")
        .given("tail", flags.text("tail"))
        .switch("timestamps", flags.switch("timestamps"))
        .given("until", &until)
        .send()?;
    copy_output(answer, about["Config"]["Tty"] == true)?;
    Ok(0)
}

/// A moment for the engine: seconds and, where needed, nanoseconds. Takes a Unix time, an RFC 3339
/// text (also shortened), or a duration back from now.
pub fn moment(text: &str, name: &str) -> Result<String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    if text.bytes().all(|c| c.is_ascii_digit() || c == b'.') && text.bytes().any(|c| c != b'.') {
        return Ok(text.to_owned());
    }
    if let Ok(nanos) = duration(text) {
        return Ok(shown(Timestamp::from_nanos(human::now().nanos() - nanos)));
    }
    let bad = || {
        let what = format!("failed to parse value as time or duration: \"{text}\"");
        Failure::new(match name {
            "" => what,
            name => format!("invalid value for \"{name}\": {what}"),
        })
    };
    let whole = match text.len() {
        // A date, or one with hours, or with minutes.
        10 => format!("{text}T00:00:00"),
        13 => format!("{text}:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    if let Ok(time) = whole.parse::<Timestamp>() {
        return Ok(shown(time));
    }
    let local: jiff::civil::DateTime = whole.parse().map_err(|_| bad())?;
    let nanos = human::local(local).ok_or_else(bad)?;
    Ok(shown(Timestamp::from_nanos(nanos)))
}

fn shown(time: Timestamp) -> String {
    let nanos = time.nanos().rem_euclid(1_000_000_000);
    if nanos == 0 { time.seconds().to_string() } else { format!("{}.{nanos:09}", time.seconds()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let of = |text: &str| moment(text, "since").unwrap();
        assert_eq!(of("1700000000"), "1700000000");
        assert_eq!(of("1700000000.5"), "1700000000.5");
        assert_eq!(of("2023-11-14T22:13:20Z"), "1700000000");
        assert_eq!(of("2023-11-14T22:13:20.5Z"), "1700000000.500000000");
        assert!(of("10m").len() > 9);
        assert!(moment("soon", "since").is_err());
    }
}
