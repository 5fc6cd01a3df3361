//! The kernel on arm64: its images, and the device tree of a machine with a hole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::chain::Chain;
use crate::linux::machine::VIRT;

/// What another kernel needs of Rust.
pub(crate) const TARGET: &str = "aarch64-unknown-none";
/// The package with the emulator.
pub(crate) const EMULATOR: [&str; 1] = ["qemu-system-arm"];

/// Where in memory the hole is, and how many bytes it has. `virt` has memory from 1 GiB on, and no holes.
const HOLE: [u64; 2] = [3 << 30, 1 << 30];

/// An Image as the linker wrote it, and behind it what is zero at its start: it says itself how much memory it takes.
pub(crate) fn padded(mut image: Vec<u8>) -> Result<Vec<u8>> {
    let mark = image.get(56..60);
    ensure!(mark == Some(b"ARM\x64"), "no Image of arm64: {mark:02x?}");
    let size = image.get(16..24).and_then(|bytes| bytes.first_chunk()).context("a header")?;
    let size = usize::try_from(u64::from_le_bytes(*size))?;
    ensure!(size >= image.len(), "an Image of {} bytes that says {size}", image.len());
    image.resize(size, 0);
    Ok(image)
}

/// Asks the emulator for its device tree, makes the hole, and returns where the tree is.
pub(crate) fn tree_with_hole(chain: &Chain, place: &Path) -> Result<PathBuf> {
    let (plain, holed) = (place.join("plain.dtb"), place.join("hole.dtb"));
    let mut qemu = Command::new(VIRT);
    qemu.args(["-M", &format!("virt,dumpdtb={}", plain.display()), "-cpu", "max"]);
    qemu.args(["-m", chain.memory, "-smp", &chain.cpus.to_string()]);
    qemu.args(["-display", "none", "-nodefaults"]).stdin(Stdio::null());
    let done = qemu.output().context(VIRT)?;
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{VIRT} ended with {}\n{error}", done.status);
    fs::write(&holed, with_hole(&fs::read(plain)?, HOLE)?)?;
    Ok(holed)
}

/// Tokens of a tree.
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;

/// The device tree with one node more: a part of memory that must not be mapped.
fn with_hole(tree: &[u8], [start, bytes]: [u64; 2]) -> Result<Vec<u8>> {
    let word = |at: usize| -> Result<usize> {
        let word = tree.get(4 * at..).and_then(|rest| rest.first_chunk());
        Ok(u32::from_be_bytes(*word.context("a header")?).try_into()?)
    };
    let part = |at: usize, bytes: usize| tree.get(at..at + bytes).context("a part of the tree");
    ensure!(word(0)? == 0xd00d_feed && word(5)? == 17, "no device tree of version 17");
    let reserved = part(word(4)?, tree.len() - word(4)?)?;
    let entries = reserved.chunks(16).position(|entry| *entry == [0; 16]).context("no end")?;
    let reserved = &reserved[..16 * (entries + 1)];
    let structure = part(word(2)?, word(9)?)?;
    let ends = [END_NODE, END].map(u32::to_be_bytes).concat();
    let structure = structure.strip_suffix(&*ends).context("the tree ends in another way")?;
    let old_strings = part(word(3)?, word(8)?)?;

    let mut strings = old_strings.to_vec();
    let mut added = Vec::new();
    let node = |added: &mut Vec<u8>, name: &str| {
        added.extend(BEGIN_NODE.to_be_bytes());
        added.extend(name.bytes().chain([0]));
        added.resize(added.len().next_multiple_of(4), 0);
    };
    let mut property = |added: &mut Vec<u8>, name: &str, value: &[u8]| -> Result<()> {
        added.extend(PROPERTY.to_be_bytes());
        added.extend(u32::try_from(value.len())?.to_be_bytes());
        added.extend(u32::try_from(strings.len())?.to_be_bytes());
        added.extend(value);
        strings.extend(name.bytes().chain([0]));
        Ok(())
    };
    node(&mut added, "reserved-memory");
    property(&mut added, "#address-cells", &2_u32.to_be_bytes())?;
    property(&mut added, "#size-cells", &2_u32.to_be_bytes())?;
    property(&mut added, "ranges", &[])?;
    node(&mut added, &format!("hole@{start:x}"));
    property(&mut added, "reg", &[start, bytes].map(u64::to_be_bytes).concat())?;
    property(&mut added, "no-map", &[])?;
    added.extend([END_NODE; 2].map(u32::to_be_bytes).concat());

    let structure = [structure, &added, &ends].concat();
    let place = [40, 40 + reserved.len(), 40 + reserved.len() + structure.len()];
    let total = place[2] + strings.len();
    let mut head = tree.get(..40).context("a header")?.to_vec();
    for (at, value) in [
        (1, total),
        (2, place[1]),
        (3, place[2]),
        (4, place[0]),
        (8, strings.len()),
        (9, structure.len()),
    ] {
        head[4 * at..4 * at + 4].copy_from_slice(&u32::try_from(value)?.to_be_bytes());
    }
    Ok([&head, reserved, &structure, &strings].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_as_long_as_it_says() {
        let mut image = vec![7; 100];
        assert!(padded(image.clone()).is_err());
        image[56..60].copy_from_slice(b"ARM\x64");
        image[16..24].copy_from_slice(&99_u64.to_le_bytes());
        assert!(padded(image.clone()).is_err());
        image[16..24].copy_from_slice(&200_u64.to_le_bytes());
        let padded = padded(image.clone()).unwrap();
        assert!(padded.starts_with(&image) && padded[100..] == [0; 100]);
    }

    /// A tree of a root with one property, as it is and with the hole.
    #[test]
    fn a_hole_is_a_node_more() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let mut tree: Vec<u8> = words(&[0xd00d_feed, 96, 56, 88, 40, 17, 16, 0, 6, 32, 0, 0, 0, 0]);
        tree.extend(words(&[1, 0, 3, 4, 0, 77, 2, 9]));
        tree.extend(b"model\0");
        let holed = with_hole(&tree, HOLE).unwrap();
        let word = |at: usize| u32::from_be_bytes(*holed[at..].first_chunk().unwrap());
        let field = |at: usize| word(4 * at) as usize;
        assert_eq!((field(1), field(4)), (holed.len(), 40));
        let structure = &holed[field(2)..][..field(9)];
        assert!(structure.starts_with(&tree[56..80]));
        assert!(structure.ends_with(&[END_NODE, END].map(u32::to_be_bytes).concat()));
        let name = |name: &[u8]| structure.windows(name.len()).position(|found| found == name);
        assert!(name(b"reserved-memory\0") < name(b"hole@c0000000\0"));
        let reg = HOLE.map(u64::to_be_bytes).concat();
        let at = name(&reg).unwrap();
        let string = field(3) + word(field(2) + at - 4) as usize;
        assert!(holed[string..].starts_with(b"reg\0"));
        assert!(holed[field(3)..].starts_with(b"model\0#address-cells\0"));
        assert!(holed.ends_with(b"no-map\0"));
        for cut in [20, 60, 84] {
            assert!(with_hole(&tree[..cut], HOLE).is_err(), "{cut}");
        }
    }
}
