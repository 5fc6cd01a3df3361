//! Files that hold a machine's memory and cannot be looked into as they are, and the way on.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FileType;

/// What a file starts with, what it is, and what to do about it.
const KNOWN: [(&[u8], &str, &str); 18] = [
    (
        b"KDUMP   ",
        "a compressed kdump file",
        "`makedumpfile -E FILE CORE` makes an ELF core of one that kdump saved. Of one that QEMU \
         wrote it does so only if the guest has `-device vmcoreinfo`; without -z, QEMU's \
         dump-guest-memory writes an ELF core itself",
    ),
    (
        b"DISKDUMP",
        "a compressed diskdump file",
        "`makedumpfile -E FILE CORE` makes an ELF core of one that kdump saved",
    ),
    (
        b"makedumpfile",
        "a flattened kdump file",
        "put it in order with `makedumpfile -R DUMP < FILE`, then look at DUMP: if it is a \
         compressed one, `makedumpfile -E DUMP CORE` makes an ELF core of it. One that QEMU's \
         dump-guest-memory wrote with -z needs a guest with `-device vmcoreinfo` for that; \
         without -z it is an ELF core at once",
    ),
    (
        b"EMiL",
        "a LiME image",
        "take it with `format=padded` instead, which is raw memory from address 0: --base 0",
    ),
    (b"\x1f\x8b\x08", "a gzip file", "`gzip -dc FILE > IMAGE` unpacks it"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "`zstd -dc FILE > IMAGE` unpacks it"),
    (b"\xfd7zXZ\0", "an xz file", "`xz -dc FILE > IMAGE` unpacks it"),
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

/// Opens the file of an image.
pub(super) fn open(path: &Path) -> Result<File> {
    ensure!(
        path != Path::new("-"),
        "standard input is not read, as an image is looked at anywhere in it: write it to a file \
         first (a file of that name is ./-)",
    );
    File::open(path).context("cannot open it")
}

/// Refuses what is no regular file.
pub(super) fn regular(kind: FileType) -> Result<()> {
    let what = match kind {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe: write what comes out of it to a file first",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a device",
        FileType::BlockDevice => "a disk",
        _ => "none",
    };
    bail!("an image is a regular file; this is {what}")
}

/// Refuses a file that starts with `head`, if it is known to be no image that could be looked at.
pub(super) fn refuse(head: &[u8]) -> Result<()> {
    match KNOWN.iter().find(|(magic, ..)| head.starts_with(magic)) {
        Some((_, what, way)) => bail!("{what}, which is not read here; {way}"),
        None => Ok(()),
    }
}
