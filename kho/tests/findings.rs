//! Each kind of fault in a handover of Linux's, provoked: it is found, and named with its place.
#![cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]

mod common;

use common::{Dump, block, findings};
use heirloom_kho::linux::Opaque;
use heirloom_kho::tree::{TreeError, TreeFault};
use heirloom_kho::{Block, Excerpt, Fault, Order, PhysAddr, Run, Table, TableError};
use heirloom_restore::{Entry, Error};

// Where the capture has things.
const ROOT: PhysAddr = PhysAddr::new(0x50_f000);
const MAP: PhysAddr = PhysAddr::new(0x50_e000);
const LUO: u64 = 0x70_a000;
const KHO_TEST: u64 = 0x58_c000;
const METADATA: u64 = 0x51_6000;
/// `session-0`, token 0: its structure, and the frame of its first folio.
const MEMFD: u64 = 0x7b_5000;
const FIRST_FOLIO: u64 = 1974;

const ENTRY: Entry = Entry { root: ROOT, scratch: PhysAddr::new(0), scratch_bytes: 0 };

/// What is wrong after `corrupt`.
fn after(corrupt: impl FnOnce(&Dump)) -> Vec<Error> {
    let dump = Dump::of_linux();
    corrupt(&dump);
    findings(&dump, ENTRY).1
}

/// The one thing that is wrong after `corrupt`.
fn only(corrupt: impl FnOnce(&Dump)) -> Error {
    let found = after(corrupt);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

fn tree(node: u64, level: u8, index: u32, reason: TreeFault) -> Error {
    let error = TreeError { node: PhysAddr::new(node), level, index, reason };
    heirloom_folio::Error::Tree(error).into()
}

fn table(table: Table, at: u64, offset: usize, fault: Fault) -> Error {
    Error::Table(TableError { table, at: PhysAddr::new(at), offset, fault })
}

/// Where a block's bit is in its leaf.
fn bit(block: Block) -> u32 {
    (heirloom_kho::tree::Key::of(block).get() % (1 << 15)) as u32
}

/// The address that entry 0 of a list's first block stands at.
fn first_entry(dump: &Dump, list: u64) -> u64 {
    dump.get(list) + 16
}

fn session(dump: &Dump) -> u64 {
    first_entry(dump, LUO + 16)
}

fn file(dump: &Dump) -> u64 {
    first_entry(dump, session(dump) + 64)
}

/// The list of the memfd's folios.
fn folios(dump: &Dump) -> u64 {
    dump.get(dump.get(MEMFD + 32) + 8)
}

#[test]
fn folios_that_overlap() {
    // The second frame of a folio of two, as a folio of its own.
    let twice = block(0x58b, 0);
    let leaf = Dump::of_linux().node(MAP, twice, 0);
    let found = only(|dump| dump.flip_key(MAP, twice));
    assert_eq!(found, tree(leaf, 0, bit(twice), TreeFault::Overlap { block: twice }));
}

#[test]
fn keys_outside_memory() {
    let outside = [block(0x100, 0), block(0x101, 0), block(0x200, 0)];
    let leaf = Dump::of_linux().node(MAP, outside[0], 0);
    let found = after(|dump| outside.iter().for_each(|block| dump.flip_key(MAP, *block)));
    let expected = outside
        .map(|block| tree(leaf, 0, bit(block), TreeFault::OutsideMemory { addr: block.addr() }));
    assert_eq!(found, expected);
}

#[test]
fn a_node_that_is_not_in_memory_or_no_page() {
    let at = MAP.get() + 8 * 3;
    let addr = PhysAddr::new(0x4000_0000);
    let found = only(|dump| dump.put(at, addr.get()));
    assert_eq!(found, tree(MAP.get(), 5, 3, TreeFault::OutsideMemory { addr }));
    let found = only(|dump| dump.put(at, 9));
    assert_eq!(found, tree(MAP.get(), 5, 3, TreeFault::Misaligned { entry: 9 }));
    let found = only(|dump| dump.put(MAP.get() + 8 * 500, addr.get()));
    assert_eq!(found, tree(MAP.get(), 5, 500, TreeFault::NoKey));
}

#[test]
fn a_node_with_two_parents() {
    let dump = Dump::of_linux();
    let leaf = dump.entry(MAP, block(0x563, 0), 1);
    let (table, node) = (leaf & !0xfff, dump.get(leaf));
    let found = only(|dump| dump.put(leaf + 8, node));
    let block = Block::containing(PhysAddr::new(node).pfn(), Order::ZERO);
    let index = ((leaf & 0xfff) / 8 + 1) as u32;
    let reason = TreeFault::Node { block, node: PhysAddr::new(node) };
    assert_eq!(found, tree(table, 1, index, reason));
}

#[test]
fn a_cycle() {
    let leaf = Dump::of_linux().entry(MAP, block(0x563, 0), 1);
    let found = only(|dump| dump.put(leaf + 8, MAP.get()));
    let block = Block::containing(MAP.pfn(), Order::ZERO);
    let index = ((leaf & 0xfff) / 8 + 1) as u32;
    let reason = TreeFault::Node { block, node: MAP };
    assert_eq!(found, tree(leaf & !0xfff, 1, index, reason));
}

#[test]
fn a_node_inside_a_preserved_folio() {
    // A folio of one frame of the tree itself.
    let dump = Dump::of_linux();
    let leaf = dump.node(MAP, block(0x563, 0), 0);
    let around = Block::containing(PhysAddr::new(leaf).pfn(), Order::ZERO);
    let found = only(|dump| dump.flip_key(MAP, around));
    let reason = TreeFault::Node { block: around, node: PhysAddr::new(leaf) };
    assert_eq!(found, tree(leaf, 0, bit(around), reason));
    // The other way round: the tree leads into a folio that was come upon before.
    let inside = block(0x5a1, 0);
    let at = dump.entry(MAP, block(0x563, 0), 1) + 8;
    let found = only(|dump| dump.put(at, inside.addr().get()));
    let index = ((at & 0xfff) / 8) as u32;
    assert_eq!(found, tree(at & !0xfff, 1, index, TreeFault::Overlap { block: inside }));
}

#[test]
fn anything_preserved_in_scratch() {
    let mut dump = Dump::of_linux();
    let list = PhysAddr::new(0x300_0000);
    // One area of two frames, in the middle of a folio of 32.
    let words = [0x5a_4000_u64, 0x2000].map(u64::to_ne_bytes).concat();
    dump.add(list, &[words, vec![0; 0xff0]].concat());
    let entry = Entry { scratch: list, scratch_bytes: 16, ..ENTRY };
    let folio = block(0x5a0, 5);
    let leaf = dump.node(MAP, folio, 0);
    let found = findings(&dump, entry).1;
    assert_eq!(found, [tree(leaf, 0, bit(folio), TreeFault::Scratch { block: folio })]);
    // The root page itself, and a list that is none.
    dump.put(list.get(), ROOT.get());
    let found = findings(&dump, entry).1;
    let run = Run::covering(ROOT, 4096).unwrap();
    let with = Run::covering(ROOT, 8192).unwrap();
    let fault = Fault::Overlap { run, with };
    assert_eq!(found, [table(Table::Root, ROOT.get(), 0, fault)]);
}

#[test]
fn a_blob_that_is_not_in_memory_or_not_preserved() {
    let root = ROOT.get();
    let addr = PhysAddr::new(0x7000_0000);
    let found = only(|dump| {
        dump.write(dump.find(root, &LUO.to_ne_bytes()), &addr.get().to_ne_bytes());
    });
    assert_eq!(found, table(Table::Root, root, 0, Fault::OutsideMemory { addr }));
    let blob = block(METADATA >> 12, 0);
    let found = only(|dump| dump.flip_key(MAP, blob));
    assert_eq!(found, table(Table::Root, root, 0, Fault::NotPreserved { block: blob }));
}

#[test]
fn a_root_page_that_cannot_be_read_ends_the_survey() {
    let found = only(|dump| dump.put(ROOT.get(), 7));
    assert_eq!(found, table(Table::Root, ROOT.get(), 0, Fault::Magic { found: 0x700_0000 }));
    let entry = Entry { root: PhysAddr::new(0x1000), ..ENTRY };
    let (surveyed, found) = findings(&Dump::of_linux(), entry);
    let fault = Fault::OutsideMemory { addr: entry.root };
    assert_eq!(found, [table(Table::Root, 0x1000, 0, fault)]);
    assert!(surveyed.map.is_none() && surveyed.counts.is_none());
}

#[test]
fn lists_that_come_back_or_lead_away() {
    let sessions = Dump::of_linux().get(LUO + 16);
    let found = only(|dump| dump.put(sessions, sessions));
    let cycle = Fault::Malformed { expected: "end: it comes back to a block before" };
    assert_eq!(found, table(Table::Records, sessions, 0, cycle));
    // One over two blocks; the second is what was the list of files.
    let files = Dump::of_linux().get(sessions + 16 + 64);
    let found = after(|dump| {
        dump.put(sessions, files);
        (0..512).for_each(|i| dump.put(files + 8 * i, 0));
        dump.put(files, sessions);
    });
    assert_eq!(found, [table(Table::Records, files, 0, cycle)]);
    let found = only(|dump| dump.put(sessions, 0x800_0000));
    let fault = Fault::NotPreserved { block: block(0x8000, 0) };
    assert_eq!(found, table(Table::Records, sessions, 0, fault));
    let found = only(|dump| dump.put(sessions + 8, 52));
    let fault = Fault::TooMany { found: 52, limit: 51 };
    assert_eq!(found, table(Table::Records, sessions, 8, fault));
}

#[test]
fn a_memfd_s_folio_that_is_not_preserved() {
    let missing = block(FIRST_FOLIO, 0);
    let at = folios(&Dump::of_linux());
    let found = only(|dump| dump.flip_key(MAP, missing));
    assert_eq!(found, table(Table::MemfdFolios, at, 0, Fault::NotPreserved { block: missing }));
    // Every one that is not is found.
    let found = after(|dump| {
        (0..4).for_each(|i| dump.put(at + 16 * i, (3 << 52) + 0x8000 + i));
    });
    let expected = [0, 1, 2, 3].map(|i| {
        let block = block(0x8000 + i, 0);
        table(Table::MemfdFolios, at + 16 * i, 0, Fault::NotPreserved { block })
    });
    assert_eq!(found, expected);
}

#[test]
fn memory_that_two_tables_name() {
    let dump = Dump::of_linux();
    let (first, second) = (file(&dump), file(&dump) + 64);
    // One memfd under two tokens: the second has nothing.
    let found = only(|dump| dump.put(second + 48, MEMFD));
    let shared = |pfn| Fault::Shared { block: block(pfn, 0) };
    assert_eq!(found, table(Table::Memfd, MEMFD, 0, shared(MEMFD >> 12)));
    // One folio in two files, and a folio that is another's list.
    let other = dump.get(dump.get(dump.get(second + 48) + 32) + 8);
    let found = only(|dump| dump.put(other, (3 << 52) + FIRST_FOLIO));
    assert_eq!(found, table(Table::MemfdFolios, other, 0, shared(FIRST_FOLIO)));
    let list = folios(&dump) >> 12;
    let found = only(|dump| dump.put(other, (3 << 52) + list));
    assert_eq!(found, table(Table::MemfdFolios, other, 0, shared(list)));
    // One list of files in two sessions.
    let files = first & !0xfff;
    let twin = session(&dump) + 80;
    let found = only(|dump| dump.put(twin + 64, files));
    assert_eq!(found, table(Table::Session, twin, 0, shared(files >> 12)));
}

#[test]
fn folios_that_are_not_in_the_order_of_the_file_or_not_in_the_file() {
    let at = folios(&Dump::of_linux());
    let found = only(|dump| dump.put(at + 16 * 5 + 8, 4));
    let fault = Fault::Malformed { expected: "page behind the folio before" };
    assert_eq!(found, table(Table::MemfdFolios, at + 16 * 5, 8, fault));
    let found = only(|dump| dump.put(at + 16 * 15 + 8, 16));
    let fault = Fault::TooMany { found: 16, limit: 15 };
    assert_eq!(found, table(Table::MemfdFolios, at + 16 * 15, 8, fault));
    let found = only(|dump| dump.put(MEMFD + 24, 17));
    assert_eq!(found, table(Table::Memfd, MEMFD, 24, Fault::TooMany { found: 17, limit: 16 }));
}

#[test]
fn values_that_no_memfd_has() {
    let large = |found| Fault::TooMany { found, limit: i64::MAX as u64 };
    let found = only(|dump| dump.put(MEMFD, 1 << 63));
    assert_eq!(found, table(Table::Memfd, MEMFD, 0, large(1 << 63)));
    let found = only(|dump| dump.put(MEMFD + 8, u64::MAX));
    assert_eq!(found, table(Table::Memfd, MEMFD, 8, large(u64::MAX)));
    let found = only(|dump| dump.write(MEMFD + 16, &0x41_u32.to_ne_bytes()));
    assert_eq!(found, table(Table::Memfd, MEMFD, 16, Fault::Reserved { found: 0x41 }));
    assert_eq!(after(|dump| dump.write(MEMFD + 16, &0x3f_u32.to_ne_bytes())), []);
    assert_eq!(after(|dump| dump.put(MEMFD, i64::MAX as u64)), []);
    let at = folios(&Dump::of_linux());
    let found = only(|dump| dump.put(at, (7 << 52) + FIRST_FOLIO));
    assert_eq!(found, table(Table::MemfdFolios, at, 0, Fault::Reserved { found: 7 }));
}

#[test]
fn a_folio_that_is_astray_in_its_file() {
    // The file has one folio, of 32 pages, and it starts at page 1.
    let at = folios(&Dump::of_linux());
    let expected = "index that is a multiple of the folio's pages";
    let found = after(|dump| {
        dump.put(MEMFD + 8, 33 * 4096);
        dump.put(MEMFD + 24, 1);
        dump.put(at, (3 << 52) + 0x5a0);
        dump.put(at + 8, 1);
    });
    let fault = Fault::Malformed { expected };
    assert_eq!(found[0], table(Table::MemfdFolios, at, 8, fault));
}

#[test]
fn areas_whose_pages_do_not_add_up() {
    let chunk = Dump::of_linux().get(MEMFD + 32);
    // Two pages by the descriptor, one in the chunk.
    let found = only(|dump| dump.write(MEMFD + 40, &2_u32.to_ne_bytes()));
    let fault = Fault::Length { expected: 2, found: 1 };
    assert_eq!(found, table(Table::Area, chunk, 8, fault));
    let found = only(|dump| dump.put(chunk + 16, chunk));
    let fault = Fault::TooMany { found: 2, limit: 1 };
    assert_eq!(found, table(Table::Area, chunk, 16, fault));
    let found = only(|dump| dump.write(MEMFD + 44, &4_u16.to_ne_bytes()));
    assert_eq!(found, table(Table::Area, MEMFD + 32, 12, Fault::Reserved { found: 4 }));
    // The chunk page itself.
    let chunk = block(chunk >> 12, 0);
    let found = only(|dump| dump.flip_key(MAP, chunk));
    let fault = Fault::NotPreserved { block: chunk };
    assert_eq!(found, table(Table::Area, chunk.addr().get(), 0, fault));
}

#[test]
fn sessions_and_files_that_are_not_sound() {
    let dump = Dump::of_linux();
    let (session, file) = (session(&dump), file(&dump));
    let found = only(|dump| dump.write(session, &[b'x'; 64]));
    let fault = Fault::Malformed { expected: "zero at the end of the text" };
    assert_eq!(found, table(Table::Session, session, 0, fault));
    let found = only(|dump| dump.put(session + 72, 3));
    assert_eq!(found, table(Table::Session, session, 72, Fault::Length { expected: 3, found: 2 }));
    let found = only(|dump| dump.write(file, b"memfd-v3"));
    assert_eq!(found, table(Table::File, file, 0, Fault::Version { found: 3, known: 2 }));
    let missing = PhysAddr::new(0x800_0000);
    let found = only(|dump| dump.put(file + 48, missing.get()));
    assert_eq!(found, table(Table::File, file, 48, Fault::OutsideMemory { addr: missing }));
    // A file of a kind that is not known is not looked into.
    assert_eq!(after(|dump| dump.write(file, b"vfiofd-x")), []);
}

#[test]
fn other_versions_and_other_tables() {
    let found = only(|dump| dump.write(LUO, b"luo-v6"));
    assert_eq!(found, table(Table::Luo, LUO, 0, Fault::Version { found: 6, known: 5 }));
    let found = only(|dump| dump.write(METADATA, &[2]));
    assert_eq!(found, table(Table::Metadata, METADATA, 0, Fault::Version { found: 2, known: 1 }));
    let flbs = Dump::of_linux().get(LUO + 24);
    let found = only(|dump| dump.put(flbs + 8, 64));
    assert_eq!(found, table(Table::Flbs, flbs, 8, Fault::TooMany { found: 64, limit: 63 }));
    let found = only(|dump| {
        dump.write(dump.find(KHO_TEST, b"kho-test-v1"), b"kho-test-v2");
    });
    assert!(matches!(
        found,
        Error::Table(TableError { fault: Fault::Version { found: 2, known: 1 }, .. })
    ));
}

#[test]
fn contents_of_the_kernel_s_own_test_that_changed() {
    let at = 0x5c_0008;
    let found = only(|dump| dump.put(at, dump.get(at) ^ 1));
    match found {
        Error::Table(TableError { table, at, fault, .. }) => {
            assert_eq!((table, at), (Table::KhoTest, PhysAddr::new(KHO_TEST)));
            assert!(matches!(fault, Fault::Checksum { .. }), "{fault}");
        }
        other => panic!("{other:?}"),
    }
    let list = 0x56_a000;
    let found = only(|dump| dump.put(list, dump.get(list) - 1));
    let fault = Fault::NotPreserved { block: block(0x584, 1) };
    assert_eq!(found, table(Table::KhoTest, list, 0, fault));
}

#[test]
fn an_opaque_value_is_not_taken_for_an_address() {
    let flbs = Dump::of_linux().get(LUO + 24);
    for value in [0, 1, 0x1000, MAP.get(), u64::MAX] {
        assert_eq!(after(|dump| dump.put(flbs + 16 + 48, value)), []);
    }
}

#[test]
fn a_finding_says_where_and_what() {
    let found = only(|dump| dump.flip_key(MAP, block(FIRST_FOLIO, 0)));
    let at = folios(&Dump::of_linux());
    assert_eq!(found.at(), Some(PhysAddr::new(at)));
    let said = found.to_string();
    assert!(said.contains("memfd's folio") && said.contains("is not preserved"), "{said}");
}

/// Linux's own test leaves three states; a file and a subtree get names that nobody knows.
#[test]
fn what_is_not_known_is_told_apart_from_what_is_wrong() {
    let dump = Dump::of_linux();
    let name = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(48, 0);
        bytes
    };
    let put = |at: u64, bytes: &[u8]| {
        for (word, at) in bytes.chunks(8).zip((at..).step_by(8)) {
            dump.put(at, u64::from_ne_bytes(word.try_into().unwrap()));
        }
    };
    put(file(&dump), &name("guest_memfd_luo_v1"));
    let (found, unread) = common::all_findings(&dump, ENTRY).1;
    assert_eq!(found, []);
    let unread: Vec<_> = unread.iter().map(|of| (of.what, of.name.to_string(), of.at)).collect();
    let flbs = dump.get(LUO + 24) + 16;
    let flb = |n: u64| {
        let at = PhysAddr::new(flbs + 64 * n);
        (Opaque::Flb, format!("liveupdate-test-flb-v{n}"), at)
    };
    let kind = (Opaque::File, "guest_memfd_luo_v1".to_owned(), PhysAddr::new(file(&dump)));
    assert_eq!(unread, [kind, flb(0), flb(1), flb(2)]);
    // What nearly is a memfd is one of another make: wrong for this reader.
    for kind in ["memfd", "memfd;vmalloc-v1", "memfd-luo", "memfd-v+2", "memfd-v02"] {
        put(file(&dump), &name(kind));
        let found = Excerpt::of(kind.bytes());
        let unknown = Fault::Unknown { found, expected: "memfd-v2" };
        let (wrong, unread) = common::all_findings(&dump, ENTRY).1;
        assert_eq!(wrong, [table(Table::File, file(&dump), 0, unknown)]);
        assert_eq!(unread.len(), 3);
    }
    // And what says that it is built of something that is not known, or of another version of it.
    let (name_of, known) = ("vmalloc", 1);
    for (kind, fault) in [
        ("memfd-v2;vmalloc-v7", Fault::Part { name: name_of, found: 7, known }),
        ("memfd-v2;xa-v1", Fault::UnknownPart { found: Excerpt::of("xa-v1".bytes()) }),
    ] {
        put(file(&dump), &name(kind));
        let wrong = common::all_findings(&dump, ENTRY).1.0;
        assert_eq!(wrong, [table(Table::File, file(&dump), 0, fault)]);
    }
    put(file(&dump), &name("memfd-v2;vmalloc-v1"));
    let (wrong, unread) = common::all_findings(&dump, ENTRY).1;
    assert_eq!((wrong.len(), unread.len()), (0, 3));
    put(file(&dump), &name("memfds-v2"));
    assert_eq!(common::all_findings(&dump, ENTRY).1.1.len(), 4);
}
