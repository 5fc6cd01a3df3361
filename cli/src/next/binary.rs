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

/// What a kernel's file says.
#[derive(Clone, Debug, Default)]
pub(super) struct Binary {
    pub(super) texts: BTreeSet<String>,
    /// `7.3.4`.
    pub(super) release: Option<String>,
    /// Its configuration, if it was built in.
    pub(super) config: Option<Config>,
    /// The size of its pages, where its processor has one only.
    pub(super) page_size: Option<u64>,
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

/// What is in a kernel that loads itself, or in what is packed; `None` if `bytes` are neither.
fn unpack(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    if let Some(place) = x86(bytes).or_else(|| zboot(bytes)) {
        let payload = bytes.get(place).context("the kernel's payload does not lie in the file")?;
        let unpacked = decompress(payload).context("the kernel's payload")?;
        let known = "it is packed in a way that is not read here: Linux's scripts/extract-vmlinux unpacks it";
        return unpacked.context(known).map(Some);
    }
    decompress(bytes)
}

/// Where a bzImage says that its payload is; `None` if it is none.
fn x86(bytes: &[u8]) -> Option<Range<usize>> {
    /// Where the header of the boot protocol has what is wanted of it.
    const MAGIC: usize = 0x202;
    const SECTORS: usize = 0x1f1;
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
fn decompress(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    let mut all = |from: &mut dyn Read| {
        let read = from.take(LARGEST + 1).read_to_end(&mut out).context("cannot unpack it")?;
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
        all(&mut decoder.map_err(|error| anyhow::anyhow!("cannot unpack it: {error}"))?)?;
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

/// What an unpacked kernel, or a module, says.
fn parse(bytes: &[u8]) -> Result<Option<Binary>> {
    /// Where the image of an arm64 kernel says what it is.
    const ARM64: usize = 0x38;
    let mut found = Binary::default();
    if bytes.starts_with(b"\x7fELF") {
        let file = object::File::parse(bytes).context("a broken ELF file")?;
        if file.architecture() == object::Architecture::X86_64 {
            found.page_size = Some(4096);
        }
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
            // What of it is code does not say: in a small kernel all of it is.
            if sh_flags & u64::from(SHF_ALLOC) != 0
                && let Ok(data) = section.data()
            {
                found.scan(data);
            }
        }
    } else if bytes.get(ARM64..).is_some_and(|rest| rest.starts_with(b"ARM\x64")) {
        found.scan(bytes);
    } else {
        return Ok(None);
    }
    if let Some(config) = &found.config {
        found.page_size = found.page_size.or(config.page_size());
    }
    Ok(Some(found))
}

/// What the release of a kernel stands behind.
const BANNER: &[u8] = b"Linux version ";
/// What a configuration that was built in stands between, in gzip.
const CONFIG: [&[u8]; 2] = [b"IKCFG_ST", b"IKCFG_ED"];

impl Binary {
    fn scan(&mut self, data: &[u8]) {
        let texts = data.split(|byte| *byte == 0).filter_map(ends_with_text);
        self.texts.extend(texts.map(str::to_owned));
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

/// The text at the end of `bytes` that a structure can say that it is. What stands before it, of another kind, has
/// no zero behind it: an address.
fn ends_with_text(bytes: &[u8]) -> Option<&str> {
    let is =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_;,.".contains(byte);
    let length = bytes.iter().rev().take_while(|byte| is(byte)).count();
    let text = std::str::from_utf8(bytes.get(bytes.len() - length..)?).ok()?;
    is_compatible(text).then_some(text)
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
        image.extend([0x90; 8]);
        image.extend(payload);
        image.extend(7_u32.to_le_bytes());
        image.extend([0xcc; 64]);
        image
    }

    fn texts(bytes: Vec<u8>) -> Vec<String> {
        read(bytes).unwrap().unwrap().texts.into_iter().collect()
    }

    #[test]
    fn texts_with_a_zero_behind_them_are_found() {
        let data = b"kho-v4\0luo-v5: not this\0\xff\xff\xff\x81memfd-v2\0\0vmalloc-v1 \0guest_memfd_luo_v1\0V-v1\0";
        assert_eq!(texts(image(data)), ["guest_memfd_luo_v1", "kho-v4", "memfd-v2"]);
    }

    #[test]
    fn a_kernel_is_unpacked_however_it_is_packed() {
        let plain = image(b"kho-v4\0Linux version 7.3.4-test (a@b)\0");
        for packed in [bz_image(&gzip(&plain)), gzip(&plain), gzip(&gzip(&plain))] {
            let found = read(packed).unwrap().unwrap();
            assert_eq!(found.release.as_deref(), Some("7.3.4-test"));
            assert!(found.texts.contains("kho-v4"));
        }
        let zstd = ruzstd::encoding::compress_to_vec(
            &plain[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert_eq!(texts(bz_image(&zstd)), ["kho-v4"]);
        let mut zboot = b"MZ\0\0zimg".to_vec();
        let payload = gzip(&plain);
        zboot.extend([64_u32.to_le_bytes(), (payload.len() as u32).to_le_bytes()].as_flattened());
        zboot.resize(64, 0);
        zboot.extend(payload);
        assert_eq!(texts(zboot), ["kho-v4"]);
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
        assert!(said(bz_image(b"\x89LZO")).contains("extract-vmlinux"));
        let mut short = bz_image(&gzip(b"x"));
        short.truncate(1030);
        assert_eq!(said(short), "the kernel's payload does not lie in the file");
        assert!(said(b"\x7fELF\x02".to_vec()).starts_with("a broken ELF file"));
        assert!(said(b"\x1f\x8b\x08\0".to_vec()).starts_with("cannot unpack it"));
        let mut packed = image(b"kho-v4\0");
        for _ in 0..5 {
            packed = gzip(&packed);
        }
        assert_eq!(said(packed), "packed 4 times, and then again");
    }
}
