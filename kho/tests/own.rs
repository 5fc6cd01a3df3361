//! What heirloom writes is accepted by the same survey; and each kind of fault in it is found.

mod common;

use common::{Dump, block, findings, order};
use heirloom_folio::harness::Ram;
use heirloom_folio::{NodeId, Request};
use heirloom_kho::tree::{TreeError, TreeFault};
use heirloom_kho::{
    AreaInfo, AreaPart, Block, Broken, Chain, Fault, Header, Image, Left, PAGE_SIZE, Pfn, PhysAddr,
    Run, Sealed, Table, TableError,
};
use heirloom_restore::{Entry, Error, Heirloom, PreservedArea, Records, Surveyed};
use heirloom_slab::internal::{DirectoryFault, ImageCaches, SlabFault};
use heirloom_slab::{CacheSpec, DirectoryError, SlabError};

const PAGE: u64 = PAGE_SIZE as u64;
const FIRST: u64 = 4096;
const FRAMES: u64 = 2048;
const SCRATCH: u64 = FIRST + FRAMES - 64;

/// A handover with something of everything in it, as a dump of the memory it lies in.
struct Own {
    dump: Dump,
    entry: Entry,
    map: PhysAddr,
    header: PhysAddr,
    published: PhysAddr,
    folio: Block,
    area: AreaInfo,
    records: PhysAddr,
}

/// Records of the test.
type Record = [u64; 3];

fn handover(sealed: bool) -> Own {
    let all = Run::new(Pfn::new(FIRST), FRAMES).unwrap();
    let memory = Ram::memory(&[(all, NodeId(0))]).unwrap();
    let scratch = Run::new(Pfn::new(SCRATCH), 64).unwrap();
    let handover = Heirloom::boot_memory(memory, &[scratch], "own").unwrap();
    let memory = handover.memory();

    let mut folio = memory.alloc_folio(Request::new(order(3))).unwrap();
    folio.bytes_mut().fill(3);
    let folio = folio.preserve().unwrap().into_raw();
    memory.alloc_owned_run(5, Request::new(order(0))).unwrap().preserve().unwrap().into_raw();
    let blocks: Vec<_> =
        (0..3).map(|_| memory.alloc_folio(Request::new(order(1))).unwrap().into_raw()).collect();
    // SAFETY: allocated by this test, and told to nothing else.
    let area =
        unsafe { PreservedArea::preserve(memory, blocks, order(1), false) }.unwrap().into_raw();
    let mut records = Records::<_, Record>::new(memory).unwrap();
    for n in 0..200 {
        records.push(&[n, n * n, !n]).unwrap();
    }
    let list = records.first();
    let names = handover.slabs().cache(CacheSpec::new("names", 64).preserving(true)).unwrap();
    let objects: Vec<_> = (0..100).map(|_| names.alloc().unwrap()).collect();
    assert_eq!(objects.len(), 100);
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { handover.preserve(handover.alloc(1000).unwrap()) }.unwrap();
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { handover.preserve(handover.alloc(5 * PAGE_SIZE).unwrap()) }.unwrap();
    handover.publish("root", b"where everything else is found").unwrap();
    if sealed {
        handover.seal().unwrap();
    }

    let (mut header, mut published) = (None, None);
    handover
        .for_each_subtree(|name, addr, _| match name {
            "root" => published = Some(addr),
            _ => header = Some(addr),
        })
        .unwrap();
    let start = memory.ptr(all).unwrap();
    // SAFETY: all of memory, of which nobody writes anything meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), all.bytes() as usize) };
    let mut dump = Dump::default();
    dump.add(all.addr(), bytes);
    Own {
        dump,
        entry: handover.entry(),
        map: memory.preserved().tree_root().unwrap(),
        header: header.unwrap(),
        published: published.unwrap(),
        folio,
        area,
        records: list,
    }
}

impl Own {
    fn findings(&self) -> (Surveyed, Vec<Error>) {
        findings(&self.dump, self.entry)
    }

    fn header(&self) -> Header {
        Header::read(self.dump.words(self.header, Header::SIZE).unwrap(), self.header).unwrap()
    }

    fn left(&self) -> Left<'_, Dump> {
        Left::new(&self.dump, self.map)
    }

    fn flip(&self, at: u64) {
        self.dump.put(at, self.dump.get(at) ^ 1);
    }

    /// The page of the cache directory, that of the first cache's slab table, and that cache's first slab.
    fn directory(&self) -> (u64, u64, u64) {
        let left = self.left();
        let caches = ImageCaches::new(&left, self.header().cache_directory.unwrap());
        let cache = caches.caches().next().unwrap();
        let slab = caches.slabs(&cache).next().unwrap();
        (self.header().cache_directory.unwrap().get(), cache.table().get(), slab.get())
    }
}

fn table(table: Table, at: u64, offset: usize, fault: Fault) -> Error {
    TableError { table, at: PhysAddr::new(at), offset, fault }.into()
}

#[test]
fn what_heirloom_writes_has_no_finding() {
    for sealed in [false, true] {
        let left = handover(sealed);
        let (surveyed, found) = left.findings();
        assert_eq!(found, []);
        assert_eq!(surveyed.header.map(|header| header.generation), Some(0));
        assert_eq!(surveyed.map, Some(left.map));
        assert_eq!(surveyed.sealed > 10, sealed);
        let counts = surveyed.counts.unwrap();
        // The folio, a block of the run and the large buffer; the area's blocks; the rest.
        assert!(counts.folios(order(3)) >= 1 && counts.folios(order(1)) >= 3);
        assert_eq!(counts, left.left().tree().counts());
    }
}

#[test]
fn caches_slabs_and_objects_are_read_without_a_memory() {
    let left = handover(false);
    let pages = left.left();
    let caches = ImageCaches::new(&pages, left.header().cache_directory.unwrap());
    let names = caches.caches().find(|cache| cache.name().as_str() == "names").unwrap();
    assert_eq!((names.object_size(), names.is_preserving()), (64, true));
    let slabs = caches.slabs(&names).map(|slab| caches.slab(&names, slab).unwrap());
    let (mut preserved, mut places) = (0, 0);
    for slab in slabs {
        preserved += slab.preserved;
        places += slab.preserved + slab.free;
        assert_eq!(slab.preserved + slab.free, names.objects_per_slab());
    }
    assert_eq!((preserved, places >= 100), (100, true));
    // The small buffer's cache is the only other one.
    assert_eq!(caches.caches().count(), 2);
    assert!(caches.pages().count() >= 3);
}

#[test]
fn areas_and_records_are_read_from_the_image() {
    let left = handover(false);
    let pages = left.left();
    let mut blocks = 0;
    left.area
        .walk(&pages, |part| {
            blocks += u64::from(matches!(part, AreaPart::Block(_)));
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(blocks, left.area.blocks());
    let chain = Chain::<_, Record>::new(&pages, left.records).unwrap();
    assert_eq!(chain.len(), 200);
    let mut entries = chain.iter();
    for n in 0..200 {
        let entry = entries.next().unwrap();
        assert_eq!(entry, [n, n * n, !n]);
        assert_eq!(left.dump.get(entries.last_at().get() + 8), n * n);
    }
    // An entry more than the descriptor says.
    let first = left.area.first().get();
    left.dump.put(first + 4 * 8, left.dump.get(first + 8));
    let walked = left.area.walk(&pages, |_| Ok::<_, Error>(()));
    let fault = Fault::TooMany { found: 4, limit: 3 };
    assert_eq!(walked, Err(table(Table::Area, first, 32, fault)));
}

#[test]
fn a_seal_that_is_broken() {
    let left = handover(true);
    left.flip(left.published.get());
    let (surveyed, found) = left.findings();
    match found[..] {
        [Error::Broken(Broken { kind: Sealed::Subtree, addr, .. })] => {
            assert_eq!(addr, left.published);
        }
        _ => panic!("{found:?}"),
    }
    let whole = handover(true).findings().0.sealed;
    assert_eq!(surveyed.sealed, whole - 1);
    // Everything that is broken is found, not the first alone.
    let (_, _, slab) = left.directory();
    left.flip(left.entry.scratch.get() + 64);
    left.flip(slab + 40);
    let broken = |error: &&Error| matches!(error, Error::Broken(_));
    assert_eq!(left.findings().1.iter().filter(broken).count(), 2);
}

#[test]
fn a_seal_s_table_that_is_another() {
    let left = handover(true);
    let seal = left.header().seal.info().unwrap();
    left.flip(seal.first.get() + 16);
    let found = left.findings().1;
    match found[..] {
        [Error::Table(TableError { table: Table::Seal, at, fault, .. })] => {
            assert_eq!(at, seal.first);
            assert!(matches!(fault, Fault::Checksum { .. }));
        }
        _ => panic!("{found:?}"),
    }
}

#[test]
fn a_header_that_is_not_sound() {
    let left = handover(false);
    left.flip(left.header.get() + 24);
    let found = left.findings().1;
    let [Error::Table(e)] = found[..] else { panic!("{found:?}") };
    assert_eq!((e.table, e.at, e.offset), (Table::Header, left.header, 112));
    assert!(matches!(e.fault, Fault::Checksum { .. }));
}

#[test]
fn a_roll_that_is_not_sound() {
    let left = handover(false);
    let (directory, slabs, _) = left.directory();
    let only = |left: &Own| {
        let found = left.findings().1;
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]
    };
    let error = |page: u64, index, fault| {
        let page = PhysAddr::new(page);
        Error::Slab(DirectoryError { page, index, fault }.into())
    };
    // A record's checksum, the entry of a slab, a page that follows.
    left.flip(directory + 16 + 8);
    let Error::Slab(heirloom_slab::Error::Directory(found)) = only(&left) else { panic!() };
    assert_eq!((found.page.get(), found.index), (directory, 0));
    assert!(matches!(found.fault, DirectoryFault::Checksum { .. }));
    left.flip(directory + 16 + 8);
    let entry = left.dump.get(slabs + 16);
    left.dump.put(slabs + 16, entry + 8);
    let found = left.findings().1;
    assert!(
        found.contains(&error(slabs, 0, DirectoryFault::Entry { found: entry + 8 })),
        "{found:?}"
    );
    left.dump.put(slabs + 16, entry);
    left.dump.put(directory, directory);
    assert_eq!(only(&left), error(directory, 0, DirectoryFault::Endless));
    let addr = PhysAddr::new(SCRATCH * PAGE);
    left.dump.put(directory, addr.get());
    assert_eq!(only(&left), error(directory, 0, DirectoryFault::NotPreserved { addr }));
}

#[test]
fn a_slab_that_is_not_sound() {
    let left = handover(false);
    let (_, _, slab) = left.directory();
    left.flip(slab + 24);
    let fault = |left: &Own| match left.findings().1[..] {
        [Error::Slab(heirloom_slab::Error::Slab(SlabError { slab: at, fault }))] => {
            assert_eq!(at.get(), slab);
            fault
        }
        ref found => panic!("{found:?}"),
    };
    assert!(matches!(fault(&left), SlabFault::Checksum { .. }));
    left.flip(slab + 24);
    left.dump.write(slab + 128, &[7]);
    assert_eq!(fault(&left), SlabFault::State { index: 0, found: 7 });
}

#[test]
fn what_lies_in_scratch_or_is_shared() {
    let left = handover(false);
    // The list now names the folio.
    let at = left.entry.scratch.get();
    let area = (left.dump.get(at), left.dump.get(at + 8));
    left.dump.put(at, left.folio.addr().get());
    left.dump.put(at + 8, PAGE);
    let (_, found) = left.findings();
    let reason = TreeFault::Scratch { block: left.folio };
    let is = |error: &Error, reason| match error {
        Error::Folio(heirloom_folio::Error::Tree(TreeError { reason: found, .. })) => {
            *found == reason
        }
        _ => false,
    };
    assert!(found.len() == 1 && is(&found[0], reason), "{found:?}");
    left.dump.put(at, area.0);
    left.dump.put(at + 8, area.1);
    // A block of the scratch area preserved.
    let inside = block(SCRATCH, 0);
    left.dump.flip_key(left.map, inside);
    let (_, found) = left.findings();
    let reason = TreeFault::Scratch { block: inside };
    assert!(found.len() == 1 && is(&found[0], reason), "{found:?}");
    left.dump.flip_key(left.map, inside);
    // Part of the folio, as a folio of its own.
    let twin = Block::containing(left.folio.pfn(), order(0));
    left.dump.flip_key(left.map, twin);
    let (_, found) = left.findings();
    assert!(is(&found[0], TreeFault::Overlap { block: twin }), "{found:?}");
}

#[test]
fn a_folio_s_bytes_are_in_the_image() {
    let left = handover(false);
    let bytes = left.folio.order().bytes() as usize;
    assert!(left.dump.bytes(left.folio.addr(), bytes).iter().all(|byte| *byte == 3));
}
