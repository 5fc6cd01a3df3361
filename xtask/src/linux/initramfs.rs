//! What a kernel starts from: files in a cpio archive of the kind `newc`, which Linux unpacks into
//! its first file system (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Each entry is a header of 110 ASCII characters, the path with a NUL, and the bytes; the bytes and
//! the next header begin at multiples of four.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The largest file that is packed: a kernel's memory is small here.
const LARGEST: u64 = 8 << 20;

/// An archive being written.
#[derive(Clone)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    /// Each entry's own.
    number: u32,
}

/// How much was packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Packed {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Initramfs {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), number: 0 }
    }

    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, 0o040_755, (0, 0), &[]);
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entry(path, 0o100_000 | mode, (0, 0), bytes);
    }

    /// The devices that the first process reads and writes, in the directory `dev`: the console, and a serial line that
    /// the kernel writes nothing to.
    pub(crate) fn terminals(&mut self) {
        self.directory("dev");
        self.entry("dev/console", 0o020_600, (5, 1), &[]);
        self.entry("dev/ttyS1", 0o020_600, (4, 65), &[]);
    }

    /// The project's files, below the directory `to`: neither what is hidden nor what was built.
    pub(crate) fn files_below(&mut self, root: &Path, to: &str) -> Result<Packed> {
        let mut packed = Packed::default();
        self.directory(to);
        self.below(root, to, &mut packed)?;
        Ok(packed)
    }

    fn below(&mut self, dir: &Path, to: &str, packed: &mut Packed) -> Result<()> {
        let entries = fs::read_dir(dir).with_context(|| format!("{}", dir.display()))?;
        let mut entries: Vec<_> = entries.collect::<std::io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let (kind, path) = (entry.file_type()?, format!("{to}/{name}"));
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if kind.is_dir() {
                self.directory(&path);
                self.below(&entry.path(), &path, packed)?;
            } else if kind.is_file() && entry.metadata()?.len() <= LARGEST {
                let bytes = fs::read(entry.path())?;
                self.file(&path, 0o644, &bytes);
                packed.files += 1;
                packed.bytes += bytes.len() as u64;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.number += 1;
        let fields = [
            self.number,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            bytes.len() as u32,
            0, // the archive's own device
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // no checksum
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(bytes);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive, with the entry that ends it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_written_as_the_format_says() {
        let mut archive = Initramfs::new();
        archive.file("a", 0o644, b"xyz");
        let entry = "070701\
                     00000001000081a4000000000000000000000001000000000000000300000000\
                     0000000000000000000000000000000200000000a\0xyz\0";
        assert_eq!(String::from_utf8(archive.bytes.clone()).unwrap(), entry);
        assert_eq!(archive.finish().len() % 4, 0);
    }

    #[test]
    fn what_is_hidden_or_built_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["sub/deep", "target", ".git"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for (path, text) in
            [("a", "1"), ("sub/b", "22"), ("sub/deep/c", ""), ("target/d", "4"), (".git/e", "5")]
        {
            fs::write(dir.path().join(path), text).unwrap();
        }
        let mut archive = Initramfs::new();
        let packed = archive.files_below(dir.path(), "files").unwrap();
        assert_eq!(packed, Packed { files: 3, bytes: 3 });
        let text = String::from_utf8(archive.bytes).unwrap();
        for path in ["files\0", "files/a\0", "files/sub/b\0", "files/sub/deep/c\0"] {
            assert!(text.contains(path), "{path:?}");
        }
        assert!(!text.contains("target") && !text.contains(".git"));
    }
}
