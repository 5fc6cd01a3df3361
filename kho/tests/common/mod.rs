//! What the tests share: memory as a dump has it, and everything that is found wrong in it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use heirloom_kho::linux::{Found, Unread, check};
use heirloom_kho::tree::{Frames, FramesOf, Geometry, Key};
use heirloom_kho::{Block, Image, Left, Order, PAGE_SIZE, Pfn, PhysAddr, RootView, Run};
use heirloom_restore::{Entry, Error, Surveyed, survey};
use serde_json::Value;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/linux-7.3-kho-v4");

/// What an independent program found in the capture.
pub(crate) fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("{DIR}/expected.json")).unwrap()).unwrap()
}

/// `"0x1000"`.
pub(crate) fn addr(value: &Value) -> PhysAddr {
    let digits = value.as_str().unwrap().strip_prefix("0x").unwrap();
    PhysAddr::new(u64::from_str_radix(digits, 16).unwrap())
}

pub(crate) fn order(n: u8) -> Order {
    Order::new(n).unwrap()
}

pub(crate) fn block(pfn: u64, n: u8) -> Block {
    Block::new(Pfn::new(pfn), order(n)).unwrap()
}

/// `["0x1000", 0]`.
pub(crate) fn block_of(value: &Value) -> Block {
    block(addr(&value[0]).pfn().get(), u8::try_from(value[1].as_u64().unwrap()).unwrap())
}

/// Stretches of memory.
#[derive(Default)]
pub(crate) struct Dump {
    stretches: BTreeMap<u64, Vec<AtomicU64>>,
}

impl Dump {
    /// The capture of what Linux left.
    pub(crate) fn of_linux() -> Self {
        let file = std::fs::read(format!("{DIR}/image.elf")).unwrap();
        let u64_at = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let u16_at = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap());
        let (table, size, count) = (u64_at(32) as usize, u16_at(54), u16_at(56));
        let mut dump = Self::default();
        for i in 0..count {
            let at = table + usize::from(i * size);
            // PT_LOAD: offset, physical address, bytes in the file.
            if file[at..at + 4] == 1_u32.to_le_bytes() {
                let (offset, bytes) = (u64_at(at + 8) as usize, u64_at(at + 32) as usize);
                dump.add(PhysAddr::new(u64_at(at + 24)), &file[offset..offset + bytes]);
            }
        }
        dump
    }

    /// Adds memory from `at` on.
    pub(crate) fn add(&mut self, at: PhysAddr, bytes: &[u8]) {
        let words = bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
        self.stretches.insert(at.get(), words.map(AtomicU64::new).collect());
    }

    /// The stretches, by address.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let run = |(at, words): (&u64, &Vec<AtomicU64>)| {
            Run::covering(PhysAddr::new(*at), words.len() as u64 * 8).unwrap()
        };
        self.stretches.iter().map(run).collect()
    }

    fn word(&self, at: PhysAddr) -> &AtomicU64 {
        &self.words(at, 8).unwrap_or_else(|| panic!("{at} is not in the dump"))[0]
    }

    pub(crate) fn get(&self, at: u64) -> u64 {
        self.word(PhysAddr::new(at)).load(Relaxed)
    }

    pub(crate) fn put(&self, at: u64, value: u64) {
        self.word(PhysAddr::new(at)).store(value, Relaxed);
    }

    /// Writes bytes wherever they fall.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let word = at & !7;
            let mut value = self.get(word).to_ne_bytes();
            value[(at - word) as usize] = *byte;
            self.put(word, u64::from_ne_bytes(value));
        }
    }

    pub(crate) fn bytes(&self, at: PhysAddr, bytes: usize) -> Vec<u8> {
        let words = self.words(at, bytes).unwrap();
        let mut found: Vec<u8> =
            words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
        found.truncate(bytes);
        found
    }

    /// Where `bytes` stand in the page at `at`.
    pub(crate) fn find(&self, at: u64, bytes: &[u8]) -> u64 {
        let page = self.bytes(PhysAddr::new(at), PAGE_SIZE);
        at + page.windows(bytes.len()).position(|found| found == bytes).unwrap() as u64
    }

    /// The address of a node on the way to a block's key: level 0 is the leaf.
    pub(crate) fn node(&self, root: PhysAddr, block: Block, level: u32) -> u64 {
        let geometry = Geometry::BUILD;
        let mut node = root.get();
        for level in (level + 1..geometry.levels).rev() {
            node = self.get(node + index(block, level) * 8);
            assert_ne!(node, 0, "{block} has no node of level {}", level - 1);
        }
        node
    }

    /// The entry, on the way to a block's key, of a table of `level`.
    pub(crate) fn entry(&self, root: PhysAddr, block: Block, level: u32) -> u64 {
        self.node(root, block, level) + index(block, level) * 8
    }

    /// Turns the bit of a block over.
    pub(crate) fn flip_key(&self, root: PhysAddr, block: Block) {
        let bit = Key::of(block).get() % (1 << Geometry::BUILD.leaf_log2);
        let word = self.node(root, block, 0) + bit / 64 * 8;
        self.put(word, self.get(word) ^ 1 << (bit % 64));
    }

    /// The bytes of a stretch of a file, from a memfd's parts.
    pub(crate) fn part(&self, part: heirloom_kho::linux::Part) -> Vec<u8> {
        match part {
            heirloom_kho::linux::Part::Data { bytes, addr, .. } => self.bytes(addr, bytes as usize),
            heirloom_kho::linux::Part::Hole { bytes, .. } => vec![0; bytes as usize],
        }
    }
}

/// The index in a table of `level` that leads to a block's key.
fn index(block: Block, level: u32) -> u64 {
    let Geometry { table_log2, leaf_log2, .. } = Geometry::BUILD;
    (Key::of(block).get() >> (leaf_log2 + (level - 1) * table_log2)) % (1 << table_log2)
}

impl Image for Dump {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let (start, words) = self.stretches.range(..=addr.get()).next_back()?;
        let skip = usize::try_from(addr.get() - start).ok()?;
        let whole = skip.is_multiple_of(8);
        words.get(skip / 8..)?.get(..bytes.div_ceil(8)).filter(|_| whole)
    }

    fn is_memory(&self, run: Run) -> bool {
        self.runs().iter().any(|stretch| stretch.covers(run))
    }
}

/// Everything that is wrong with a handover.
pub(crate) fn findings(dump: &Dump, entry: Entry) -> (Surveyed, Vec<Error>) {
    let (surveyed, (found, _)) = all_findings(dump, entry);
    (surveyed, found)
}

/// Everything that is wrong with a handover, and what was not looked at.
pub(crate) fn all_findings(dump: &Dump, entry: Entry) -> (Surveyed, (Vec<Error>, Vec<Unread>)) {
    let runs = dump.runs();
    let mut words: Vec<_> =
        runs.iter().map(|run| vec![0; FramesOf::words(*run).unwrap()]).collect();
    let stretches = runs.iter().zip(&mut words).map(|(run, words)| FramesOf::new(*run, words));
    let mut stretches: Vec<_> = stretches.map(Option::unwrap).collect();
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    let mut frames = Frames::new(&mut stretches);
    let surveyed = survey(dump, entry, &mut frames, |error| {
        found.push(error);
        Ok::<_, Error>(())
    });
    let surveyed = surveyed.unwrap();
    if let Some(map) = surveyed.map {
        let left = Left::new(dump, map);
        let root = RootView::read(&left, entry.root).unwrap();
        check(&left, &root, &mut frames, |new| {
            match new {
                Found::Wrong(error) => found.push(error.into()),
                Found::Unread(of) => unread.push(of),
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    }
    (surveyed, (found, unread))
}
