//! The cache as a program. See the library beside it.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    heirloom_cache::main(concat!("heirloom-cache ", env!("CARGO_PKG_VERSION")))
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("the cache needs Linux: its memory is a memfd");
    std::process::ExitCode::FAILURE
}
