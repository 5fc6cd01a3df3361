//! Memory as a dump has it: what Linux 7.3 left, with every table of it.

use heirloom::kho::sync::AtomicU64;
use heirloom::kho::sync::Ordering::Relaxed;
use heirloom::kho::tree::{Geometry, Key};
use heirloom::kho::{AreaPart, Block, Chain, Image, Left, Order, PhysAddr, RootView, Run};
use heirloom::restore::{Entry, Error};
use heirloom_kho::linux::{Known, Luo, Memblock};

use super::{PAGE, Place, TableAt};
use crate::mutate::Bytes;

/// The capture.
pub(crate) const ELF: &[u8] = include_bytes!("../../../tests/fixtures/linux-7.3-kho-v4/image.elf");
/// Where the capture's root page is, as its `expected.json` says.
const ROOT: PhysAddr = PhysAddr::new(0x50_f000);
/// Two frames that the capture has not: a `memblock` subtree, which it has none of, and its region.
const MORE: PhysAddr = PhysAddr::new(0x100_0000);

/// Stretches of memory, by address.
#[derive(Debug)]
pub struct Dump {
    stretches: Vec<(Run, Vec<AtomicU64>)>,
    looks: AtomicU64,
}

impl Dump {
    /// What Linux left, a `memblock` subtree added.
    ///
    /// # Panics
    /// If the capture is none.
    pub fn of_linux() -> Self {
        let mut dump = Self { stretches: Vec::new(), looks: AtomicU64::new(0) };
        for (at, bytes) in segments(ELF) {
            dump.add(at, bytes);
        }
        let mut more = memblock(MORE.get() + PAGE);
        more.resize(2 * PAGE as usize, 0);
        dump.add(MORE, &more);
        dump.stretches.sort_unstable_by_key(|(run, _)| run.start());
        dump.preserve(Block::containing(MORE.pfn(), Order::ZERO));
        dump.preserve(Block::containing(MORE.pfn().add(1), Order::ZERO));
        let root = root_with_memblock(&dump);
        dump.write(ROOT, &root);
        dump
    }

    /// Where the handover starts; its scratch list is not in the capture.
    pub const fn entry() -> Entry {
        Entry { root: ROOT, scratch: PhysAddr::new(0), scratch_bytes: 0 }
    }

    /// Adds memory from `at` on.
    fn add(&mut self, at: PhysAddr, bytes: &[u8]) {
        let words =
            bytes.as_chunks().0.iter().map(|word| AtomicU64::new(u64::from_le_bytes(*word)));
        let run = Run::covering(at, bytes.len() as u64).expect("below the last frame");
        self.stretches.push((run, words.collect()));
    }

    /// The stretches, by address.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.stretches.iter().map(|(run, _)| *run)
    }

    /// How many frames.
    pub fn frames(&self) -> u64 {
        self.runs().map(Run::frames).sum()
    }

    /// How many words were asked for so far, and how often.
    pub fn looks(&self) -> u64 {
        self.looks.load(Relaxed)
    }

    /// Every word, to be put back.
    pub fn save(&self) -> Vec<u64> {
        let words = self.stretches.iter().flat_map(|(_, words)| words);
        words.map(|word| word.load(Relaxed)).collect()
    }

    /// Puts every word back.
    pub fn load(&self, saved: &[u64]) {
        let words = self.stretches.iter().flat_map(|(_, words)| words);
        for (word, saved) in words.zip(saved) {
            word.store(*saved, Relaxed);
        }
    }

    fn at(&self, addr: PhysAddr) -> Option<&AtomicU64> {
        let (run, words) = self.stretches.iter().find(|(run, _)| run.contains(addr.pfn()))?;
        words.get(((addr.get() - run.addr().get()) / 8) as usize)
    }

    /// Sets the key of a block of order 0, whose leaf is there.
    fn preserve(&self, block: Block) {
        let Geometry { levels, table_log2, leaf_log2, .. } = Geometry::BUILD;
        let left = Left::bare(self);
        let root = RootView::read(&left, ROOT).expect("the capture's root is sound");
        let key = Key::of(block).get();
        let mut node = root.map().get();
        for level in (1..levels).rev() {
            let index = (key >> (leaf_log2 + (level - 1) * table_log2)) % (1 << table_log2);
            node = self.word(PhysAddr::new(node + index * 8));
        }
        let bit = key % (1 << leaf_log2);
        let word = PhysAddr::new(node + bit / 64 * 8);
        let set = self.word(word) | 1 << (bit % 64);
        self.write(word, &set.to_le_bytes());
    }

    /// Every table of the handover, as far as it is sound.
    pub fn tables(&self) -> Vec<TableAt> {
        let page = PAGE as usize;
        let mut tables = vec![TableAt { place: Place::Root, addr: ROOT, bytes: 1024 }];
        let mut add = |place, addr, bytes| tables.push(TableAt { place, addr, bytes });
        let bare = Left::bare(self);
        let Ok(root) = RootView::read(&bare, ROOT) else { return tables };
        let left = Left::new(self, root.map());
        left.tree().nodes().for_each(|node| add(Place::Node, node.addr, page));
        for subtree in root.subtrees().flatten() {
            let bytes = subtree.size.unwrap_or(PAGE).min(PAGE) as usize;
            add(Place::Linux, subtree.addr, bytes.next_multiple_of(8));
            match Known::read(&left, &subtree) {
                Ok(Some(Known::Luo(luo))) => luo_tables(&left, &luo, &mut add),
                Ok(Some(Known::KhoTest(test))) => area_tables(&left, test.area, &mut add),
                _ => {}
            }
        }
        tables
    }
}

type Add<'a> = &'a mut dyn FnMut(Place, PhysAddr, usize);

fn luo_tables(left: &Left<'_, Dump>, luo: &Luo, add: Add<'_>) {
    let page = PAGE as usize;
    let first = |at: PhysAddr| PhysAddr::new(at.get() & !(PAGE - 1));
    add(Place::Linux, luo.flbs, page);
    for session in luo.sessions(left).into_iter().flatten().flatten() {
        add(Place::Linux, first(session.at), page);
        for file in session.files(left).into_iter().flatten().flatten() {
            add(Place::Linux, first(file.at), page);
            let Ok(Some(memfd)) = file.memfd(left) else { continue };
            add(Place::Linux, memfd.at, 48);
            if let Some(area) = memfd.area {
                area_tables(left, area, add);
            }
        }
    }
    // What is not sound ends the walk.
    let _ = Chain::<_, [u64; 10]>::for_each(left, luo.sessions, |block| {
        add(Place::Linux, block.addr(), PAGE as usize);
        Ok::<_, Error>(())
    });
}

fn area_tables(left: &Left<'_, Dump>, area: heirloom::kho::AreaInfo, add: Add<'_>) {
    let _ = area.walk(left, |part| {
        match part {
            AreaPart::Chunk(block) => add(Place::Area, block.addr(), PAGE as usize),
            AreaPart::Block(block) => add(Place::Linux, block.addr(), PAGE as usize),
        }
        Ok::<_, Error>(())
    });
}

/// The loaded segments of an ELF core.
pub(crate) fn segments(elf: &[u8]) -> impl Iterator<Item = (PhysAddr, &[u8])> + '_ {
    let number = |at: usize, bytes: usize| {
        let bytes = elf[at..at + bytes].iter().rev();
        bytes.fold(0_u64, |n, byte| n << 8 | u64::from(*byte)) as usize
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(move |i| table + i * size).filter(move |at| number(*at, 4) == 1).map(move |at| {
        let (offset, bytes) = (number(at + 8, 8), number(at + 32, 8));
        (PhysAddr::new(number(at + 24, 8) as u64), &elf[offset..offset + bytes])
    })
}

impl Image for Dump {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        self.looks.fetch_add(1 + bytes as u64 / PAGE, Relaxed);
        let after = self.stretches.partition_point(|(run, _)| run.start() <= addr.pfn());
        let (run, words) = self.stretches.get(after.checked_sub(1)?)?;
        let skip = usize::try_from(addr.get() - run.addr().get()).ok()?;
        let whole = skip.is_multiple_of(8);
        words.get(skip / 8..)?.get(..bytes.div_ceil(8)).filter(|_| whole)
    }

    fn is_memory(&self, run: Run) -> bool {
        self.runs().any(|stretch| stretch.covers(run))
    }
}

impl Bytes for Dump {
    fn word(&self, addr: PhysAddr) -> u64 {
        self.at(addr).map_or(0, |word| word.load(Relaxed))
    }

    fn write(&self, addr: PhysAddr, bytes: &[u8]) {
        for (at, byte) in (addr.get()..).zip(bytes) {
            let Some(word) = self.at(PhysAddr::new(at)) else { return };
            let mut value = word.load(Relaxed).to_le_bytes();
            value[(at % 8) as usize] = *byte;
            word.store(u64::from_le_bytes(value), Relaxed);
        }
    }

    fn frame(&self, n: u64) -> PhysAddr {
        let mut n = n % self.frames();
        for run in self.runs() {
            if n < run.frames() {
                return run.start().add(n).addr();
            }
            n -= run.frames();
        }
        ROOT
    }
}

/// The capture's root page with a subtree more.
fn root_with_memblock(dump: &Dump) -> Vec<u8> {
    use heirloom::kho::sync::AtomicU32;
    use heirloom::kho::{Name, RootPage};
    let left = Left::bare(dump);
    let root = RootView::read(&left, ROOT).expect("the capture's root is sound");
    let words: Vec<_> = (0..PAGE / 4).map(|_| AtomicU32::new(0)).collect();
    let mut page = RootPage::create(&words, ROOT, root.map()).expect("a page");
    for subtree in root.subtrees().flatten() {
        let size = subtree.size.expect("Linux says so");
        page.add(subtree.name, subtree.addr, size).expect("room for it");
    }
    let name = Name::new(Memblock::NAME).expect("a name");
    page.add(name, MORE, memblock(0).len() as u64).expect("room for it");
    words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect()
}

/// The device tree that says that a page at `start` is reserved by name.
fn memblock(start: u64) -> Vec<u8> {
    let mut structure: Vec<u8> = Vec::new();
    let strings = b"compatible\0start\0size\0";
    let word = |to: &mut Vec<u8>, word: u32| to.extend(word.to_be_bytes());
    let padded = |to: &mut Vec<u8>, bytes: &[u8]| {
        to.extend(bytes);
        to.resize(to.len().next_multiple_of(4), 0);
    };
    let property = |to: &mut Vec<u8>, name: u32, value: &[u8]| {
        word(to, 3);
        word(to, value.len() as u32);
        word(to, name);
        padded(to, value);
    };
    word(&mut structure, 1);
    padded(&mut structure, b"\0");
    property(&mut structure, 0, b"memblock-v1\0");
    word(&mut structure, 1);
    padded(&mut structure, b"pstore\0");
    property(&mut structure, 0, b"reserve-mem-v1\0");
    property(&mut structure, 11, &start.to_le_bytes());
    property(&mut structure, 17, &PAGE.to_le_bytes());
    word(&mut structure, 2);
    word(&mut structure, 2);
    word(&mut structure, 9);
    let sizes = [strings.len() as u32, structure.len() as u32];
    let total = 40 + sizes[0] + sizes[1];
    let header = [0xd00d_feed, total, 40, 40 + sizes[1], 40, 17, 16, 0, sizes[0], sizes[1]];
    let mut tree = [header.map(u32::to_be_bytes).concat(), structure, strings.to_vec()].concat();
    tree.resize(tree.len().next_multiple_of(8), 0);
    tree
}
