//! The program `heirloom`; see the library beside it.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    heirloom_cli::main()
}

#[cfg(not(target_os = "linux"))]
compile_error!("the command `heirloom` needs Linux, whose calls it reads images by");

/// Nothing, so that the compiler says no more than the sentence above.
#[cfg(not(target_os = "linux"))]
fn main() {}
