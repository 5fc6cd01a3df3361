//! What cannot be had on this machine: no failure of the project's, and never left out silently.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::{fmt, fs};

use anyhow::{Result, ensure};

/// What cannot be had on this machine.
#[derive(Debug)]
struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// For `?`: this cannot be had here.
pub(crate) fn unavailable<T>(why: impl Into<String>) -> Result<T> {
    Err(Unavailable(why.into()).into())
}

/// The file that says why the last run was skipped, if it was: for the script that lists at its end
/// what was not done.
const SKIPPED: &str = "skipped";

/// Runs a command that keeps its files in `place`. Says so if it has to be skipped, there too.
pub(crate) fn run(name: &str, place: &Path, command: impl FnOnce() -> Result<()>) -> ExitCode {
    let Err(error) = prepare(place).and_then(|()| command()) else { return ExitCode::SUCCESS };
    if let Some(why) = error.downcast_ref::<Unavailable>() {
        println!("\n**** SKIPPED: cargo xtask {name}: {why} ****\n");
        if let Err(error) = fs::write(place.join(SKIPPED), format!("{why}\n")) {
            eprintln!("{name}: the reason is not kept: {error:#}");
        }
        return ExitCode::SUCCESS;
    }
    eprintln!("{name}: {error:#}");
    ExitCode::FAILURE
}

/// Makes the place, without a reason of the last run's.
fn prepare(place: &Path) -> Result<()> {
    fs::create_dir_all(place)?;
    if let Err(error) = fs::remove_file(place.join(SKIPPED)) {
        ensure!(error.kind() == ErrorKind::NotFound, "{SKIPPED}: {error}");
    }
    if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
        return unavailable("the kernel is built and emulated on x86-64 Linux alone");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn the_reason_is_kept_until_the_next_run() {
        let place = tempfile::tempdir().expect("a directory");
        let kept = || fs::read_to_string(place.path().join(SKIPPED)).ok();
        let code = |code| format!("{code:?}");
        let ran = run("test", place.path(), || unavailable("there is no kernel"));
        assert_eq!(code(ran), code(ExitCode::SUCCESS));
        assert_eq!(kept().as_deref(), Some("there is no kernel\n"));
        let ran = run("test", place.path(), || anyhow::bail!("a byte is lost"));
        assert_eq!(code(ran), code(ExitCode::FAILURE));
        assert_eq!(kept(), None);
    }
}
