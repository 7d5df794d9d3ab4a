//! One entry point for habits: `cargo xtask check | test | guest | bench | coverage | install | deb | demo`.
//!
//! Each task does all of its own set-up, missing Debian packages included, so that a clone is
//! all that anybody needs.

mod clients;
mod deb;
mod guest;
mod lanes;
mod programs;
mod tasks;

use std::process::ExitCode;

const USAGE: &str = "Usage: cargo xtask TASK

Tasks:
  check             formatting, lints and documentation, warnings denied
  test [ARGS]       what the tests need, then all of them, programs beside each other; with ARGS
                    what cargo test runs with these
{guest}  install [PREFIX]  a release build into PREFIX/bin (default /usr/local), then a first container
  deb [DIRECTORY]   a release build as a Debian package into a directory (default: this one)
  bench NAME        figures, beside whatever peers are installed: start, limits, network, volumes, quota, observe
  coverage          writes docs/COVERAGE.md anew: what of Docker's surface is there
  demo              a web server in a container, published, asked and ended
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match task {
        "check" => tasks::check(),
        "test" => tasks::test(rest),
        "guest" => match tasks::guest(rest) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        "install" => tasks::install(rest.first().map_or("/usr/local", String::as_str)),
        "deb" => deb::task(rest.first().map_or(".", String::as_str)),
        "bench" => tasks::bench(rest),
        "coverage" => tasks::coverage(),
        "demo" => tasks::demo(),
        _ => {
            let asked = matches!(task, "help" | "--help" | "-h");
            tasks::say(&USAGE.replace("{guest}", guest::USAGE));
            return if asked { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tasks::say(&format!("xtask {task}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
