//! The binary: nothing but a call.

fn main() -> std::process::ExitCode {
    defib::cli::main()
}
