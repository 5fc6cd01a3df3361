//! The `memblock` subtree, which the capture has none of, built by hand.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use heirloom_kho::linux::{Found, Known, Memblock};
use heirloom_kho::tree::{Frames, FramesOf};
use heirloom_kho::{
    Block, Error, Excerpt, Fault, Order, PAGE_SIZE, Pages, Pfn, PhysAddr, Run, Table, TableError,
};

const PAGE: u64 = PAGE_SIZE as u64;
const BLOB: PhysAddr = PhysAddr::new(PAGE);

/// A device tree, big-endian, in the order in which Linux writes one.
#[derive(Default)]
struct Builder {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn begin(&mut self, name: &str) {
        self.word(1);
        self.padded(&[name.as_bytes(), &[0]].concat());
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        self.word(3);
        self.word(value.len() as u32);
        self.word(self.strings.len() as u32);
        self.strings.extend([name.as_bytes(), &[0]].concat());
        self.padded(value);
    }

    fn end(&mut self) {
        self.word(2);
    }

    fn finish(mut self) -> Vec<u8> {
        self.word(9);
        let (start, strings) = (40, 40 + self.structure.len() as u32);
        let total = strings + self.strings.len() as u32;
        let sizes = [self.strings.len() as u32, self.structure.len() as u32];
        let header = [0xd00d_feed, total, start, strings, start, 17, 16, 0, sizes[0], sizes[1]];
        let header = header.map(u32::to_be_bytes).concat();
        let mut tree = [header, self.structure, self.strings].concat();
        tree.resize(tree.len().next_multiple_of(8), 0);
        tree
    }
}

/// A region's node.
fn region(tree: &mut Builder, name: &str, start: u64, size: u64) {
    tree.begin(name);
    tree.property("compatible", b"reserve-mem-v1\0");
    tree.property("start", &start.to_ne_bytes());
    tree.property("size", &size.to_ne_bytes());
    tree.end();
}

fn tree(version: &[u8], regions: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut tree = Builder::default();
    tree.begin("");
    tree.property("compatible", version);
    regions(&mut tree);
    tree.end();
    tree.finish()
}

/// Page 1 holds the blob; pages 8 to 11, as one folio, and page 12 are preserved too.
struct Memory(BTreeMap<u64, Vec<AtomicU64>>, usize);

impl Memory {
    fn new(blob: &[u8]) -> Self {
        let words = blob.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
        let mut page: Vec<_> = words.map(AtomicU64::new).collect();
        page.resize_with(PAGE_SIZE / 8, AtomicU64::default);
        Self(BTreeMap::from([(1, page)]), blob.len())
    }

    fn read(&self) -> Result<Memblock, Error> {
        Memblock::read(self, BLOB, self.1 as u64)
    }

    fn findings(&self) -> Vec<Error> {
        let run = Run::new(Pfn::new(0), 16).unwrap();
        let mut words = vec![0; FramesOf::words(run).unwrap()];
        let mut stretches = [FramesOf::new(run, &mut words).unwrap()];
        let mut found = Vec::new();
        let known = Known::Memblock(self.read().unwrap());
        let checked = known.check(self, &mut Frames::new(&mut stretches), |new| match new {
            Found::Wrong(error) => {
                found.push(error);
                Ok::<_, Error>(())
            }
            Found::Unread(unread) => panic!("{unread:?}"),
        });
        checked.unwrap();
        found
    }
}

impl Pages for Memory {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let page = self.0.get(&addr.pfn().get())?;
        page.get(addr.offset_in_page() / 8..)?.get(..bytes.div_ceil(8))
    }

    fn holds(&self, block: Block) -> bool {
        [(1, 0), (8, 2), (12, 0)].contains(&(block.pfn().get(), block.order().get()))
    }

    fn is_memory(&self, run: Run) -> bool {
        run.end() <= Pfn::new(16)
    }
}

fn fault(offset: usize, fault: Fault) -> Error {
    Error::Table(TableError { table: Table::Memblock, at: BLOB, offset, fault })
}

#[test]
fn regions_are_read_by_name() {
    let blob = tree(b"memblock-v1\0", |tree| {
        region(tree, "trace", 8 * PAGE, 4 * PAGE);
        region(tree, "oops", 12 * PAGE, 100);
    });
    let memory = Memory::new(&blob);
    let mut found = Vec::new();
    memory
        .read()
        .unwrap()
        .for_each_region(&memory, |region| {
            found.push((region.name.as_str().to_owned(), region.start.get(), region.size));
            assert_eq!(region.run().unwrap().start(), region.start.pfn());
            Ok::<_, Error>(())
        })
        .unwrap();
    let expected = [("trace".to_owned(), 8 * PAGE, 4 * PAGE), ("oops".to_owned(), 12 * PAGE, 100)];
    assert_eq!(found, expected);
    assert_eq!(memory.findings(), []);
}

#[test]
fn regions_that_are_not_there_or_not_theirs() {
    let blob = tree(b"memblock-v1\0", |tree| {
        region(tree, "outside", 20 * PAGE, PAGE);
        region(tree, "lost", 9 * PAGE, 8 * PAGE - PAGE);
        region(tree, "first", 8 * PAGE, PAGE);
        region(tree, "second", 11 * PAGE, PAGE);
    });
    let missing = Block::containing(Pfn::new(13), Order::ZERO);
    let shared = Block::containing(Pfn::new(8), Order::new(2).unwrap());
    let found = Memory::new(&blob).findings();
    let at = |at, fault| Error::Table(TableError { table: Table::Memblock, at, offset: 0, fault });
    assert_eq!(
        found,
        [
            fault(0, Fault::OutsideMemory { addr: PhysAddr::new(20 * PAGE) }),
            fault(0, Fault::NotPreserved { block: missing }),
            // The one that is lost in part has the rest.
            at(PhysAddr::new(8 * PAGE), Fault::Shared { block: shared }),
            at(PhysAddr::new(11 * PAGE), Fault::Shared { block: shared }),
        ]
    );
}

#[test]
fn each_fault_names_its_byte() {
    let blob = tree(b"memblock-v2\0", |_| {});
    let refused = Memory::new(&blob).read().unwrap_err();
    assert_eq!(refused, fault(40 + 8 + 12, Fault::Version { found: 2, known: 1 }));
    for name in ["memblock-v1;x", "memblock", "memblock-v01", "memblock-v1\0x", "memblock-v", ""] {
        let blob = tree(&[name.as_bytes(), b"\0"].concat(), |_| {});
        let found = Excerpt::of(name.bytes());
        let unknown = Fault::Unknown { found, expected: "memblock-v1" };
        assert_eq!(Memory::new(&blob).read().unwrap_err(), fault(40 + 8 + 12, unknown), "{name}");
    }
    let blob = tree(b"memblock-v1\0", |tree| {
        tree.begin("next");
        tree.property("compatible", b"reserve-mem-v1;x\0");
        tree.property("start", &[0; 8]);
        tree.property("size", &[0; 8]);
        tree.end();
    });
    let found = Excerpt::of(b"reserve-mem-v1;x".iter().copied());
    let unknown = Fault::Unknown { found, expected: "reserve-mem-v1" };
    let value = 40 + 8 + 12 + 12 + 12 + 12;
    assert_eq!(Memory::new(&blob).findings(), [fault(value, unknown)]);
    let blob = tree(b"memblock-v1\0", |tree| {
        tree.begin("half");
        tree.property("compatible", b"reserve-mem-v1\0");
        tree.property("start", &[0; 8]);
        tree.end();
    });
    let node = 40 + 8 + 12 + 12;
    assert_eq!(Memory::new(&blob).findings(), [fault(node, Fault::Missing { property: "size" })]);
    let blob = tree(b"memblock-v1\0", |tree| {
        tree.begin("wide");
        tree.property("size", &[0; 4]);
        tree.end();
    });
    let length = Fault::Length { expected: 8, found: 4 };
    assert_eq!(Memory::new(&blob).findings(), [fault(node + 12 + 12, length)]);
    let blob = tree(b"memblock-v1\0", |tree| {
        tree.begin("other");
        tree.end();
    });
    let expected = Fault::Malformed { expected: "compatible \"reserve-mem-v1\"" };
    assert_eq!(Memory::new(&blob).findings(), [fault(node, expected)]);
}

/// Memory in which each frame from 64 on is preserved by itself; how often that was asked.
struct Many {
    blob: Memory,
    asked: Cell<u64>,
}

const FRAMES: u64 = 4096;

impl Pages for Many {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        self.blob.words(addr, bytes)
    }

    fn holds(&self, block: Block) -> bool {
        self.asked.set(self.asked.get() + 1);
        block.order() == Order::ZERO && (block.pfn().get() == 1 || block.pfn().get() >= 64)
    }

    fn is_memory(&self, run: Run) -> bool {
        run.end() <= Pfn::new(FRAMES)
    }
}

/// As many regions as a page names, each of which is all of memory: what they name is gone through
/// once.
#[test]
fn regions_that_are_one_memory_are_gone_through_once() {
    let blob = tree(b"memblock-v1\0", |tree| {
        for name in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"]
        {
            region(tree, name, 64 * PAGE, (FRAMES - 64) * PAGE);
        }
    });
    let pages = Many { blob: Memory::new(&blob), asked: Cell::new(0) };
    let known = Memblock::read(&pages, BLOB, pages.blob.1 as u64).unwrap();
    let run = Run::new(Pfn::new(0), FRAMES).unwrap();
    let mut words = vec![0; FramesOf::words(run).unwrap()];
    let mut stretches = [FramesOf::new(run, &mut words).unwrap()];
    let mut found = 0;
    let checked = Known::Memblock(known).check(&pages, &mut Frames::new(&mut stretches), |new| {
        assert!(matches!(new, Found::Wrong(_)));
        found += 1;
        Ok::<_, Error>(())
    });
    checked.unwrap();
    assert_eq!(found, 15);
    let asked = pages.asked.get();
    assert!(asked <= 4 * FRAMES, "{asked} questions about {FRAMES} frames");
}
