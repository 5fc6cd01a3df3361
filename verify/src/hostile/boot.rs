//! What a kernel on x86-64 is started with: boot parameters, PVH's `start_info`, images.

use std::cell::Cell;

use arbitrary::{Arbitrary, Unstructured};
use heirloom::kho::{PhysAddr, Run};
use heirloom::restore::Entry;
use heirloom_x86::boot_params::{
    BootParams, E820_EXT, E820Entry, KhoNode, SetupDataHead, ZeroPage,
};
use heirloom_x86::bzimage::{self, BzImage};
use heirloom_x86::elf::Elf;
use heirloom_x86::map::Map;
use heirloom_x86::start_info::{MAGIC, MapEntry, ModuleEntry, StartInfo, StartInfoHead};
use heirloom_x86::{Bytes, Error, MemoryType, Region, Source};
use zerocopy::{FromZeros, IntoBytes};

/// Where what is read stands.
const AT: PhysAddr = PhysAddr::new(0x7000);
/// The most reads that a structure may cost: as many as its longest lists have entries, and some.
const READS: u64 = 300_000;

/// What is done to something sound, and what it is.
#[derive(Debug, Arbitrary)]
struct Attack {
    what: u8,
    changes: Vec<Change>,
    cut: Option<u16>,
}

/// So many bytes, written over what is there.
#[derive(Debug, Arbitrary)]
struct Change {
    at: u16,
    bytes: u8,
    value: u64,
}

impl Attack {
    /// Has every reader look at sound bytes of one kind, once they are changed.
    fn try_out(&self) {
        let mut bytes = match self.what % 4 {
            0 => params(),
            1 => info(),
            2 => image(),
            _ => elf(),
        };
        self.carry_out(&mut bytes);
        read_all(&bytes);
    }

    fn carry_out(&self, bytes: &mut Vec<u8>) {
        for change in &self.changes {
            let Some(at) = usize::from(change.at).checked_rem(bytes.len()) else { continue };
            let length = usize::from(change.bytes % 8) + 1;
            bytes[at..]
                .iter_mut()
                .zip(&change.value.to_le_bytes()[..length])
                .for_each(|(to, from)| *to = *from);
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.into());
        }
    }
}

/// Boot data that was tampered with.
///
/// # Panics
/// If a promise is broken: a walk without a bound, a map with memory that is none, an image that leaves its
/// bytes.
pub fn boot(data: &[u8]) {
    read_all(data);
    let Ok(attack) = Attack::arbitrary_take_rest(Unstructured::new(data)) else { return };
    attack.try_out();
}

/// Has every reader look at the bytes.
fn read_all(bytes: &[u8]) {
    let source = Counting { bytes: Bytes::new(AT, bytes), reads: Cell::new(0) };
    if let Ok(params) = BootParams::open(&source, AT) {
        let mut line = [0; 64];
        if let Ok(line) = params.command_line(&mut line) {
            assert!(!line.contains(&0));
        }
        let _ = (params.initrd(), params.rsdp(), params.entry());
        check_map(|each| params.for_each_region(each));
    }
    source.done();
    if let Ok(info) = StartInfo::open(&source, AT) {
        let mut line = [0; 64];
        let _ = (info.command_line(&mut line).map(<[u8]>::len), info.rsdp());
        let failed = info.modules().position(|module| module.is_err());
        assert!(
            failed.is_none_or(|at| at + 1 == info.modules().count()),
            "goes on behind an error"
        );
        check_map(|each| info.for_each_region(each));
    }
    source.done();
    if let Ok(image) = BzImage::parse(bytes) {
        check_image(bytes, &image);
    }
    if let Ok(elf) = Elf::parse(bytes)
        && elf.file_bytes() <= 1 << 20
    {
        let mut into = vec![0; bzimage::size(bytes).expect("it was parsed")];
        if let Ok(length) = bzimage::from_elf(bytes, &mut into) {
            let image = BzImage::parse(&into).expect("what was written");
            assert_eq!((image.whole().len(), length), (into.len(), into.len()));
            assert!(image.needed() >= elf.memory_bytes());
            check_image(&into, &image);
        }
    }
}

fn check_image(bytes: &[u8], image: &BzImage<'_>) {
    assert!(bytes.starts_with(image.whole()) && image.whole().ends_with(image.code()));
    assert!(image.code().len() > bzimage::ENTRY);
    assert!(image.needed() >= image.code().len() as u64 && image.align().is_power_of_two());
}

/// Makes a map, and compares it with the regions, frame by frame where they start and end.
fn check_map(
    walk: impl Fn(&mut dyn FnMut(Region) -> Result<(), Error>) -> Result<Result<(), Error>, Error>,
) {
    let (mut map, mut seen) = (Map::<24>::new(), Vec::new());
    let walked = walk(&mut |region| {
        seen.push(region);
        map.add_memory(region)
    });
    if !matches!(walked, Ok(Ok(()))) {
        return;
    }
    let rest = seen.iter().try_for_each(|region| map.remove_other(*region));
    if rest.and_then(|()| map.remove_low()).is_err() {
        return;
    }
    let ranges: Vec<Run> = map.ranges().iter().map(|(run, _)| *run).collect();
    assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].start()), "in order, apart");
    for range in &ranges {
        assert!(range.addr().get() >= 1 << 20 && !range.is_empty());
        for region in &seen {
            let (start, end) = (range.addr().get(), range.end().addr().get());
            let meets = region.addr.get() < end && start < region.end().get() && region.bytes > 0;
            let is_ram = region.kind == MemoryType::RAM;
            assert!(is_ram || !meets, "{range:?} has part of {region:?}");
        }
        let backed = |addr: u64| {
            let has = |r: &&Region| r.addr.get() <= addr && addr < r.end().get();
            seen.iter().filter(has).any(|r| r.kind == MemoryType::RAM)
        };
        assert!(backed(range.addr().get()) && backed(range.end().addr().get() - 1));
    }
}

/// Memory that counts how often it is read.
struct Counting<'a> {
    bytes: Bytes<'a>,
    reads: Cell<u64>,
}

impl Counting<'_> {
    fn done(&self) {
        assert!(self.reads.take() <= READS, "a walk without a bound");
    }
}

impl Source for Counting<'_> {
    fn read(&self, at: PhysAddr, into: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        self.bytes.read(at, into)
    }
}

fn behind(bytes: usize) -> PhysAddr {
    PhysAddr::new(AT.get() + bytes as u64)
}

/// Sound boot parameters: three regions, two more in `setup_data`, a handover, a command line.
fn params() -> Vec<u8> {
    let mut page = ZeroPage::new();
    for region in [
        Region::new(0, 0x9_fc00, MemoryType::RAM),
        Region::new(1 << 20, 0x3000_0000, MemoryType::RAM),
        Region::new(0x2000_0000, 0x1000, MemoryType::RESERVED),
    ] {
        page.push_region(region).expect("room for three");
    }
    page.set_setup_data(behind(4096));
    page.set_command_line(behind(4096 + 48 + 56));
    page.set_initrd(PhysAddr::new(0x1000_0000), 4096);
    let (root, scratch) = (PhysAddr::new(0x10_0000), PhysAddr::new(0x20_0000));
    let mut node = KhoNode::new(Entry { root, scratch, scratch_bytes: 16 });
    node.head.next = behind(4096 + 48).get().into();
    let more =
        [1_u64 << 32, 1 << 33].map(|at| E820Entry::from(Region::new(at, 1 << 30, MemoryType::RAM)));
    let head = SetupDataHead { next: 0.into(), kind: E820_EXT.into(), len: 40.into() };
    [page.as_bytes(), node.as_bytes(), head.as_bytes(), more.as_bytes(), b"console=ttyS0\0"]
        .concat()
}

/// A sound `start_info`: a module, two regions, a command line.
fn info() -> Vec<u8> {
    let (mut head, mut module) = (StartInfoHead::new_zeroed(), ModuleEntry::new_zeroed());
    (head.magic, head.version) = (MAGIC.into(), 1.into());
    (head.nr_modules, head.modlist_paddr) = (1.into(), behind(56).get().into());
    (head.memmap_entries, head.memmap_paddr) = (2.into(), behind(88).get().into());
    head.cmdline_paddr = behind(136).get().into();
    (module.paddr, module.size) = (0x100_0000.into(), 0x1000.into());
    let region = |addr: u64, size: u64| {
        let mut region = MapEntry::new_zeroed();
        (region.addr, region.size, region.kind) = (addr.into(), size.into(), 1.into());
        region
    };
    let regions = [region(0, 0xa_0000), region(1 << 20, 1 << 29)];
    [head.as_bytes(), module.as_bytes(), regions.as_bytes(), b"plan=j\0"].concat()
}

/// A sound ELF file of two segments.
fn elf() -> Vec<u8> {
    let mut head = [0_u8; 64];
    head[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (head[16], head[18], head[32], head[54], head[56]) = (3, 62, 64, 56, 2);
    let segment = |offset: u64, vaddr: u64, file: u64, memory: u64| {
        [1, offset, vaddr, vaddr, file, memory, 4096].map(u64::to_le_bytes).concat()
    };
    let segments = [segment(176, 1 << 20, 700, 0x1000), segment(176, 0x10_1000, 8, 0x1000)];
    [&head[..], &segments.concat(), &[0x90; 700]].concat()
}

/// A sound bzImage.
fn image() -> Vec<u8> {
    let elf = elf();
    let mut image = vec![0; bzimage::size(&elf).expect("a sound file")];
    bzimage::from_elf(&elf, &mut image).expect("room");
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is tampered with is sound to begin with: an attack is on what readers take.
    #[test]
    fn what_is_attacked_is_sound() {
        let bytes = params();
        let source = Bytes::new(AT, &bytes);
        let params = BootParams::open(&source, AT).expect("sound");
        assert!(params.entry().expect("sound").is_some());
        let mut regions = 0;
        let each = |_: Region| {
            regions += 1;
            Ok::<_, Error>(())
        };
        params.for_each_region(each).expect("sound").expect("no error");
        assert_eq!(regions, 5);
        let bytes = info();
        let source = Bytes::new(AT, &bytes);
        assert_eq!(StartInfo::open(&source, AT).expect("sound").modules().count(), 1);
        assert!(BzImage::parse(&image()).is_ok());
    }

    /// 40,000 attacks with numbers that look random; the seed is fixed.
    #[test]
    fn attacks_keep_the_contract() {
        let mut state = 0x7838_365f_626f_6f74_u64;
        println!("seed {state:#x}");
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..40_000 {
            let changes = (0..next() % 4)
                .map(|_| Change {
                    at: next() as u16,
                    bytes: next() as u8,
                    value: next() >> (next() % 64),
                })
                .collect();
            let cut = (next() % 8 == 0).then(|| next() as u16 % 4300);
            let attack = Attack { what: next() as u8, changes, cut };
            attack.try_out();
        }
    }
}
