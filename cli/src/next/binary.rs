//! What can be read off a kernel's own file: the texts that its structures say they are, its release, its
//! configuration.
//!
//! ```text
//!  bzImage, EFI zboot image ──> payload ─┐
//!  vmlinuz.gz, module.ko.xz ─────────────┼─> unpacked ─> ELF: what is loaded of it
//!                                        │               else: all of it
//! ```
//!
//! A kernel compares what it is handed with a text of its own, which stands in its memory with a zero behind it.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use object::elf::SHF_ALLOC;
use object::{Object, ObjectSection, SectionFlags};
use ruzstd::decoding::StreamingDecoder;

use super::config::Config;
use super::table::is_compatible;
use crate::image::{DICTIONARY, XZ_KIB, xz_dictionary};
use crate::machine::{ByteOrder, Machine};

/// What a kernel's file says.
#[derive(Clone, Debug, Default)]
pub(super) struct Binary {
    pub(super) texts: BTreeSet<String>,
    /// What stands at the end of a longer text: a message that ends so, or one that the linker stored within the
    /// other.
    pub(super) tails: BTreeSet<String>,
    /// `7.3.4`.
    pub(super) release: Option<String>,
    /// Its configuration, if it was built in.
    pub(super) config: Option<Config>,
    /// The size of its pages, where its processor has one only.
    pub(super) page_size: Option<u64>,
    /// What it is for.
    pub(super) machine: Option<Machine>,
}

/// The most that a kernel is, packed or not, in bytes.
pub(super) const LARGEST: u64 = 1 << 30;
/// How often what is unpacked can be packed itself.
const NESTED: usize = 4;

/// Reads `bytes`; `None` if they are no kernel of a kind that is known.
///
/// # Errors
/// It is one, and cannot be unpacked or is not sound.
pub(super) fn read(bytes: Vec<u8>) -> Result<Option<Binary>> {
    let mut bytes = bytes;
    for _ in 0..NESTED {
        let Some(next) = unpack(&bytes)? else { return parse(&bytes) };
        bytes = next;
    }
    bail!("packed {NESTED} times, and then again")
}

/// What to do about a file that is not whole.
const AGAIN: &str = "the file is cut short or broken: copy it anew";

/// What is in a kernel that loads itself, or in what is packed; `None` if `bytes` are neither.
fn unpack(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let length = bytes.len();
    if let Some(end) = [sectors_end(bytes), portable_end(bytes)].into_iter().flatten().max() {
        ensure!(end <= length, "it says that it has {end} bytes, and there are {length}: {AGAIN}");
    }
    if let Some(place) = x86(bytes).or_else(|| zboot(bytes)) {
        let payload = bytes.get(place);
        let payload =
            payload.with_context(|| format!("its payload lies behind its end: {AGAIN}"))?;
        let unpacked = decompress(payload).context("the kernel's payload")?;
        let unpacked = unpacked.with_context(|| {
            let packed = foreign(payload).map_or("in a way that is not known", |(name, _)| name);
            format!(
                "its payload is packed with {packed}, which is not read here: Linux's scripts/extract-vmlinux unpacks it"
            )
        });
        return unpacked.map(Some);
    }
    if let Some((name, command)) = foreign(bytes) {
        bail!("a file of {name}, which is not read here: `{command} FILE > KERNEL` unpacks it");
    }
    decompress(bytes)
}

/// What kernels are packed with that is not read, and what unpacks it.
fn foreign(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const KNOWN: [(&[u8], &str, &str); 5] = [
        (b"BZh", "bzip2", "bzip2 -dc"),
        (b"\x5d\0\0", "lzma", "xz --format=lzma -dc"),
        (b"\x89LZO", "lzop", "lzop -dc"),
        (b"\x02\x21\x4c\x18", "lz4", "lz4 -dc"),
        (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    ];
    let (_, name, command) = KNOWN.iter().find(|(magic, ..)| bytes.starts_with(magic))?;
    Some((name, command))
}

/// Where a bzImage says that it ends.
fn sectors_end(bytes: &[u8]) -> Option<usize> {
    /// Of the part that is loaded, in units of 16 bytes.
    const SIZE: usize = 0x1f4;
    x86(bytes)?;
    let setup = usize::from(*bytes.get(SECTORS)?).max(1) + 1;
    Some((setup * 512).saturating_add(u32_at(bytes, SIZE)?.saturating_mul(16)))
}

/// Where a file that firmware can start (PE) says that its last section, or its signature, ends.
fn portable_end(bytes: &[u8]) -> Option<usize> {
    /// Where the optional header of a 64-bit one has the place of the signature.
    const SIGNATURE: usize = 112 + 4 * 8;
    let half = |at: usize| {
        Some(usize::from(u16::from_le_bytes(bytes.get(at..)?.get(..2)?.try_into().ok()?)))
    };
    let head = u32_at(bytes, 0x3c)?;
    if !bytes.starts_with(b"MZ") || bytes.get(head..)?.get(..4)? != b"PE\0\0" {
        return None;
    }
    let (sections, optional) = (half(head + 6)?, half(head + 20)?);
    let start = head + 24;
    let mut last = 0;
    for section in 0..sections {
        let at = start + optional + section * 40;
        // A table of sections that is itself cut ends behind the file.
        let (Some(size), Some(place)) = (u32_at(bytes, at + 16), u32_at(bytes, at + 20)) else {
            return Some(at + 40);
        };
        last = last.max(size.saturating_add(place));
    }
    if half(start) == Some(0x20b) && optional >= SIGNATURE + 8 {
        let (place, size) =
            (u32_at(bytes, start + SIGNATURE)?, u32_at(bytes, start + SIGNATURE + 4)?);
        last = last.max(place.saturating_add(size));
    }
    Some(last)
}

/// Where the header of a bzImage says how many sectors its first part has.
const SECTORS: usize = 0x1f1;

/// Where a bzImage says that its payload is; `None` if it is none.
fn x86(bytes: &[u8]) -> Option<Range<usize>> {
    /// Where the header of the boot protocol has what is wanted of it.
    const MAGIC: usize = 0x202;
    const PAYLOAD: usize = 0x248;
    const LENGTH: usize = 0x24c;
    if bytes.get(MAGIC..)?.get(..4)? != b"HdrS" {
        return None;
    }
    let setup = usize::from(*bytes.get(SECTORS)?).max(1) + 1;
    let start = (setup * 512).saturating_add(u32_at(bytes, PAYLOAD)?);
    Some(start..start.saturating_add(u32_at(bytes, LENGTH)?))
}

/// Where an EFI image that unpacks itself says that its payload is; `None` if it is none.
fn zboot(bytes: &[u8]) -> Option<Range<usize>> {
    if !bytes.starts_with(b"MZ\0\0zimg") {
        return None;
    }
    let (start, length) = (u32_at(bytes, 8)?, u32_at(bytes, 12)?);
    Some(start..start.saturating_add(length))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.get(..4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(word)).ok()
}

/// Unpacks gzip, xz and zstd; `None` if `bytes` are none of them. What stands behind is passed over: the size,
/// in a bzImage.
pub(super) fn decompress(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    let mut all = |from: &mut dyn Read| {
        let read = from.take(LARGEST + 1).read_to_end(&mut out);
        let read = read.with_context(|| format!("cannot unpack it: {AGAIN}"))?;
        ensure!(read as u64 <= LARGEST, "it unpacks to more than {} MiB", LARGEST >> 20);
        Ok(())
    };
    if bytes.starts_with(b"\x1f\x8b\x08") {
        all(&mut GzDecoder::new(bytes))?;
    } else if bytes.starts_with(b"\xfd7zXZ\0") {
        let asks = xz_dictionary(bytes).unwrap_or_default();
        ensure!(asks <= DICTIONARY, "its dictionary takes {} MiB", asks >> 20);
        all(&mut XzReader::new_mem_limit(bytes, false, XZ_KIB))?;
    } else if bytes.starts_with(b"\x28\xb5\x2f\xfd") {
        let decoder = StreamingDecoder::new(Cursor::new(bytes));
        all(&mut decoder.map_err(|error| anyhow::anyhow!("cannot unpack it: {error}: {AGAIN}"))?)?;
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

/// What an unpacked kernel, or a module, says.
fn parse(bytes: &[u8]) -> Result<Option<Binary>> {
    let mut found = Binary::default();
    if bytes.starts_with(b"\x7fELF") {
        let broken = || format!("a broken ELF file: {AGAIN}");
        let file = object::File::parse(bytes).with_context(broken)?;
        let order = if file.is_little_endian() { ByteOrder::Little } else { ByteOrder::Big };
        found.machine = Some(Machine::of_elf(elf_machine(bytes, order), file.is_64(), order));
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
            // What of it is code does not say: in a small kernel all of it is.
            let data = section.data().with_context(broken)?;
            if sh_flags & u64::from(SHF_ALLOC) != 0 {
                found.scan(data);
            }
        }
    } else if let Some((machine, pages)) = plain(bytes) {
        (found.machine, found.page_size) = (Some(machine), pages);
        found.scan(bytes);
    } else {
        return Ok(None);
    }
    let config = found.config.as_ref();
    let (said, only) =
        (config.and_then(Config::page_size), found.machine.as_ref().and_then(Machine::page_size));
    found.page_size = found.page_size.or(said).or(only);
    Ok(Some(found))
}

/// The machine that the header of an ELF file names.
fn elf_machine(bytes: &[u8], order: ByteOrder) -> u16 {
    let half = bytes.get(18..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    match order {
        ByteOrder::Little => u16::from_le_bytes(half),
        ByteOrder::Big => u16::from_be_bytes(half),
    }
}

/// What the image of a kernel that is nothing but its memory is for, and the size of its pages, as its header says it;
/// `None` if `bytes` are none.
fn plain(bytes: &[u8]) -> Option<(Machine, Option<u64>)> {
    /// Where the header says what it is, and where its flags are.
    const MAGIC: usize = 0x38;
    const FLAGS: usize = 0x18;
    let flags = u32_at(bytes, FLAGS)?;
    let order = if flags & 1 == 0 { ByteOrder::Little } else { ByteOrder::Big };
    let (name, pages) = match bytes.get(MAGIC..)?.get(..4)? {
        // 0 stands for a size that is not said.
        b"ARM\x64" => {
            ("aarch64", [None, Some(4 << 10), Some(16 << 10), Some(64 << 10)][flags >> 1 & 3])
        }
        b"RSC\x05" => ("riscv64", None),
        _ => return None,
    };
    Some((Machine::named(name)?.ordered(order), pages))
}

/// What the release of a kernel stands behind.
const BANNER: &[u8] = b"Linux version ";
/// What a configuration that was built in stands between, in gzip.
const CONFIG: [&[u8]; 2] = [b"IKCFG_ST", b"IKCFG_ED"];

impl Binary {
    fn scan(&mut self, data: &[u8]) {
        for (text, whole) in data.split(|byte| *byte == 0).filter_map(ends_with_text) {
            let texts = if whole { &mut self.texts } else { &mut self.tails };
            texts.insert(text.to_owned());
        }
        if let Some(at) = find(data, BANNER) {
            let rest = data.get(at + BANNER.len()..).unwrap_or_default();
            let release = rest.split(|byte| !byte.is_ascii_graphic()).next().unwrap_or_default();
            let release = release.get(..release.len().min(64)).unwrap_or_default();
            self.release = self.release.take().or(String::from_utf8(release.to_vec()).ok());
        }
        let [start, end] = CONFIG.map(|mark| find(data, mark));
        if let (Some(start), Some(end)) = (start, end)
            && let Some(packed) = data.get(start + CONFIG[0].len()..end)
            && let Ok(Some(text)) = decompress(packed)
        {
            self.config = Config::read(&String::from_utf8_lossy(&text));
        }
    }
}

/// The text at the end of `bytes` that a structure can say that it is, and whether it is all of the text that ends
/// there. What stands before it, of another kind, has no zero behind it: an address.
fn ends_with_text(bytes: &[u8]) -> Option<(&str, bool)> {
    let is =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_;,.".contains(byte);
    let of_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    let length = bytes.iter().rev().take_while(|byte| is(byte)).count();
    let (before, text) = bytes.split_at_checked(bytes.len() - length)?;
    let text = std::str::from_utf8(text).ok()?;
    is_compatible(text).then_some((text, !before.last().is_some_and(of_text)))
}

fn find(data: &[u8], mark: &[u8]) -> Option<usize> {
    let first = *mark.first()?;
    let mut at = 0;
    while let Some(next) = data.get(at..)?.iter().position(|byte| *byte == first) {
        if data.get(at + next..)?.starts_with(mark) {
            return Some(at + next);
        }
        at += next + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    /// An arm64 image with these bytes in it.
    fn image(bytes: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x38];
        image.extend(b"ARM\x64\0");
        image.extend(bytes);
        image.push(0);
        image
    }

    /// A bzImage of this payload, with a size behind it.
    fn bz_image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0_u8; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&8_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
        let loaded = 8 + payload.len() + 4 + 64;
        image[0x1f4..0x1f8].copy_from_slice(&(loaded.div_ceil(16) as u32).to_le_bytes());
        image.extend([0x90; 8]);
        image.extend(payload);
        image.extend(7_u32.to_le_bytes());
        image.resize(1024 + loaded.next_multiple_of(16), 0xcc);
        image
    }

    /// What firmware starts, on arm64: a PE file of this payload.
    fn z_boot(payload: &[u8]) -> Vec<u8> {
        const HEAD: usize = 64 + 24 + 160 + 40;
        let mut image = b"MZ\0\0zimg".to_vec();
        image.extend([HEAD as u32, payload.len() as u32].map(u32::to_le_bytes).as_flattened());
        image.resize(0x3c, 0);
        image.extend(64_u32.to_le_bytes());
        image.extend(b"PE\0\0\x64\xaa\x01\0");
        image.resize(64 + 20, 0);
        image.extend([160, 0, 0, 0, 0x0b, 0x02]);
        image.resize(64 + 24 + 160 + 16, 0);
        image.extend([payload.len() as u32, HEAD as u32].map(u32::to_le_bytes).as_flattened());
        image.resize(HEAD, 0);
        image.extend(payload);
        image
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// xz of `bytes`, as `xz --format=xz` stores what it cannot make smaller.
    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut packed =
            lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn texts(bytes: Vec<u8>) -> Vec<String> {
        read(bytes).unwrap().unwrap().texts.into_iter().collect()
    }

    #[test]
    fn texts_with_a_zero_behind_them_are_found() {
        let data = b"\0kho-v4\0luo-v5: not this\0\xff\xff\xff\x81memfd-v2\0\0vmalloc-v1 \0guest_memfd_luo_v1\0V-v1\0\
                     no luo-v4\0";
        let found = read(image(data)).unwrap().unwrap();
        assert!(found.texts.iter().eq(["guest_memfd_luo_v1", "kho-v4", "memfd-v2"]), "{found:?}");
        assert!(found.tails.iter().eq(["luo-v4"]), "{found:?}");
    }

    #[test]
    fn a_kernel_is_unpacked_however_it_is_packed() {
        let plain = image(b"kho-v4\0Linux version 7.3.4-test (a@b)\0");
        for packed in [bz_image(&gzip(&plain)), gzip(&plain), gzip(&gzip(&plain))] {
            let found = read(packed).unwrap().unwrap();
            assert_eq!(found.release.as_deref(), Some("7.3.4-test"));
            assert!(found.texts.contains("kho-v4"));
        }
        assert_eq!(texts(bz_image(&zstd(&plain))), ["kho-v4"]);
        assert_eq!(texts(bz_image(&xz(&plain))), ["kho-v4"]);
        assert_eq!(texts(z_boot(&gzip(&plain))), ["kho-v4"]);
    }

    #[test]
    fn a_configuration_that_was_built_in_is_read() {
        let config = gzip(b"CONFIG_KEXEC_HANDOVER=y\nCONFIG_PAGE_SHIFT=16\n");
        let found =
            read(image(&[b"IKCFG_ST", &config[..], b"IKCFG_ED"].concat())).unwrap().unwrap();
        assert!(found.config.unwrap().has("KEXEC_HANDOVER"));
        assert_eq!(found.page_size, Some(65536));
    }

    #[test]
    fn what_is_no_kernel_is_none_and_what_is_broken_is_said() {
        assert!(read(b"kernel Linux 7.3\n".to_vec()).unwrap().is_none());
        let said = |bytes: Vec<u8>| format!("{:#}", read(bytes).unwrap_err());
        assert!(said(b"\x7fELF\x02".to_vec()).starts_with("a broken ELF file"));
        assert!(said(b"\x1f\x8b\x08\0".to_vec()).starts_with("cannot unpack it"));
        let mut packed = image(b"kho-v4\0");
        for _ in 0..5 {
            packed = gzip(&packed);
        }
        assert_eq!(said(packed), "packed 4 times, and then again");
    }

    /// Wherever a kernel's file ends: what it lacks is not taken for what it has not.
    #[test]
    fn a_kernel_that_is_cut_anywhere_says_so() {
        let plain = image(b"\0kho-v4\0Linux version 7.3.4-test (a@b)\0");
        for packed in [gzip(&plain), zstd(&plain), xz(&plain)] {
            for whole in [bz_image(&packed), z_boot(&packed), packed] {
                assert!(read(whole.clone()).unwrap().is_some());
                for end in 0..whole.len() {
                    match read(whole[..end].to_vec()) {
                        Err(error) => {
                            assert!(
                                format!("{error:#}").contains("copy it anew"),
                                "{end}: {error:#}"
                            );
                        }
                        // No more than a few bytes, of anything.
                        Ok(found) => {
                            assert!(found.is_none() && end < 0x250, "{end} of {}", whole.len());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_another_packer_packed_is_named() {
        for (head, name) in [
            (&b"BZh91AY&SY"[..], "bzip2"),
            (b"\x5d\0\0\x80\0", "lzma"),
            (b"\x89LZO\0\r\n\x1a\n", "lzop"),
            (b"\x02\x21\x4c\x18", "lz4"),
            (b"\x04\x22\x4d\x18", "lz4"),
        ] {
            let packed = [head, &[7; 32]].concat();
            for (whole, way) in [
                (bz_image(&packed), "extract-vmlinux"),
                (z_boot(&packed), "extract-vmlinux"),
                (packed.clone(), "> KERNEL` unpacks it"),
            ] {
                let said = format!("{:#}", read(whole).unwrap_err());
                assert!(said.contains(name) && said.contains(way), "{said}");
            }
        }
        let said = format!("{:#}", read(bz_image(&[7; 32])).unwrap_err());
        assert!(
            said.contains("in a way that is not known") && said.contains("extract-vmlinux"),
            "{said}"
        );
    }

    #[test]
    fn a_kernel_says_what_it_is_for() {
        let of = |bytes: Vec<u8>| {
            let found = read(bytes).unwrap().unwrap();
            (found.machine.unwrap(), found.page_size)
        };
        let mut riscv = vec![0; 0x38];
        riscv.extend(b"RSC\x05");
        assert_eq!(of(riscv), (Machine::named("riscv64").unwrap(), Some(4096)));
        let mut arm = image(b"");
        arm[0x18] = 0b101;
        assert_eq!(of(arm), (Machine::named("aarch64_be").unwrap(), Some(16384)));
    }
}
