//! A kernel that differs from another in one text.
//!
//! ```text
//!  bzImage  [ loader | payload: vmlinux in xz      | size | … ]
//!                         │ "luo-v5" becomes "luo-v6"
//!           [ loader | payload, packed harder | 0… | size | … ]
//! ```
//!
//! The loader knows how long the payload is, and what it unpacks to: neither changes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Where the header of the boot protocol has what is wanted of it (`Documentation/arch/x86/boot.rst`).
const SECTORS: usize = 0x1f1;
const PAYLOAD: usize = 0x248;
const LENGTH: usize = 0x24c;
/// Bytes behind the packed kernel that are the payload's too: the size that it unpacks to.
const SIZE: usize = 4;
/// How `xz` looks for what it has seen before. Which of them packs best is a matter of chance, of a thousandth: as much as
/// a kernel may become longer by another text.
const PACKINGS: [&str; 4] = ["mf=bt3", "nice=128", "nice=64", "nice=273"];

/// Writes the bzImage at `from` to `to` with `new` wherever a text is `old`: the same length, to its end.
pub(crate) fn patched(from: &Path, old: &str, new: &str, to: &Path) -> Result<()> {
    ensure!(old.len() == new.len(), "{old:?} and {new:?} are of different lengths");
    let mut image = fs::read(from).with_context(|| from.display().to_string())?;
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).context("a bzImage has a header")?;
        Ok::<_, anyhow::Error>(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let start = (usize::from(image[SECTORS]) + 1) * 512 + word(PAYLOAD)?;
    let end = start + word(LENGTH)? - SIZE;
    let packed = image.get(start..end).context("a bzImage has a payload")?;
    let mut kernel = xz(&["-dc", "--single-stream"], packed)?;
    let (old, new) = (format!("{old}\0"), format!("{new}\0"));
    let places: Vec<_> =
        kernel.windows(old.len()).enumerate().filter(|(_, at)| *at == old.as_bytes()).collect();
    let places: Vec<usize> = places.into_iter().map(|(at, _)| at).collect();
    ensure!(!places.is_empty(), "the kernel has no text {old:?}");
    for at in places {
        kernel[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    let packed = PACKINGS.iter().find_map(|how| {
        let lzma = format!("--lzma2=preset=9e,dict=32MiB,{how}");
        match xz(&["-c", "--check=crc32", "--x86", &lzma], &kernel) {
            Ok(packed) => (packed.len() <= end - start).then_some(Ok(packed)),
            Err(error) => Some(Err(error)),
        }
    });
    let packed = packed.with_context(|| {
        format!("the kernel with {new:?} is longer than before, however it is packed")
    })??;
    image[start..end].fill(0);
    image[start..start + packed.len()].copy_from_slice(&packed);
    fs::write(to, image).with_context(|| to.display().to_string())
}

/// What `xz` makes of `input`.
fn xz(options: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new("xz");
    command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("xz")?;
    let mut stdin = child.stdin.take().context("xz has a standard input")?;
    let done = std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(input));
        let done = child.wait_with_output();
        // Where xz has read enough, that it reads no more is no fault: its status says whether it was.
        drop(writer.join());
        done
    })?;
    ensure!(done.status.success(), "xz {options:?} ended with {}", done.status);
    Ok(done.stdout)
}
