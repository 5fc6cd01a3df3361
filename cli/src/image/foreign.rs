//! Files that hold a machine's memory and cannot be looked into as they are, and the way on.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FileType;

/// What a file starts with, what it is, and what to do about it.
const KNOWN: [(&[u8], &str, &str); 12] = [
    (
        b"DISKDUMP",
        "a compressed diskdump file",
        "`makedumpfile -E FILE CORE` makes an ELF core of one that kdump saved",
    ),
    (b"BZh", "a bzip2 file", "`bzip2 -dc FILE > IMAGE` unpacks it"),
    (b"\x04\x22\x4d\x18", "an lz4 file", "`lz4 -dc FILE > IMAGE` unpacks it"),
    (b"\x89LZO\0\r\n\x1a\n", "an lzop file", "`lzop -dc FILE > IMAGE` unpacks it"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (
        b"LibvirtQemudSave",
        "a guest that libvirt saved",
        "`virsh dump --memory-only` writes an ELF core",
    ),
    (
        b"QEVM",
        "a guest's state as QEMU migrates it",
        "`dump-guest-memory` in the monitor writes an ELF core",
    ),
    (b"QFI\xfb", "a disk image", "`dump-guest-memory` in QEMU's monitor writes an ELF core"),
    (SNAPSHOTS[0], "a VMware snapshot's state", VMEM),
    (SNAPSHOTS[1], "a VMware snapshot's state", VMEM),
    (SNAPSHOTS[2], "a VMware snapshot's state", VMEM),
    (SNAPSHOTS[3], "a VMware snapshot's state", VMEM),
];
const SNAPSHOTS: [&[u8]; 4] =
    [b"\xd0\xbe\xd2\xbe", b"\xd1\xba\xd1\xba", b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe"];
const VMEM: &str = "the .vmem file beside it is raw memory, --base 0, as far as it has no hole \
                    below 4 GiB";

/// Opens the file of an image, or of a kernel: `-` is standard input.
///
/// # Errors
/// There is none; or standard input, which can be read once, was opened before.
pub(crate) fn open(path: &Path) -> Result<File> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if path == Path::new("-") {
        let input = std::io::stdin().as_fd().try_clone_to_owned();
        let input = input.context("cannot read standard input")?;
        let stat = rustix::fs::fstat(&input).context("cannot stat it")?;
        if is_stream(FileType::from_raw_mode(stat.st_mode)).is_ok_and(|stream| stream) {
            ensure!(
                !TAKEN.swap(true, Relaxed),
                "standard input can be read once, and is named twice: one of the two must be a file"
            );
        }
        return Ok(File::from(input));
    }
    File::open(path).context("cannot open it")
}

/// Whether a file of this kind can be read only from its first byte to its last.
///
/// # Errors
/// It is none that an image could be in.
pub(super) fn is_stream(kind: FileType) -> Result<bool> {
    let what = match kind {
        FileType::RegularFile => return Ok(false),
        FileType::Fifo | FileType::Socket => return Ok(true),
        FileType::Directory => "a directory",
        FileType::CharacterDevice => "a device",
        FileType::BlockDevice => "a disk",
        _ => "none",
    };
    bail!("an image is a regular file, or comes out of a pipe; this is {what}")
}

/// Refuses a file that starts with `head`, if it is known to be no image that could be looked at.
pub(super) fn refuse(head: &[u8]) -> Result<()> {
    match KNOWN.iter().find(|(magic, ..)| head.starts_with(magic)) {
        Some((_, what, way)) => bail!("{what}, which is not read here; {way}"),
        None => Ok(()),
    }
}
