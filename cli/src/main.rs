//! The program `heirloom`; see the library beside it.

fn main() -> std::process::ExitCode {
    heirloom_cli::main()
}
