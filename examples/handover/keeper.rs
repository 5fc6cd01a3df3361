//! Files in preserved memory: stored, found again, checked, freed.

use std::fs;
use std::ptr::NonNull;
use std::time::Instant;

use heirloom::Heirloom;
use heirloom::arena::{Arena, Mapping};
use heirloom::folio::{Block, Fate, Kind, Order, PAGE_SIZE, PhysAddr, Request};
use heirloom::restore::{AreaInfo, Entry, Handle, Handover, Parts, PreservedArea};
use heirloom::slab::{Owner, TypedCache, persist};
use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::files::Found;
use crate::report::Report;
use crate::run::Failure;

/// The cache of file records, and the name under which the totals are published.
const RECORDS: &str = "file-record";
const ROOT: &str = "handover";

/// Every so many large files, one is an area of single frames instead of a buffer.
const AREA_EVERY: u64 = 4;

/// What is known of a file: a typed object that survives from birth.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileRecord {
    /// The path's bytes, a small buffer.
    path: [u8; 16],
    /// The contents: a small or large buffer, or an area; zeroes for an empty file.
    data: [u8; 16],
    sha256: [u8; 32],
    bytes: u64,
    path_bytes: u64,
}
persist!(FileRecord { path, data, sha256, bytes, path_bytes });

/// What passes from generation to generation beside the files.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Totals {
    pub(crate) lost: u64,
    pub(crate) leaked: u64,
}

/// Where a file's bytes are in this generation.
enum Data {
    Empty,
    Small(NonNull<u8>),
    Large(NonNull<u8>),
    /// Frames of an area that is still to be preserved.
    Frames(Vec<Block>),
    /// A preserved area.
    Area(AreaInfo),
}

/// A file that is kept.
struct Item {
    record: PhysAddr,
    path: NonNull<u8>,
    data: Data,
}

/// The memory and the files in it.
pub(crate) struct Keeper<'a> {
    arena: &'a Arena,
    heirloom: Heirloom<&'a Arena>,
    items: Vec<Item>,
    large: u64,
}

type Records<'k, 'a> = TypedCache<'k, FileRecord, &'a Arena>;

impl<'a> Keeper<'a> {
    /// A keeper of nothing, yet.
    pub(crate) fn new(arena: &'a Arena, heirloom: Heirloom<&'a Arena>) -> Result<Self, Failure> {
        heirloom.slabs().typed::<FileRecord>(RECORDS, true)?;
        Ok(Self { arena, heirloom, items: Vec::new(), large: 0 })
    }

    /// Claims all that the generation before kept.
    pub(crate) fn take_over(
        arena: &'a Arena,
        heirloom: Heirloom<&'a Arena>,
        totals: &mut Totals,
        report: &mut Report,
    ) -> Result<Self, Failure> {
        let mut keeper = Self { arena, heirloom, items: Vec::new(), large: 0 };
        let started = Instant::now();
        let root = keeper.heirloom.claim_root(ROOT)?;
        *totals = Totals::read_from_bytes(root.bytes()).map_err(|_| "the root is no totals")?;
        drop(root);
        let mut items = Vec::new();
        for record in keeper.heirloom.adopt::<FileRecord>(RECORDS, true)?.claim_all() {
            let path = keeper.heirloom.restore(Handle::from(record.path));
            let data = keeper.claim_data(&record);
            match (path, data) {
                (Ok(path), Ok(data)) => items.push(Item { record: record.leak(), path, data }),
                (path, data) => {
                    for error in [path.err().map(Failure::from), data.err()].into_iter().flatten() {
                        eprintln!("lost: {error}");
                    }
                    report.lost += 1;
                }
            }
        }
        report.claim = Some(started.elapsed());
        report.claimed = 3 * items.len() as u64 + 1;
        keeper.items = items;
        let finished = keeper.heirloom.finish(|_| Fate::Free)?;
        report.unclaimed = finished.folios + finished.slabs + finished.objects;
        Ok(keeper)
    }

    fn claim_data(&self, record: &FileRecord) -> Result<Data, Failure> {
        if record.bytes == 0 {
            return Ok(Data::Empty);
        }
        let handle = Handle::from(record.data);
        Ok(match handle.parts()? {
            Parts::Object { .. } => Data::Small(self.heirloom.restore(handle)?),
            Parts::Buffer { .. } => Data::Large(self.heirloom.restore(handle)?),
            Parts::Area(_) => Data::Area(self.heirloom.claim_area(handle)?.into_raw()),
            other => return Err(format!("a file is no {other:?}").into()),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.heirloom.generation()
    }

    fn records(&self) -> Result<Records<'_, 'a>, Failure> {
        Ok(self.heirloom.slabs().typed(RECORDS, true)?)
    }

    /// What is known of a file.
    fn record(&self, item: &Item) -> Result<FileRecord, Failure> {
        // SAFETY: the record is ours: `store` or the claim leaked it, and it goes back below.
        let record = unsafe { self.records()?.from_raw(item.record) };
        let value = *record;
        record.leak();
        Ok(value)
    }

    /// Stores a file of the file system. A file that has shrunk away or cannot be read any more is
    /// left out.
    pub(crate) fn store_file(&mut self, file: &Found) -> Result<(), Failure> {
        match fs::read(&file.path) {
            Ok(bytes) if bytes.len() as u64 <= file.bytes => {
                self.store(file.path.as_os_str().as_encoded_bytes(), &bytes)
            }
            _ => Ok(()),
        }
    }

    /// Stores bytes under a path; they survive once [`Keeper::preserve_all`] was called.
    fn store(&mut self, path: &[u8], bytes: &[u8]) -> Result<(), Failure> {
        let data = match bytes.len() {
            0 => Data::Empty,
            n if n < PAGE_SIZE => self.placed(self.buffer(bytes)?),
            _ => {
                self.large += 1;
                if self.large.is_multiple_of(AREA_EVERY) {
                    self.frames(bytes)?
                } else {
                    self.placed(self.buffer(bytes)?)
                }
            }
        };
        let path_bytes = path.len() as u64;
        let path = self.buffer(path)?;
        let record = self.records()?.insert(FileRecord {
            path: self.heirloom.handle_of(path)?.into(),
            data: [0; 16],
            sha256: Sha256::digest(bytes).into(),
            bytes: bytes.len() as u64,
            path_bytes,
        })?;
        let record = record.leak();
        self.items.push(Item { record, path, data });
        Ok(())
    }

    /// A buffer as what it is: an object of a size class, or whole frames.
    fn placed(&self, buffer: NonNull<u8>) -> Data {
        match self.heirloom.slabs().owner_of(buffer) {
            Some(Owner::Large { .. }) => Data::Large(buffer),
            _ => Data::Small(buffer),
        }
    }

    /// A buffer with these bytes, at least one.
    fn buffer(&self, bytes: &[u8]) -> Result<NonNull<u8>, Failure> {
        let buffer = self.heirloom.alloc(bytes.len().max(1))?;
        // SAFETY: allocated just now, at least that long.
        unsafe { buffer.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(buffer)
    }

    /// Single frames with these bytes, written through one view of all of them.
    fn frames(&self, bytes: &[u8]) -> Result<Data, Failure> {
        let mut blocks = Vec::new();
        for _ in 0..bytes.len().div_ceil(PAGE_SIZE) {
            blocks.push(self.heirloom.memory().alloc(Request::new(Order::ZERO))?);
        }
        let mut mapping = self.view(&blocks)?;
        // SAFETY: the frames were allocated just now; nobody else reads or writes them.
        if let Some(start) = unsafe { mapping.bytes_mut() }.get_mut(..bytes.len()) {
            start.copy_from_slice(bytes);
        }
        Ok(Data::Frames(blocks))
    }

    /// Scattered blocks as one stretch of addresses.
    fn view(&self, blocks: &[Block]) -> Result<Mapping, Failure> {
        let runs: Vec<_> = blocks.iter().map(|block| block.run()).collect();
        Ok(self.arena.map_area(&runs)?)
    }

    /// Makes everything survive that does not yet.
    pub(crate) fn preserve_all(&mut self, report: &mut Report) -> Result<(), Failure> {
        let mut handles = Vec::with_capacity(self.items.len());
        let heirloom = &self.heirloom;
        let mut preserved = 0;
        let started = Instant::now();
        for item in &mut self.items {
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { heirloom.preserve(item.path) }?;
            preserved += 1;
            let handle = match &mut item.data {
                Data::Empty => None,
                Data::Small(buffer) | Data::Large(buffer) => {
                    preserved += 1;
                    // SAFETY: in use, and nothing frees it meanwhile.
                    Some(unsafe { heirloom.preserve(*buffer) }?)
                }
                Data::Frames(blocks) => {
                    preserved += blocks.len() as u64;
                    let blocks = blocks.iter().copied();
                    let area =
                        // SAFETY: allocated just now, and told to nothing else.
                        unsafe { PreservedArea::preserve(heirloom.memory(), blocks, Order::ZERO, false) }?;
                    let info = area.into_raw();
                    item.data = Data::Area(info);
                    Some(Handle::new(Parts::Area(info))?)
                }
                Data::Area(info) => Some(Handle::new(Parts::Area(*info))?),
            };
            handles.push(handle);
        }
        report.preserve = started.elapsed();
        report.preserved = preserved;
        let records = self.records()?;
        for (item, handle) in self.items.iter().zip(handles) {
            // SAFETY: as in `record`.
            let mut record = unsafe { records.from_raw(item.record) };
            record.data = handle.map_or([0; 16], Into::into);
            record.leak();
        }
        Ok(())
    }

    /// A file's bytes, as long as `f` looks at them.
    fn with_bytes<R>(&self, item: &Item, f: impl FnOnce(&[u8]) -> R) -> Result<R, Failure> {
        let length = self.record(item)?.bytes as usize;
        match &item.data {
            Data::Empty => Ok(f(&[])),
            Data::Small(buffer) | Data::Large(buffer) => {
                // SAFETY: the buffer is ours and has at least that many bytes.
                Ok(f(unsafe { std::slice::from_raw_parts(buffer.as_ptr(), length) }))
            }
            Data::Frames(blocks) => {
                let mapping = self.view(blocks)?;
                // SAFETY: the frames are ours, and nobody writes them meanwhile.
                Ok(f(unsafe { mapping.bytes() }.get(..length).ok_or("an area is too short")?))
            }
            Data::Area(info) => {
                let mapping = self.view(&self.blocks(*info)?)?;
                // SAFETY: as above.
                Ok(f(unsafe { mapping.bytes() }.get(..length).ok_or("an area is too short")?))
            }
        }
    }

    fn blocks(&self, info: AreaInfo) -> Result<Vec<Block>, Failure> {
        let mut blocks = Vec::new();
        // SAFETY: the area is ours; the value is let go below without unpreserving it.
        let area = unsafe { PreservedArea::from_raw(self.heirloom.memory(), info) };
        area.for_each(|block| blocks.push(block))?;
        area.into_raw();
        Ok(blocks)
    }

    /// Compares every byte with the checksum taken when it was stored.
    pub(crate) fn check(
        &self,
        report: &mut Report,
        mut done: impl FnMut(&Self),
    ) -> Result<(), Failure> {
        self.for_each(|path, bytes, sha256| {
            let now: [u8; 32] = Sha256::digest(bytes).into();
            if now != *sha256 {
                eprintln!("lost: {} changed", String::from_utf8_lossy(path));
                report.lost += 1;
            }
            done(self);
        })
    }

    /// Shows each file: its path, its bytes as they are now, its checksum.
    pub(crate) fn for_each(
        &self,
        mut f: impl FnMut(&[u8], &[u8], &[u8; 32]),
    ) -> Result<(), Failure> {
        for item in &self.items {
            let record = self.record(item)?;
            // SAFETY: the path is ours, of that many bytes.
            let path = unsafe {
                std::slice::from_raw_parts(item.path.as_ptr(), record.path_bytes as usize)
            };
            self.with_bytes(item, |bytes| f(path, bytes, &record.sha256))?;
        }
        Ok(())
    }

    /// Frees every second file and stores as much anew.
    pub(crate) fn renew_half(&mut self) -> Result<(), Failure> {
        let all = std::mem::take(&mut self.items);
        let (mut kept, mut renewed) = (Vec::new(), Vec::new());
        for (i, item) in all.into_iter().enumerate() {
            if i % 2 == 0 { kept.push(item) } else { renewed.push(item) }
        }
        self.items = kept;
        for item in renewed {
            let record = self.record(&item)?;
            // SAFETY: the path is ours, of that many bytes.
            let path = unsafe {
                std::slice::from_raw_parts(item.path.as_ptr(), record.path_bytes as usize)
            };
            let (path, bytes) = (path.to_vec(), self.with_bytes(&item, <[u8]>::to_vec)?);
            self.free(item, false)?;
            self.store(&path, &bytes)?;
        }
        Ok(())
    }

    /// Frees a file; `preserved` says whether its buffers are.
    fn free(&self, item: Item, preserved: bool) -> Result<(), Failure> {
        let buffer = |buffer| -> Result<(), Failure> {
            if preserved {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { self.heirloom.unpreserve(buffer) }?;
            }
            // SAFETY: the buffer is ours, and the item that led to it ends here.
            Ok(unsafe { self.heirloom.free(buffer) }?)
        };
        match item.data {
            Data::Empty => {}
            Data::Small(data) | Data::Large(data) => buffer(data)?,
            Data::Frames(blocks) => self.free_blocks(blocks)?,
            Data::Area(info) => {
                let mut blocks = Vec::new();
                // SAFETY: the area is ours, and ends here.
                let area = unsafe { PreservedArea::from_raw(self.heirloom.memory(), info) };
                area.unpreserve(|block| blocks.push(block)).map_err(|(_, error)| error)?;
                self.free_blocks(blocks)?;
            }
        }
        buffer(item.path)?;
        // SAFETY: the record is ours, and ends here.
        drop(unsafe { self.records()?.from_raw(item.record) });
        Ok(())
    }

    fn free_blocks(&self, blocks: Vec<Block>) -> Result<(), Failure> {
        for block in blocks {
            // SAFETY: the blocks are ours, and nothing leads to them any more.
            unsafe { self.heirloom.memory().free(block, Kind::Folio) }?;
        }
        Ok(())
    }

    /// Fills in what there is now, and counts frames that are in use for nothing.
    pub(crate) fn count(&self, report: &mut Report) -> Result<(), Failure> {
        let (mut buffers, mut folios) = (0, 0);
        for item in &self.items {
            let bytes = self.record(item)?.bytes;
            report.files += 1;
            report.bytes += bytes;
            let frames = bytes.div_ceil(PAGE_SIZE as u64);
            match item.data {
                Data::Empty => {}
                Data::Small(_) => report.small += 1,
                Data::Large(_) => {
                    report.large += 1;
                    buffers += frames;
                }
                Data::Frames(_) | Data::Area(_) => {
                    report.areas += 1;
                    folios += frames;
                }
            }
        }
        let slabs = self.heirloom.slabs().caches().map(|cache| {
            let stats = cache.stats();
            stats.slabs * stats.slab_frames
        });
        let slabs: u64 = slabs.sum();
        let used = self.used()?;
        report.leaked = (used.buffers - buffers) + (used.folios - folios) + (used.slabs - slabs);
        report.metadata = (used.scratch + used.tables) * PAGE_SIZE as u64;
        Ok(())
    }

    /// Publishes the totals, seals, and says what to tell the successor.
    pub(crate) fn hand_over(&self, totals: &Totals) -> Result<Entry, Failure> {
        let handover: &Handover<_> = &self.heirloom;
        handover.publish(ROOT, totals.as_bytes())?;
        handover.seal()?;
        Ok(handover.entry())
    }

    /// Frees everything; the number of frames that are still in use for nothing.
    pub(crate) fn give_everything_back(mut self) -> Result<u64, Failure> {
        for item in std::mem::take(&mut self.items) {
            self.free(item, true)?;
        }
        self.heirloom.shrink_all();
        let used = self.used()?;
        Ok(used.buffers + used.folios + used.slabs)
    }

    fn used(&self) -> Result<Used, Failure> {
        let audit = self.heirloom.memory().audit()?;
        let of = |kind: Kind| audit.allocated.get(kind as usize).copied().unwrap_or(0);
        Ok(Used {
            buffers: of(Kind::Buffer) + of(Kind::Tail) + of(Kind::Run),
            folios: of(Kind::Folio),
            slabs: of(Kind::Slab),
            tables: of(Kind::Table),
            scratch: audit.reserved,
        })
    }
}

/// Frames in use, by what for.
struct Used {
    buffers: u64,
    folios: u64,
    slabs: u64,
    tables: u64,
    scratch: u64,
}
