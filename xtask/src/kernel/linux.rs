//! Linux in a chain of kernels: what it begins with, and where it looks at what it is handed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::linux::initramfs::Initramfs;
use crate::linux::kernel::{self, Kernel};
use crate::linux::program;

/// Linux, built.
pub(crate) struct Linux {
    kernel: Kernel,
    /// The first process.
    program: PathBuf,
    initramfs: PathBuf,
}

impl Linux {
    /// Gets the kernel, and builds what runs on it.
    pub(crate) fn get(root: &Path, place: &Path) -> Result<Self> {
        let kernel = Kernel::get(&kernel::BASE, place)?;
        let program = program::build(root, "between")?;
        Ok(Self { kernel, program, initramfs: place.join("initramfs") })
    }

    pub(crate) fn image(&self) -> &Path {
        &self.kernel.image
    }

    pub(crate) fn initramfs(&self) -> &Path {
        &self.initramfs
    }

    /// Packs what it begins with: the first process, and the images of all kernels, its own the last.
    pub(crate) fn pack(&self, images: &[Vec<u8>]) -> Result<Vec<u8>> {
        let mut files = Initramfs::new();
        files.terminals();
        files.file("init", 0o755, &fs::read(&self.program)?);
        for (name, image) in ["one", "two", "linux"].into_iter().zip(images) {
            files.file(name, 0o644, image);
        }
        let archive = files.finish();
        fs::write(&self.initramfs, &archive)?;
        Ok(archive)
    }

    /// Where Linux looks at what it was handed: a virtual address.
    pub(crate) const fn looks_at(&self) -> u64 {
        self.kernel.populate
    }
}
