//! What is written for Linux is what Linux writes: the captured handover's tables come out again byte for byte, and
//! whatever was written is read as it was meant.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;

use heirloom_kho::linux::{
    BlankPage, FileList, Luo, Memfd, MemfdFolio, MemfdWriter, Metadata, Session, Text,
};
use heirloom_kho::{Block, Error, Fault, Order, PAGE_SIZE, Pages, Pfn, PhysAddr, Table};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

const PAGE: u64 = PAGE_SIZE as u64;

/// Pages of zeroes, all preserved, and preserved blocks that nothing looks into.
struct Memory {
    pages: BTreeMap<PhysAddr, Vec<AtomicU64>>,
    blocks: BTreeSet<Block>,
}

impl Memory {
    fn new(pages: impl IntoIterator<Item = PhysAddr>) -> Self {
        let zeroes = || (0..PAGE_SIZE / 8).map(|_| AtomicU64::new(0)).collect();
        let pages = pages.into_iter().map(|at| (at, zeroes())).collect();
        Self { pages, blocks: BTreeSet::new() }
    }

    /// `pages` pages in a row.
    fn of(pages: u64) -> Self {
        Self::new((1..=pages).map(|n| PhysAddr::new(n * PAGE)))
    }

    fn blank(&self, at: PhysAddr) -> BlankPage<'_> {
        BlankPage::new(at, &self.pages[&at]).unwrap()
    }

    /// All of its pages, by address.
    fn all(&self) -> impl Iterator<Item = BlankPage<'_>> {
        self.pages.keys().map(|at| self.blank(*at))
    }

    fn bytes(&self, at: PhysAddr) -> Vec<u8> {
        let words = self.pages[&at].iter();
        words
            .flat_map(|word| word.load(std::sync::atomic::Ordering::Relaxed).to_ne_bytes())
            .collect()
    }
}

impl Pages for Memory {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let skip = addr.get() % PAGE;
        let page = self.pages.get(&PhysAddr::new(addr.get() - skip))?;
        page.get((skip / 8) as usize..)?.get(..bytes.div_ceil(8))
    }

    fn holds(&self, block: Block) -> bool {
        let page = block.order() == Order::ZERO && self.pages.contains_key(&block.addr());
        page || self.blocks.contains(&block)
    }
}

fn text<const N: usize>(text: &str) -> Text<N> {
    Text::new(text).unwrap()
}

fn sessions(memory: &Memory, luo: &Luo) -> Vec<Session> {
    luo.sessions(memory).unwrap().map(Result::unwrap).collect()
}

// The capture has 4 KiB pages.
#[cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]
mod captured {
    use heirloom_kho::linux::Known;
    use heirloom_kho::{AreaPart, Left, Name, RootView};

    use super::*;
    use crate::common::{Dump, addr, expected};

    /// What Linux wrote, and where each subtree is.
    fn linux() -> (Dump, PhysAddr, PhysAddr) {
        let expected = expected();
        (Dump::of_linux(), addr(&expected["fdt"]), addr(&expected["map"]))
    }

    fn known(left: &Left<'_, Dump>, root: PhysAddr, name: &str) -> Known {
        let root = RootView::read(left, root).unwrap();
        let subtree = root.find(&Name::new(name).unwrap()).unwrap();
        Known::read(left, &subtree).unwrap().unwrap()
    }

    #[test]
    fn every_memfd_is_written_as_linux_wrote_it() {
        let (dump, root, map) = linux();
        let left = Left::new(&dump, map);
        let Known::Luo(luo) = known(&left, root, Luo::NAME) else { panic!("no LUO") };
        let mut seen = 0;
        for session in luo.sessions(&left).unwrap() {
            for file in session.unwrap().files(&left).unwrap() {
                let memfd = file.unwrap().memfd(&left).unwrap().unwrap();
                let mut pages = vec![memfd.at];
                memfd
                    .area
                    .unwrap()
                    .walk(&left, |part| {
                        let (AreaPart::Chunk(block) | AreaPart::Block(block)) = part;
                        pages.push(block.addr());
                        Ok::<_, Error>(())
                    })
                    .unwrap();
                assert_eq!(pages.len() as u64, MemfdWriter::pages_for(memfd.folios));
                let memory = Memory::new(pages.iter().copied());
                let mut blank = pages.iter().map(|at| memory.blank(*at));
                let writer = MemfdWriter::new(&mut blank, memfd.size).unwrap();
                let mut writer = writer.with(memfd.pos, memfd.seals, memfd.flags).unwrap();
                memfd.for_each_folio(&left, |folio| writer.push(&mut blank, folio)).unwrap();
                assert_eq!(writer.finish(), memfd.at);
                assert!(blank.next().is_none());
                // Behind the structure, the page is whatever Linux had there.
                let size = Memfd::SIZE as usize;
                assert_eq!(memory.bytes(memfd.at)[..size], dump.bytes(memfd.at, size));
                for at in &pages[1..] {
                    let bytes =
                        if *at == pages[1] { PAGE_SIZE } else { memfd.folios as usize * 16 };
                    assert_eq!(memory.bytes(*at)[..bytes], dump.bytes(*at, bytes), "{at}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 8);
    }

    #[test]
    fn sessions_and_files_are_written_as_linux_wrote_them() {
        let (dump, root, map) = linux();
        let left = Left::new(&dump, map);
        let Known::Luo(luo) = known(&left, root, Luo::NAME) else { panic!("no LUO") };
        let mut pages = vec![luo.at, luo.sessions];
        let all: Vec<_> = luo.sessions(&left).unwrap().map(Result::unwrap).collect();
        pages.extend(all.iter().map(|session| session.files));
        let memory = Memory::new(pages.iter().copied());
        let mut written = Luo::create(memory.blank(luo.at), luo.number);
        for session in &all {
            let mut files = FileList::new();
            let mut page = std::iter::once(memory.blank(session.files));
            for file in session.files(&left).unwrap().map(Result::unwrap) {
                files.push(&mut page, file.compatible, file.data, file.token).unwrap();
            }
            let mut page = std::iter::once_with(|| memory.blank(luo.sessions));
            written.add_session(&memory, &mut page, session.name, &files).unwrap();
        }
        assert_eq!(written, Luo { flbs: written.flbs, ..luo });
        // What files share is not written here: the list's address is the last word.
        let head = Luo::SIZE as usize - 8;
        assert_eq!(memory.bytes(luo.at)[..head], dump.bytes(luo.at, head));
        for at in &pages[1..] {
            assert_eq!(memory.bytes(*at), dump.bytes(*at, PAGE_SIZE), "{at}");
        }
    }

    #[test]
    fn the_kernel_s_own_words_are_written_as_linux_wrote_them() {
        let (dump, root, map) = linux();
        let left = Left::new(&dump, map);
        let Known::Metadata(metadata) = known(&left, root, Metadata::NAME) else { panic!("none") };
        let memory = Memory::new([metadata.at]);
        let Metadata { at, previous_release, kexec_count } = metadata;
        let written = Metadata::create(memory.blank(at), previous_release, kexec_count);
        assert_eq!(written, metadata);
        let size = Metadata::SIZE as usize;
        assert_eq!(memory.bytes(at)[..size], dump.bytes(at, size));
    }

    /// Linux's own list is gone on with: its sessions stay as they are.
    #[test]
    fn a_session_is_added_behind_linux_s_own() {
        let (dump, root, map) = linux();
        let left = Left::new(&dump, map);
        let Known::Luo(mut luo) = known(&left, root, Luo::NAME) else { panic!("no LUO") };
        let before: Vec<_> = luo.sessions(&left).unwrap().map(Result::unwrap).collect();
        let memory = Memory::of(1);
        let mut files = FileList::new();
        files.push(&mut memory.all(), text("another-v1"), 77, 5).unwrap();
        let mut none = std::iter::empty();
        luo.add_session(&left, &mut none, text("ours"), &files).unwrap();
        let after: Vec<_> = luo.sessions(&left).unwrap().map(Result::unwrap).collect();
        let (new, old) = after.split_last().unwrap();
        assert_eq!(old, before);
        assert_eq!((new.name.as_str(), new.count), ("ours", 1));
        assert_eq!(new.files, PhysAddr::new(PAGE));
        let again = luo.add_session(&left, &mut none, text("session-1"), &files);
        let fault = Fault::Duplicate.in_table(Table::Session, before[1].at, 0);
        assert_eq!(again, Err(fault));
    }
}

#[test]
fn where_no_page_is_left_nothing_is_changed() {
    let memory = Memory::of(1);
    let mut none = std::iter::empty();
    let mut luo = Luo::create(memory.blank(PhysAddr::new(PAGE)), 1);
    let mut files = FileList::new();
    let full = |table| Err(Error::TableFull { table, limit: 0 });
    assert_eq!(files.push(&mut none, text("kind"), 1, 2), full(Table::File));
    assert!(files.is_empty());
    assert_eq!(luo.add_session(&memory, &mut none, text("s"), &files), full(Table::Session));
    assert_eq!(sessions(&memory, &luo), []);
    assert_eq!(MemfdWriter::new(&mut none, 1).map(|_| ()), full(Table::Memfd));
    let more = Memory::of(2);
    let mut two = more.all();
    let mut memfd = MemfdWriter::new(&mut two, PAGE).unwrap();
    let folio = MemfdFolio::with_contents(Block::containing(Pfn::new(50), Order::ZERO), 0);
    assert_eq!(memfd.push(&mut two, folio), full(Table::MemfdFolios));
    let at = memfd.finish();
    assert_eq!(more.bytes(at)[24..48], [0; 24]);
}

#[test]
fn what_no_file_can_be_is_refused() {
    let memory = Memory::of(9);
    let mut pages = memory.all();
    assert!(MemfdWriter::new(&mut pages, 1 << 63).is_err());
    let new =
        |pages: &mut dyn Iterator<Item = _>| MemfdWriter::new(&mut { pages }, 8 * PAGE).unwrap();
    assert!(new(&mut pages).with(1 << 63, 0, 0).is_err());
    assert!(new(&mut pages).with(0, 0x40, 0).is_err());
    let mut memfd = new(&mut pages);
    let block = |pfn, order| Block::containing(Pfn::new(pfn), Order::new(order).unwrap());
    let mut push = |block, index, flags| {
        memfd.push(&mut pages, MemfdFolio { block, index, flags }).map_err(|error| match error {
            Error::Table(error) => error.fault,
            other => panic!("{other}"),
        })
    };
    push(block(64, 1), 2, 3).unwrap();
    let behind = Fault::Malformed { expected: "page behind the folio before" };
    assert_eq!(push(block(70, 0), 3, 3), Err(behind));
    assert_eq!(push(block(70, 0), 8, 3), Err(Fault::TooMany { found: 8, limit: 7 }));
    assert_eq!(push(block(70, 0), 4, 4), Err(Fault::Reserved { found: 4 }));
    assert!(push(block(72, 1), 5, 3).is_err(), "two pages start at an even one");
    push(block(70, 0), 4, 0).unwrap();
}

fn config() -> Config {
    Config {
        cases: 96,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(0x6865_6972_6c6f_6f6d),
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Any number of sessions of any number of files: in order, none twice, in as many pages as was said.
    #[test]
    fn sessions_are_read_as_they_were_written(
        counts in prop::collection::vec(prop_oneof![0_u64..4, 60_u64..140], 0..120),
        number: u64,
    ) {
        let needed: u64 = counts.iter().map(|files| FileList::pages_for(*files)).sum();
        let memory = Memory::of(needed + counts.len() as u64 * Luo::pages_for_session() + 1);
        let mut pages = memory.all();
        let mut luo = Luo::create(pages.next().unwrap(), number);
        for (i, count) in counts.iter().enumerate() {
            let mut files = FileList::new();
            let needed = FileList::pages_for(*count) as usize;
            let mut own: Vec<_> = pages.by_ref().take(needed).collect();
            let mut own = own.drain(..);
            for n in 0..*count {
                files.push(&mut own, text("some-v3"), n ^ number, n).unwrap();
            }
            prop_assert!(own.next().is_none());
            luo.add_session(&memory, &mut pages, text(&format!("session {i}")), &files).unwrap();
        }
        let read = Luo::read(&memory, luo.at, Luo::SIZE).unwrap();
        prop_assert_eq!(read, luo);
        let found = sessions(&memory, &read);
        prop_assert_eq!(found.len(), counts.len());
        for (i, (session, count)) in found.iter().zip(&counts).enumerate() {
            prop_assert_eq!(session.name.as_str(), format!("session {i}"));
            let files: Vec<_> = session.files(&memory).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(files.len() as u64, *count);
            for (n, file) in (0..).zip(files) {
                prop_assert_eq!((file.data, file.token), (n ^ number, n));
                prop_assert_eq!(file.compatible.as_str(), "some-v3");
            }
        }
        let again = luo.add_session(&memory, &mut pages, text("session 0"), &FileList::new());
        prop_assert_eq!(again.is_err(), !counts.is_empty());
    }

    /// A memfd of folios of any size, with holes, whose entries may take several chunk pages.
    #[test]
    fn a_memfd_is_read_as_it_was_written(
        folios in prop_oneof![
            prop::collection::vec((0_u8..4, 0_u64..3, any::<bool>()), 0..600),
            prop::collection::vec((0_u8..1, 0_u64..2, any::<bool>()), 600..2000),
        ],
        tail in 0_u64..PAGE,
        seals in 0_u32..64,
        pos in 0_u64..1 << 62,
    ) {
        let (mut index, mut pfn, mut expected) = (0_u64, 1_u64 << 30, Vec::new());
        for (order, hole, written) in folios {
            let order = Order::new(order).unwrap();
            index = (index + hole).next_multiple_of(order.frames());
            pfn = (pfn + hole).next_multiple_of(order.frames());
            let block = Block::new(Pfn::new(pfn), order).unwrap();
            let flags = if written { 3 } else { 0 };
            expected.push(MemfdFolio { block, index, flags });
            (index, pfn) = (index + order.frames(), pfn + order.frames());
        }
        let needed = MemfdWriter::pages_for(expected.len() as u64);
        let mut memory = Memory::of(needed);
        memory.blocks.extend(expected.iter().map(|folio| folio.block));
        let mut pages = memory.all();
        let size = index * PAGE + tail;
        let memfd = MemfdWriter::new(&mut pages, size).unwrap();
        let mut memfd = memfd.with(pos, seals, 7).unwrap();
        for folio in &expected {
            memfd.push(&mut pages, *folio).unwrap();
        }
        prop_assert!(pages.next().is_none(), "as many pages as was said");
        drop(pages);
        let at = memfd.finish();
        // Read through a session, as a successor comes to it.
        let more = Memory::of(needed + 3);
        let mut luo_pages = more.all().skip(needed as usize);
        let mut luo = Luo::create(luo_pages.next().unwrap(), 1);
        let mut files = FileList::new();
        files.push(&mut luo_pages, text(Memfd::COMPATIBLE), at.get(), 9).unwrap();
        luo.add_session(&more, &mut luo_pages, text("one"), &files).unwrap();
        let file = luo.session(&more, "one").unwrap().unwrap().file(&more, 9).unwrap().unwrap();
        let found = file.memfd(&memory).unwrap().unwrap();
        prop_assert_eq!((found.pos, found.size, found.seals, found.flags), (pos, size, seals, 7));
        let mut folios = Vec::new();
        found.for_each_folio(&memory, |folio| {
            folios.push(folio);
            Ok::<_, Error>(())
        }).unwrap();
        prop_assert_eq!(folios, expected);
    }
}

#[test]
fn a_release_is_read_as_it_was_written() {
    let memory = Memory::of(1);
    let release = text(&"r".repeat(64));
    let written = Metadata::create(memory.blank(PhysAddr::new(PAGE)), release, u32::MAX);
    assert_eq!(Metadata::read(&memory, written.at, Metadata::SIZE), Ok(written));
    assert!(Text::<65>::new(&"r".repeat(65)).is_none());
}
