//! Memory as dumps of other makes have it, and as it is packed: whole files, whose every byte is a reader's.

use crate::world::PAGE;

/// A file of an image.
pub(super) struct DumpFile {
    pub(super) bytes: Vec<u8>,
    /// What of it is headers: offset, bytes.
    pub(super) headers: Vec<(u64, usize)>,
    /// Whether it is all that there was.
    pub(super) whole: bool,
}

/// What zlib, zstd and xz made of an ELF core that does not have what is zero.
const PACKED: [&[u8]; 3] = [
    include_bytes!("../../../tests/fixtures/lent/image.elf.gz"),
    include_bytes!("../../../tests/fixtures/lent/image.elf.zst"),
    include_bytes!("../../../tests/fixtures/lent/image.elf.xz"),
];

/// `memory`, which begins at `base`, in every format, and what is packed.
pub(super) fn dumps(memory: &[u8], base: u64) -> Vec<DumpFile> {
    let (kdump, table) = kdump(memory, base);
    let maps = [(0, 464), (PAGE, 104), (2 * PAGE, 256), (3 * PAGE, 256)];
    let kdump_headers = [&maps[..], &[(table, 24 * 64)]].concat();
    let flat = flattened(&kdump);
    // The file's own header, and those of the first pieces.
    let flat_headers = (0..8).map(|i| (PAGE + i * (16 + PAGE), 16)).chain([(0, 32)]).collect();
    let middle = memory.len() / 2 / 4096 * 4096;
    let (low, high) = memory.split_at(middle);
    let lime = [lime(base, low), lime(base + low.len() as u64, high)].concat();
    let lime_headers = vec![(0, 32), (32 + middle as u64, 32)];
    let packed = PACKED.map(|bytes| DumpFile {
        bytes: bytes.to_vec(),
        headers: vec![(0, 64), (bytes.len() as u64 - 64, 64)],
        whole: false,
    });
    let whole = |bytes, headers| DumpFile { bytes, headers, whole: true };
    let files = [whole(kdump, kdump_headers), whole(flat, flat_headers), whole(lime, lime_headers)];
    files.into_iter().chain(packed).collect()
}

/// As makedumpfile writes it, no page packed, all that are zero in one place; and where its descriptors are.
fn kdump(memory: &[u8], base: u64) -> (Vec<u8>, u64) {
    let block = PAGE as usize;
    let (first, pages) = (base / PAGE, memory.len() / block);
    let end = first + pages as u64;
    let map = (end.div_ceil(8) as usize).next_multiple_of(block);
    let mut bits = vec![0_u8; map];
    for page in first..end {
        if let Some(byte) = bits.get_mut((page / 8) as usize) {
            *byte |= 1 << (page % 8);
        }
    }
    let mut file = b"KDUMP   ".to_vec();
    file.extend(6_u32.to_ne_bytes());
    file.resize(428, 0);
    file.extend([block as u32, 1, (2 * map / block) as u32].map(u32::to_ne_bytes).concat());
    file.resize(block + 96, 0);
    file.extend(end.to_ne_bytes());
    file.resize(2 * block, 0);
    file.extend(bits.repeat(2));
    let table = file.len();
    let (mut data, mut zero) = (Vec::<u8>::new(), None);
    for page in memory.chunks(block) {
        let is_zero = page.iter().all(|byte| *byte == 0);
        let place = zero.filter(|_| is_zero).unwrap_or_else(|| {
            let place = table + pages * 24 + data.len();
            data.extend(page);
            zero = zero.or(is_zero.then_some(place));
            place
        });
        file.extend((place as u64).to_ne_bytes());
        file.extend([block as u32, 0, 0, 0].map(u32::to_ne_bytes).concat());
    }
    file.extend(data);
    (file, table as u64)
}

/// Returns the dump as makedumpfile writes it into a pipe (flattened), a page in each piece.
fn flattened(file: &[u8]) -> Vec<u8> {
    let mut flat = b"makedumpfile\0\0\0\0".to_vec();
    flat.extend([1_u64, 1].map(u64::to_be_bytes).concat());
    flat.resize(4096, 0);
    for (i, piece) in file.chunks(PAGE as usize).enumerate() {
        flat.extend([i as u64 * PAGE, piece.len() as u64].map(u64::to_be_bytes).concat());
        flat.extend(piece);
    }
    flat.extend([u64::MAX; 2].map(u64::to_be_bytes).concat());
    flat
}

/// A range of memory as `LiME` writes it.
fn lime(start: u64, bytes: &[u8]) -> Vec<u8> {
    let mut file = b"EMiL\x01\0\0\0".to_vec();
    file.extend([start, start + bytes.len() as u64 - 1, 0].map(u64::to_le_bytes).concat());
    file.extend(bytes);
    file
}
