//! hoy: the command line.

fn main() -> std::process::ExitCode {
    hoy_cli::main()
}
