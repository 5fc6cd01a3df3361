//! What a kernel with pages of any size left: its tree is read as Linux's definition has it, and any bytes
//! in its place are read to an end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use heirloom_kho::linux::{Found, Known};
use heirloom_kho::tree::{Counts, FolioRange, Frames, FramesOf, check, survey};
use heirloom_kho::{
    AreaDescriptor, Block, Chain, Header, Image, Left, Order, PAGE_SHIFT, PageSize, Pages, Pfn,
    PhysAddr, RootView, Run, ScratchList,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed};
use zerocopy::FromBytes;

/// Where memory starts, and how many pages it has.
const START: u64 = 1 << 32;
const PAGES: u64 = 64;

/// Memory in pages of some size; what was never written is zero.
struct Memory {
    page: PageSize,
    words: BTreeMap<u64, Vec<AtomicU64>>,
    zeroes: Vec<AtomicU64>,
    used: u64,
}

impl Memory {
    fn new(page: PageSize) -> Self {
        let zeroes = (0..PAGES * page.bytes() as u64 / 8).map(|_| AtomicU64::new(0)).collect();
        Self { page, words: BTreeMap::new(), zeroes, used: 0 }
    }

    fn bytes(&self) -> u64 {
        self.page.bytes() as u64
    }

    /// All of it.
    fn run(&self) -> Run {
        self.page.covering(PhysAddr::new(START), PAGES * self.bytes()).unwrap()
    }

    /// A page that nothing has yet.
    fn page(&mut self) -> u64 {
        let at = START + self.used * self.bytes();
        let page = (0..self.bytes() / 8).map(|_| AtomicU64::new(0)).collect();
        self.words.insert(at, page);
        self.used += 1;
        at
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        let page = at / self.bytes() * self.bytes();
        &self.words[&page][((at - page) / 8) as usize]
    }
}

impl Image for Memory {
    fn page_size(&self) -> PageSize {
        self.page
    }

    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let run = Run::covering(addr, bytes as u64).filter(|run| self.is_memory(*run))?;
        let (at, page) = (addr.get(), addr.get() / self.bytes() * self.bytes());
        if !at.is_multiple_of(8) || run.is_empty() {
            return None;
        }
        let all = self.words.get(&page).unwrap_or(&self.zeroes);
        all.get(((at - page) / 8) as usize..)?.get(..bytes.div_ceil(8))
    }

    fn is_memory(&self, run: Run) -> bool {
        self.run().covers(run)
    }
}

fn sizes() -> impl Iterator<Item = PageSize> {
    (12..=16).filter_map(|shift| PageSize::new(1 << shift))
}

/// Linux's definition: the key of a block of `2^order` pages at page `pfn`, and the way that it leads,
/// from the root down to a bit.
fn way(page: PageSize, pfn: u64, order: u32) -> Vec<u64> {
    let order_0 = 64 - page.shift();
    let (table, bitmap) = (page.shift() - 3, page.shift() + 3);
    let key = 1_u64 << (order_0 - order) | pfn >> order;
    let depth = (order_0 - bitmap + 1).div_ceil(table) + 1;
    let mut way: Vec<_> = (1..depth)
        .rev()
        .map(|level| key >> (bitmap + (level - 1) * table) & ((1 << table) - 1))
        .collect();
    way.push(key & ((1 << bitmap) - 1));
    way
}

/// Writes the tree of these blocks, in pages and orders of pages.
fn plant(memory: &mut Memory, blocks: &BTreeSet<(u64, u32)>) -> PhysAddr {
    let root = memory.page();
    for (pfn, order) in blocks {
        let mut at = root;
        let way = way(memory.page, *pfn, *order);
        let (bit, tables) = way.split_last().unwrap();
        for index in tables {
            let entry = at + index * 8;
            if memory.word(entry).load(Relaxed) == 0 {
                let below = memory.page();
                memory.word(entry).store(below, Relaxed);
            }
            at = memory.word(entry).load(Relaxed);
        }
        memory.word(at + bit / 64 * 8).fetch_or(1 << (bit % 64), Relaxed);
    }
    PhysAddr::new(root)
}

/// The block that these pages are, in frames.
fn block(page: PageSize, (pfn, order): (u64, u32)) -> Block {
    let order = page.order_of(order as u8).unwrap();
    Block::new(Pfn::new(pfn << page.order().get()), order).unwrap()
}

fn config(cases: u32, seed: u64) -> Config {
    Config {
        cases,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    }
}

#[test]
fn the_way_is_the_build_s_where_the_page_size_is() {
    let key = heirloom_kho::tree::Key::of(block(PageSize::BUILD, (0x1_2340, 4)));
    let levels = heirloom_kho::tree::Geometry::BUILD.levels;
    let expected: Vec<_> = (0..levels).rev().map(|level| key.index(level) as u64).collect();
    assert_eq!(way(PageSize::BUILD, 0x1_2340, 4), expected);
    assert_eq!(PageSize::BUILD.shift(), PAGE_SHIFT);
}

proptest! {
    #![proptest_config(config(160, 0x7061_6765_7331))]

    #[test]
    fn what_a_tree_holds_is_read(
        which in 0_usize..5,
        picks in prop::collection::vec((0_u64..8, 0_u32..3), 0..12),
    ) {
        let sizes: Vec<_> = sizes().collect();
        let page = sizes[which % sizes.len()];
        let mut memory = Memory::new(page);
        // Apart from each other and from the tree: in the last 32 pages, in eight stretches of four.
        let first = START / memory.bytes() + 32;
        let blocks: BTreeMap<u64, u32> = picks.into_iter().map(|(at, order)| (first + at * 4, order)).collect();
        let blocks: BTreeSet<_> = blocks.into_iter().collect();
        let root = plant(&mut memory, &blocks);
        let left = Left::new(&memory, root);
        let expected: BTreeSet<_> = blocks.iter().map(|one| block(page, *one)).collect();
        prop_assert_eq!(left.tree().folios().collect::<BTreeSet<_>>(), expected.clone());
        let rows = left.tree().folio_ranges().map(FolioRange::count).sum::<u64>();
        prop_assert_eq!(rows, expected.len() as u64);
        for (at, order) in (0..8).flat_map(|at| (0..4).map(move |order| (first + at * 4, order))) {
            if at.is_multiple_of(1 << order) {
                let one = block(page, (at, order));
                prop_assert_eq!(Pages::holds(&left, one), expected.contains(&one));
            }
        }
        // What is less than a page is in no tree of such pages.
        if page > PageSize::BUILD {
            let small = Block::containing(Pfn::new(first << page.order().get()), Order::ZERO);
            prop_assert!(!Pages::holds(&left, small));
            prop_assert_eq!(left.block_around(small.pfn()), expected.iter().find(|one| one.run().contains(small.pfn())).copied());
        }
        let counts = left.tree().counts();
        let frames: u64 = expected.iter().map(|one| one.order().frames()).sum();
        prop_assert_eq!((counts.frames(), counts.nodes()), (frames, memory.used));
        let gaps: u64 = left.tree().gaps(memory.run()).map(Run::frames).sum();
        prop_assert_eq!(gaps, memory.run().frames() - frames);
        let mut words = vec![0; FramesOf::words(memory.run()).unwrap()];
        let mut stretches = [FramesOf::new(memory.run(), &mut words).unwrap()];
        let checked = check(root, &left, &mut Frames::new(&mut stretches));
        prop_assert_eq!(checked, Ok(counts));
    }
}

/// Everything that reads, over one page after the other. Returns what a survey of the tree counts.
fn read_all(memory: &Memory, at: PhysAddr) -> Counts {
    let page = memory.page;
    let bare = Left::bare(memory);
    let map = RootView::read(&bare, at).map_or(at, |root| root.map());
    let left = Left::new(memory, map);
    if let Ok(root) = RootView::read(&left, at) {
        let mut words = vec![0; FramesOf::words(memory.run()).unwrap()];
        let mut stretches = [FramesOf::new(memory.run(), &mut words).unwrap()];
        let mut found = 0;
        let mut frames = Frames::new(&mut stretches);
        heirloom_kho::linux::check(&left, &root, &mut frames, |of| {
            found += 1;
            let Found::Wrong(error) = of else { return Ok(()) };
            if error.to_string().is_empty() { Err(()) } else { Ok(()) }
        })
        .unwrap();
        for subtree in root.subtrees().flatten() {
            let _ = Known::read(&left, &subtree);
        }
    }
    if let Some(words) = Image::words(memory, at, page.bytes()) {
        let _ = Header::sized(page, words, at);
        let list = ScratchList::sized(page, words, at, |run| memory.is_memory(run));
        if let Ok(list) = list {
            assert!(list.runs().all(|run| memory.is_memory(run)));
        }
        let bytes: Vec<u8> =
            words.iter().take(2).flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
        if let Ok(info) = AreaDescriptor::read_from_bytes(&bytes).unwrap().info(at, page) {
            let _ = info.walk(&left, |_| Ok::<_, heirloom_kho::Error>(()));
        }
    }
    if let Ok(chain) = Chain::<_, [u64; 8]>::new(&left, at) {
        assert_eq!(chain.iter().count() as u64, chain.len());
    }
    let mut words = vec![0; FramesOf::words(memory.run()).unwrap()];
    let mut stretches = [FramesOf::new(memory.run(), &mut words).unwrap()];
    let mut faults = 0_u64;
    let counts = survey(map, &left, &mut Frames::new(&mut stretches), |_| {
        faults += 1;
        Ok::<_, ()>(())
    });
    let counts = counts.unwrap();
    assert!(counts.nodes() * page.order().frames() + counts.frames() <= memory.run().frames());
    assert!(faults <= (counts.nodes() + 1) * page.bytes() as u64 * 8);
    counts
}

proptest! {
    #![proptest_config(config(240, 0x7061_6765_7332))]

    #[test]
    fn any_bytes_are_read_to_an_end(
        which in 0_usize..5,
        picks in prop::collection::vec((0_u64..8, 0_u32..3), 1..8),
        writes in prop::collection::vec((any::<u64>(), any::<u64>(), 0_u8..6, 0_u32..64), 0..12),
    ) {
        let sizes: Vec<_> = sizes().collect();
        let mut memory = Memory::new(sizes[which % sizes.len()]);
        let first = START / memory.bytes() + 32;
        let blocks = picks.into_iter().map(|(at, order)| (first + at * 4, order)).collect();
        let root = plant(&mut memory, &blocks);
        for (place, value, kind, shift) in writes {
            // One of the tree's pages, near its start as often as anywhere.
            let page = START + place % memory.used * memory.bytes();
            let at = page + (place >> 32) % (memory.bytes() / if shift < 32 { 64 } else { 8 }) * 8;
            let value = match kind {
                0 => value,
                1 => START + value % (PAGES + 2) * memory.bytes(),
                2 => START + value % (PAGES * memory.bytes()),
                3 => 1 << shift,
                4 => u64::MAX << shift,
                _ => 0,
            };
            memory.word(at).store(value, Relaxed);
        }
        for page in 0..memory.used {
            read_all(&memory, PhysAddr::new(START + page * memory.bytes()));
        }
        let _ = Left::new(&memory, root).tree().nodes().count();
    }
}
