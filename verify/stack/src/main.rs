//! How much stack heirloom takes.
//!
//! Without more, or with limits (`boot=6144 revive=6144`): how deep the stack gets that `boot` and
//! `revive` run on, and the other calls of a takeover. Each runs on a thread whose stack was painted
//! before.
//!
//! With `frames FILE BYTES`: whether a function of the libraries in the program `FILE`, which is
//! built by the nightly compiler with `-Z emit-stack-sizes`, has a frame above `BYTES`.

mod frames;
#[cfg(target_os = "linux")]
mod painted;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &*arguments {
        [what, file, most] if what == "frames" => no_frame_above(Path::new(file), most),
        limits => no_call_above(limits),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn no_frame_above(file: &Path, most: &str) -> Result<(), String> {
    let most: u64 = most.parse().map_err(|_| format!("{most} is no number of bytes"))?;
    let functions =
        frames::of_program(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let largest = functions.first().ok_or("no function of the libraries is in the program")?;
    let (count, frames::Function { name, frame }) = (functions.len(), largest);
    println!("frames: {count} functions, the largest frame has {frame} bytes ({name})");
    let above: Vec<String> = functions
        .iter()
        .take_while(|function| function.frame > most)
        .map(|function| format!("{} bytes: {}", function.frame, function.name))
        .collect();
    if above.is_empty() {
        Ok(())
    } else {
        Err(format!("frames above {most}: {}", above.join(", ")))
    }
}

#[cfg(not(target_os = "linux"))]
fn no_call_above(_: &[String]) -> Result<(), String> {
    println!("SKIPPED: not Linux, whose threads take a stack of one's own");
    Ok(())
}

#[cfg(target_os = "linux")]
fn no_call_above(limits: &[String]) -> Result<(), String> {
    let depths = painted::measure()?;
    for (what, bytes) in &depths {
        println!("{what} takes {bytes} bytes of stack");
    }
    limits.iter().try_for_each(|limit| holds(&depths, limit))
}

/// Whether what `limit` names, as in `boot=6144`, takes no more.
#[cfg(target_os = "linux")]
fn holds(depths: &[(&str, usize)], limit: &str) -> Result<(), String> {
    let (what, most) = limit.split_once('=').ok_or(format!("{limit} is no limit"))?;
    let most: usize = most.parse().map_err(|_| format!("{limit} is no limit"))?;
    let found = depths.iter().find(|(name, _)| *name == what);
    match found.ok_or(format!("{limit}: no such call"))? {
        (_, bytes) if *bytes <= most => Ok(()),
        (_, bytes) => Err(format!("{what} takes {bytes} bytes of stack, the limit is {most}")),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_or_is_named() {
        let depths = [("boot", 5000), ("revive", 6000)];
        assert_eq!(holds(&depths, "boot=5000"), Ok(()));
        for limit in ["boot=4999", "claim=6000", "boot", "boot=many"] {
            assert!(holds(&depths, limit).is_err(), "{limit}");
        }
    }

    #[test]
    fn what_was_painted_is_measured() {
        let depths = painted::measure().unwrap();
        assert_eq!(depths.len(), 8);
        for (what, bytes) in &depths {
            assert!((256..1 << 18).contains(bytes), "{what}: {bytes}");
            assert!(holds(&depths, &format!("{what}=255")).is_err(), "{what}");
        }
    }
}
