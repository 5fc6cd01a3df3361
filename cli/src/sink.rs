//! A file that the command writes: there when it is whole, and not before.
//!
//! ```text
//!  nothing there, or a file     bytes -> a file beside it ──renamed──> the file
//!  pipe, terminal, device, -    bytes -> what is there
//! ```
//!
//! What was there stays as it was until the new file is whole, and stays for good if that fails.
//! Nothing is removed that was not made here, and the image is never the output.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, bail, ensure};

use crate::image::Image;

/// Symbolic links that are followed, one to the next.
const LINKS: usize = 40;
/// A step of zeroes.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// Where bytes go, from the first to the last.
#[derive(Debug)]
pub(crate) struct Sink {
    to: To,
    /// Bytes so far.
    at: u64,
}

#[derive(Debug)]
enum To {
    /// A file that takes its name at the end.
    Fresh(Fresh),
    /// What was there, and is no file that could be replaced.
    Stream(File),
}

/// A file under a name of its own, which it loses with the value.
#[derive(Debug)]
struct Fresh {
    file: File,
    path: PathBuf,
    /// The name that it is to have.
    target: PathBuf,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // It is gone if it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

impl Sink {
    /// Opens `path` to be written. What is there is not changed yet, if it is a file.
    ///
    /// # Errors
    /// It is `image`, a directory, or cannot be written.
    pub(crate) fn open(path: &Path, image: &Image) -> Result<Self> {
        Ok(Self { to: To::open(path, image).with_context(|| path.display().to_string())?, at: 0 })
    }

    /// Writes `bytes`.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.to {
            To::Fresh(fresh) => fresh.file.write_all_at(bytes, self.at)?,
            To::Stream(file) => file.write_all(bytes)?,
        }
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Leaves out `bytes` bytes that read as zeroes; a stream gets them.
    pub(crate) fn hole(&mut self, bytes: u64) -> io::Result<()> {
        if let To::Stream(file) = &mut self.to {
            let mut left = bytes;
            while left > 0 {
                let step = left.min(ZEROES.len() as u64);
                file.write_all(ZEROES.get(..step as usize).unwrap_or(&ZEROES))?;
                left -= step;
            }
        }
        self.at = self.at.saturating_add(bytes);
        Ok(())
    }

    /// Gives the file its size before it is filled, so that one that is too large fails early.
    pub(crate) fn reserve(&self, bytes: u64) -> io::Result<()> {
        match &self.to {
            To::Fresh(fresh) => fresh.file.set_len(bytes),
            To::Stream(_) => Ok(()),
        }
    }

    /// Gives the file its name.
    pub(crate) fn finish(self) -> io::Result<()> {
        if let To::Fresh(fresh) = &self.to {
            fresh.file.set_len(self.at)?;
            fs::rename(&fresh.path, &fresh.target)?;
        }
        Ok(())
    }
}

impl To {
    fn open(path: &Path, image: &Image) -> Result<Self> {
        if path == Path::new("-") {
            let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            ensure!(!image.is(&output.metadata()?), "this is the image itself");
            return Ok(Self::Stream(output));
        }
        let old = match fs::metadata(path) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(old) = &old {
            ensure!(!image.is(old), "this is the image itself");
            ensure!(!old.is_dir(), "this is a directory");
        }
        let target = resolve(path)?;
        match (old, target) {
            (Some(old), Some(target)) if old.is_file() => {
                // One that must not be written must not be replaced either.
                File::options().write(true).open(path)?;
                Ok(Self::Fresh(Fresh::beside(target, Some(&old))?))
            }
            (None, Some(target)) => Ok(Self::Fresh(Fresh::beside(target, None)?)),
            _ => Ok(Self::Stream(File::options().write(true).open(path)?)),
        }
    }
}

/// Where `path` leads, through symbolic links; `None` for a descriptor of a process, which has no
/// name.
fn resolve(path: &Path) -> Result<Option<PathBuf>> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        let dir = at.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = fs::canonicalize(dir)?;
        if dir.starts_with("/proc") {
            return Ok(None);
        }
        let Some(name) = at.file_name() else { bail!("this names no file") };
        let place = dir.join(name);
        match fs::read_link(&place) {
            Ok(next) => at = dir.join(next),
            Err(_) => return Ok(Some(place)),
        }
    }
    bail!("too many symbolic links")
}

impl Fresh {
    /// A new file in the directory of `target`, with the permissions of `old` if that is there.
    fn beside(target: PathBuf, old: Option<&Metadata>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = std::process::id();
        loop {
            // Short, as the target's own name may be as long as names can be.
            let name = format!(".heirloom-{id}-{}", NEXT.fetch_add(1, Relaxed));
            let path = target.with_file_name(name);
            match File::create_new(&path) {
                Ok(file) => {
                    let fresh = Self { file, path, target };
                    if let Some(old) = old {
                        fresh.file.set_permissions(old.permissions())?;
                    }
                    return Ok(fresh);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context("cannot make a file beside it"),
            }
        }
    }
}
