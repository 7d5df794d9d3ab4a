//! hoy-shim: the supervisor of one container.

fn main() -> std::process::ExitCode {
    hoy_shim::main()
}
