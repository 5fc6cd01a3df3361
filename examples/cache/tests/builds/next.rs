//! The next build of the cache, which the tests let it become.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    heirloom_cache::main("heirloom-cache next")
}

#[cfg(not(target_os = "linux"))]
fn main() {}
