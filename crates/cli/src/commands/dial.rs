//! `system dial-stdio`: standard input and output become a connection to the engine. The far end of
//! `ssh://` endpoints.

use std::io::{self, Write as _};

use super::App;
use crate::failure::{Failure, Result};

/// Ends when the engine closes; the end of standard input is handed on.
pub fn stdio(app: &App<'_>) -> Result<u8> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!("failed to open the raw stream connection: {error}"))
    };
    let mut stream = app.client.raw().map_err(|error| failed(&error))?;
    let mut to = stream.try_clone().map_err(|error| failed(&error))?;
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut to);
        let _ = to.shutdown_write();
    });
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = match io::Read::read(&mut stream, &mut buffer) {
            Ok(0) => return Ok(0),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The engine has gone: so does this.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        // Each piece at once: who waits for it has nothing more to say.
        out.write_all(&buffer[..length])?;
        out.flush()?;
    }
}
