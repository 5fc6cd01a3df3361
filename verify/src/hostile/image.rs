//! Images of memory as files: ELF cores, raw memory, arenas, with headers and tables tampered with.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::thread::LocalKey;

use arbitrary::{Arbitrary, Unstructured};
use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{NodeId, OneCpu};
use heirloom::kho::PageSize;
use heirloom::kho::{Pfn, PhysAddr, Run};
use heirloom_cli::look;
use heirloom_collections::Pool;
use rustix::fs::{FallocateFlags, fallocate};
use xxhash_rust::xxh3::xxh3_64;

use super::containers::{self, Size};
use super::dumps::{self, DumpFile};
use crate::mutate::{Bytes, Step, Subject};
use crate::world::{Dump, PAGE, Place, Shape, TableAt};

/// What is done to an image.
#[derive(Clone, Debug, Arbitrary)]
struct ImageAttack {
    /// Which one, counted round and round.
    which: u8,
    /// Headers, or tables in memory.
    headers: bool,
    /// Whether the checksum of an arena's map is made right afterwards.
    mend: bool,
    /// The page size that is said to be its machine's, as a power of two.
    shift: Option<u8>,
    /// How much of the file is left.
    cut: Option<u32>,
    /// Whether it is said to be raw memory, and from where on.
    base: Option<u64>,
    steps: Vec<Step>,
}

/// An image: a file's bytes, and which of them are which memory. Its headers have the addresses of
/// the first page, at which there is no memory.
///
/// An input changes few of its pages: only those are written into the file, and put right before the next.
struct Image {
    bytes: RefCell<Vec<u8>>,
    sound: Vec<u8>,
    /// Pages of the file that are not zero when it is sound.
    written: BTreeSet<usize>,
    /// Pages of the file that are not as they were.
    dirty: RefCell<BTreeSet<usize>>,
    file: OnceCell<File>,
    /// How much of the file there is.
    length: Cell<usize>,
    /// Address, offset in the file, bytes.
    stretches: Vec<(u64, u64, u64)>,
    headers: Vec<TableAt>,
    tables: Vec<TableAt>,
    base: Option<u64>,
    /// Whether nothing is wrong with it as long as nothing is done to it.
    whole: bool,
}

impl Image {
    fn new(sound: Vec<u8>, stretches: Vec<(u64, u64, u64)>, tables: Vec<TableAt>) -> Self {
        let pages = sound.chunks(PAGE as usize).enumerate();
        Self {
            bytes: RefCell::new(sound.clone()),
            written: pages
                .filter(|(_, page)| **page != [0; PAGE as usize][..page.len()])
                .map(|(n, _)| n)
                .collect(),
            dirty: RefCell::default(),
            file: OnceCell::new(),
            length: Cell::new(sound.len()),
            sound,
            stretches,
            headers: Vec::new(),
            tables,
            base: None,
            whole: true,
        }
    }

    fn with_headers(mut self, headers: &[(u64, usize)]) -> Self {
        let table = |&(at, bytes): &(u64, usize)| TableAt {
            place: Place::File,
            addr: PhysAddr::new(at),
            bytes,
        };
        self.headers = headers.iter().map(table).collect();
        self.stretches.push((0, 0, PAGE));
        self
    }

    /// Where in the file `addr` is, and how many bytes of memory follow.
    fn offset(&self, addr: PhysAddr) -> Option<(usize, usize)> {
        let found = self.stretches.iter().find_map(|(start, offset, bytes)| {
            let skip = addr.get().checked_sub(*start).filter(|skip| skip < bytes)?;
            Some(((offset + skip) as usize, (bytes - skip) as usize))
        });
        found.filter(|(at, _)| *at < self.sound.len())
    }

    /// The file, sound.
    fn file(&self) -> &File {
        self.file.get_or_init(|| {
            let file = memfd();
            file.set_len(self.sound.len() as u64).expect("a memfd");
            self.written.iter().for_each(|page| self.put(&file, *page));
            file
        })
    }

    /// Puts a sound page into the file: a hole if it is zero.
    fn put(&self, file: &File, page: usize) {
        let sound = &self.sound[span(page, self.sound.len())];
        let at = page as u64 * PAGE;
        if self.written.contains(&page) {
            file.write_all_at(sound, at).expect("a memfd");
        } else {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, hole, at, PAGE).expect("a memfd");
        }
    }

    /// Says that the bytes from `at` on, which are in the file, are not as they were.
    fn soil(&self, at: usize, bytes: usize) {
        let last = (at + bytes).min(self.sound.len()).saturating_sub(1);
        self.dirty.borrow_mut().extend(at / PAGE as usize..=last / PAGE as usize);
    }

    /// Makes it sound again.
    fn clean(&self) {
        let (file, length, all) = (self.file(), self.length.get(), self.sound.len());
        let mut dirty = self.dirty.take();
        if length < all {
            file.set_len(all as u64).expect("a memfd");
            self.length.set(all);
        }
        let mut bytes = self.bytes.borrow_mut();
        for page in &dirty {
            bytes[span(*page, all)].copy_from_slice(&self.sound[span(*page, all)]);
        }
        // What was cut off comes back as holes.
        dirty.extend(self.written.range(length / PAGE as usize..));
        for page in dirty {
            self.put(file, page);
        }
    }

    /// Brings the file to the bytes as they are, cut to `length`.
    fn store(&self, length: usize) -> &File {
        let (file, bytes) = (self.file(), self.bytes.borrow());
        for page in &*self.dirty.borrow() {
            let page = span(*page, bytes.len());
            file.write_all_at(&bytes[page.clone()], page.start as u64).expect("a memfd");
        }
        if length < bytes.len() {
            self.length.set(length);
            file.set_len(length as u64).expect("a memfd");
        }
        file
    }
}

/// The bytes of a page, of so many.
fn span(page: usize, bytes: usize) -> Range<usize> {
    let at = page * PAGE as usize;
    at..(at + PAGE as usize).min(bytes)
}

impl Bytes for Image {
    fn word(&self, addr: PhysAddr) -> u64 {
        let bytes = self.bytes.borrow();
        let at = self.offset(addr).and_then(|(at, _)| bytes.get(at..)?.first_chunk());
        at.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn write(&self, addr: PhysAddr, from: &[u8]) {
        let Some((at, room)) = self.offset(addr) else { return };
        if !from.is_empty() {
            self.soil(at, room.min(from.len()));
        }
        let mut bytes = self.bytes.borrow_mut();
        for (to, from) in bytes.iter_mut().skip(at).take(room).zip(from) {
            *to = *from;
        }
    }

    fn frame(&self, n: u64) -> PhysAddr {
        let (start, _, bytes) = self.stretches[n as usize % self.stretches.len()];
        PhysAddr::new(start + n / self.stretches.len() as u64 * PAGE % bytes.max(1))
    }
}

/// What Linux left, as an ELF core; a world, as raw memory; an arena.
fn images() -> Vec<Image> {
    let dump = Dump::of_linux();
    let elf = crate::world::ELF.to_vec();
    let mut stretches = Vec::new();
    let mut offset = PAGE;
    // The capture's segments lie in its file as they lie in memory, each on a page of its own.
    for (at, bytes) in crate::world::segments(&elf) {
        stretches.push((at.get(), offset, bytes.len() as u64));
        offset += (bytes.len() as u64).next_multiple_of(PAGE);
    }
    let programs: Vec<_> = (0..stretches.len()).map(|i| (64 + i as u64 * 56, 56)).collect();
    let headers = [vec![(0, 64)], programs].concat();
    let elf = Image::new(elf, stretches, dump.tables()).with_headers(&headers);

    let (machine, left) = Shape::Whole.build(true);
    let all = machine.all();
    let stretch = (all.addr().get(), 0, all.bytes());
    let mut raw = Image::new(left.saved.clone(), vec![stretch], left.tables.clone());
    raw.base = Some(all.addr().get());
    vec![elf, raw, arena(), larger()]
}

/// What a kernel with pages of 16 KiB left, as raw memory.
fn larger() -> Image {
    raw(include_bytes!("../../../tests/fixtures/pages/16k.elf"), 4 << 30, 256 << 14)
}

/// The handover of a Linux that lends to heirloom, as raw memory: the first page of the list is a table of its own.
fn lent() -> Image {
    let elf = include_bytes!("../../../tests/fixtures/lent/image.elf");
    let (base, _) = crate::world::segments(elf).next().expect("memory");
    let mut image = raw(elf, base.get(), 1024 * PAGE);
    let list = image.sound.chunks(PAGE as usize).position(|page| page.starts_with(b"HEIRLOAN"));
    let addr = PhysAddr::new(base.get() + list.expect("a list") as u64 * PAGE);
    let list = TableAt { place: Place::Linux, addr, bytes: 104 };
    image.headers = vec![list];
    image.tables.push(list);
    image
}

/// Images of that memory in other formats. Their addresses are the bytes of the file.
fn other_formats() -> Vec<Image> {
    let memory = lent();
    let base = memory.base.unwrap_or_default();
    let table = |(at, bytes)| TableAt { place: Place::File, addr: PhysAddr::new(at), bytes };
    let image = |file: DumpFile| {
        let length = file.bytes.len();
        let pieces = (0..length as u64).step_by(512).map(|at| (at, 512.min(length - at as usize)));
        let mut image = Image::new(file.bytes, vec![(0, 0, length as u64)], Vec::new());
        image.tables = pieces.map(table).collect();
        image.headers = file.headers.into_iter().map(table).collect();
        image.whole = file.whole;
        image
    };
    dumps::dumps(&memory.sound, base).into_iter().map(image).collect()
}

/// An ELF core as raw memory of so many bytes.
fn raw(elf: &[u8], start: u64, bytes: u64) -> Image {
    let mut raw = vec![0; bytes as usize];
    let mut tables: Vec<TableAt> = Vec::new();
    for (at, bytes) in crate::world::segments(elf) {
        let skip = (at.get() - start) as usize;
        raw[skip..skip + bytes.len()].copy_from_slice(bytes);
        tables.push(TableAt { place: Place::File, addr: at, bytes: bytes.len() });
    }
    let mut image = Image::new(raw, vec![(start, 0, bytes)], tables);
    image.base = Some(start);
    image
}

/// A kernel on an arena, of one CPU: what lies where is the same wherever this runs.
type Kernel<'a> = Heirloom<OneCpu<&'a Arena>>;

/// Returns the file of an arena in which a kernel left what `fill` makes, and what `look` then finds in that kernel.
fn left<R, T>(
    name: &str,
    frames: u64,
    fill: impl FnOnce(&Kernel<'_>) -> R,
    look: impl FnOnce(&Kernel<'_>, R) -> T,
) -> (Image, T) {
    let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: frames * PAGE, node: NodeId(0) };
    let arena = Arena::create(name, &[spec]).expect("a memfd");
    let ranges: Vec<_> = arena.ranges().iter().map(|range| (range.run(), NodeId(0))).collect();
    let memfd = File::from(arena.share().expect("a descriptor"));
    let (start, offset) = (ranges[0].0, arena.ranges()[0].offset());
    let scratch = Kernel::scratch_bytes(&ranges, 1) as u64 / PAGE;
    let scratch = [Run::new(Pfn::new(start.end().get() - scratch), scratch).expect("frames")];
    // SAFETY: the arena maps its range, and nothing else uses it.
    let kernel = unsafe { Heirloom::boot(OneCpu::new(&arena), &ranges, &scratch, name) };
    let kernel = kernel.expect("room");
    let made = fill(&kernel);
    kernel.seal().expect("room");
    arena.leave(kernel.entry()).expect("the arena's own page");
    let found = look(&kernel, made);
    let mut bytes = vec![0; (offset + start.bytes()) as usize];
    memfd.read_exact_at(&mut bytes, 0).expect("the arena's file");
    let image = Image::new(bytes, vec![(start.addr().get(), offset, start.bytes())], Vec::new());
    (image, found)
}

/// The file of an arena in which a kernel left something.
fn arena() -> Image {
    let publish = |kernel: &Kernel<'_>| {
        kernel.publish("root", b"what an arena holds").expect("room");
    };
    let (mut image, tables) = left("image", 256, publish, |kernel, ()| {
        let entry = kernel.entry();
        let mut tables = vec![(entry.root, PAGE as usize), (entry.scratch, 16)];
        kernel.memory().preserved().for_each_node(|node| tables.push((node.addr, PAGE as usize)));
        tables
    });
    let table = |(addr, bytes)| TableAt { place: Place::File, addr, bytes };
    image.tables = tables.into_iter().map(table).collect();
    image.with_headers(&[(0, 72), (0, 40), (3968, 128)])
}

/// The file of an arena in which a kernel left a map, a vector and a log. Its headers are their heads, its tables the objects
/// that they consist of.
fn held() -> Image {
    let fill = |kernel: &Kernel<'_>| {
        let pool = Pool::open(kernel.slabs()).expect("room");
        let handles = containers::create(&pool, &HELD);
        kernel.publish("held", handles.map(<[u8; 16]>::from).as_flattened()).expect("room");
        handles
    };
    let (mut image, (heads, mut parts)) = left("held", HELD.frames, fill, |kernel, handles| {
        let (mut heads, mut parts) = (Vec::new(), Vec::new());
        for cache in kernel.slabs().caches() {
            let bytes = cache.object_size();
            for (addr, _) in cache.preserved() {
                let is_head = handles.iter().any(|handle| containers::head(*handle) == addr);
                let table = TableAt { place: Place::File, addr, bytes };
                if is_head { heads.push(table) } else { parts.push(table) }
            }
        }
        (heads, parts)
    });
    // A step can name 256 of them: what leads to others comes first, and most entries behind that.
    parts.sort_by_key(|table| (is_entry(&image, table), table.addr));
    (image.headers, image.tables) = (heads, parts);
    image
}

/// Returns whether an object of a container is an entry of the map: the first word of one says that its key has 8 bytes, as all have here.
fn is_entry(image: &Image, table: &TableAt) -> bool {
    let [low, high, ..] = image.word(table.addr).to_le_bytes();
    u16::from_le_bytes([low, high]) == 8
}

/// How much is in the containers: more than one segment of buckets, lines behind a bucket's first, chunks of each.
const HELD: Size = Size { frames: 512, entries: 1500, elements: 2500, records: 12, value: 9 };

/// Images that the program looks at: it ends with a verdict, or says why it has none.
///
/// # Panics
/// If it does neither.
pub fn image(data: &[u8]) {
    thread_local! {
        static IMAGES: Vec<Image> = images();
    }
    attack(data, &IMAGES);
}

/// The list of what Linux lends, and the handover there.
///
/// # Panics
/// If the program ends with neither a verdict nor a reason why it has none.
pub fn loans(data: &[u8]) {
    thread_local! {
        static IMAGES: Vec<Image> = vec![lent()];
    }
    attack(data, &IMAGES);
}

/// Containers in an arena, which the program lists.
///
/// # Panics
/// If it ends with neither a verdict nor a reason why it has none.
pub fn held_containers(data: &[u8]) {
    thread_local! {
        static IMAGES: Vec<Image> = vec![held()];
    }
    attack(data, &IMAGES);
}

/// Dumps page by page, in ranges, and what is packed as a whole.
///
/// # Panics
/// If the program ends with neither a verdict nor a reason why it has none.
pub fn dumps(data: &[u8]) {
    thread_local! {
        static IMAGES: Vec<Image> = other_formats();
    }
    attack(data, &IMAGES);
}

/// What could be the next kernel: its file, its configuration, a table of what it takes.
///
/// # Panics
/// If it is neither read nor refused with a reason.
pub fn kernels(data: &[u8]) {
    match heirloom_cli::kernel(data) {
        Ok(name) => assert!(!name.is_empty()),
        Err(error) => assert!(!format!("{error:#}").is_empty()),
    }
}

fn attack(data: &[u8], images: &'static LocalKey<Vec<Image>>) {
    let Ok(attack) = ImageAttack::arbitrary_take_rest(Unstructured::new(data)) else { return };
    images.with(|images| {
        let image = &images[usize::from(attack.which) % images.len()];
        // As the last input left it, one that failed too.
        image.clean();
        let tables = if attack.headers { &image.headers } else { &image.tables };
        let end = image.stretches.iter().map(|(start, _, bytes)| start + bytes).max();
        let subject = Subject::new(image, tables, &[], PhysAddr::new(end.unwrap_or(0)));
        attack.steps.iter().for_each(|step| subject.apply(step));
        if attack.mend {
            mend_arena(&mut image.bytes.borrow_mut());
            image.soil(0, PAGE as usize);
        }
        let all = image.sound.len();
        let length = attack.cut.map_or(all, |cut| cut as usize % (all + 1));
        let file = image.store(length);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let base = attack.base.or(image.base);
        let untouched = attack.steps.is_empty() && attack.cut.is_none() && attack.base.is_none();
        let untouched = untouched && attack.shift.is_none();
        let said = attack.shift.and_then(|shift| PageSize::new(1 << (shift % 20)));
        match look(path.as_ref(), base, said) {
            Ok(looked) => {
                assert!(looked.findings.iter().all(|finding| !finding.is_empty()));
                assert!(!looked.verdict.is_empty() && !looked.summary.is_empty());
                assert!(looked.json.starts_with('{') && looked.map.starts_with("<svg"));
                assert!(looked.page.starts_with("<!DOCTYPE html>") && !looked.next.is_empty());
                let sound = looked.findings.is_empty();
                assert!(!untouched || !image.whole || sound, "{:?}", looked.findings);
            }
            Err(error) => {
                assert!(!format!("{error:#}").is_empty());
                assert!(!untouched || !image.whole, "{error:#}");
            }
        }
    });
}

/// Makes the checksum of an arena's map right, if it is an arena.
fn mend_arena(bytes: &mut [u8]) {
    if !bytes.starts_with(b"hl-arena") {
        return;
    }
    let count = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]) as usize;
    let end = (40 + count.min(64) * 32).min(bytes.len());
    bytes[32..40].fill(0);
    let sum = xxh3_64(&bytes[..end]);
    bytes[32..40].copy_from_slice(&sum.to_le_bytes());
}

fn memfd() -> File {
    let fd = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::empty());
    File::from(fd.expect("a memfd"))
}

#[cfg(test)]
mod tests {
    use heirloom_collections::internal::kind;

    use super::*;

    #[test]
    fn an_input_leaves_nothing_to_the_next() {
        for image in images().into_iter().chain([lent(), held()]).chain(other_formats()) {
            let all = image.sound.len();
            let read = || {
                let mut bytes = vec![0; image.file().metadata().unwrap().len() as usize];
                image.file().read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            assert!(read() == image.sound);
            // Bytes at the borders of pages, where there was something and where there was nothing.
            for (n, (start, offset, bytes)) in image.stretches.clone().into_iter().enumerate() {
                for at in [0, 4091, bytes / 2, bytes.saturating_sub(9)] {
                    image.write(PhysAddr::new(start + at), &[0xa5; 9]);
                }
                assert_ne!(image.word(PhysAddr::new(start)), 0, "{n} {offset}");
            }
            let changed = image.bytes.borrow().clone();
            assert!(changed != image.sound);
            image.store(all);
            assert!(read() == changed);
            image.clean();
            assert!(read() == image.sound && *image.bytes.borrow() == image.sound);
            for length in [0, 1, all / 3, all - 1] {
                image.write(PhysAddr::new(image.stretches[0].0), &[0x5a]);
                image.store(length);
                assert!(read() == image.bytes.borrow()[..length]);
                image.clean();
                assert!(read() == image.sound && *image.bytes.borrow() == image.sound);
            }
        }
    }

    #[test]
    fn containers_are_listed_whole_and_have_of_each_part_more_than_one() {
        let image = held();
        assert_eq!(image.headers.len(), 3);
        let file = memfd();
        file.write_all_at(&image.sound, 0).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let looked = look(path.as_ref(), None, None).unwrap();
        assert_eq!(looked.findings, Vec::<String>::new());
        for entries in [HELD.entries, HELD.elements, HELD.records] {
            assert!(looked.json.contains(&format!("\"entries\":{entries}")), "{entries}");
        }
        // The first word of each has its kind in its lowest bits.
        let count = |of: u16| {
            image.tables.iter().filter(|table| image.word(table.addr) as u16 == of).count()
        };
        assert!(count(kind::LINE) > 0 && count(kind::SEGMENT) > 1 && count(kind::CHUNK) > 4);
    }
}
