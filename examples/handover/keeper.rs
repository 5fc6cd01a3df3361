//! Files in preserved memory: stored, found again, checked, renewed, freed.
//!
//! The process may end at any point, and the next one finds every file that the index names: what is
//! new is preserved before the index names it, and what is old is freed after the index names it no
//! more.

use std::fs;
use std::ptr::NonNull;
use std::time::Instant;

use heirloom::Heirloom;
use heirloom::arena::Arena;
use heirloom::folio::{DirectMap, Disposition};
use heirloom::kho::{Handle, PAGE_SIZE, Parts, PhysAddr};
use heirloom::restore::{Entry, Error};
use heirloom::slab::TypedCache;
use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::files::Found;
use crate::index::{FileRecord, Index};
use crate::report::Report;
use crate::run::Failure;
use crate::steps::{Stage, Steps};
use crate::store::{Data, State, Store};

/// The cache of file records, and the name under which the totals are published.
const RECORDS: &str = "file-record";
const ROOT: &str = "handover";

/// In how many parts files are stored anew: memory is needed for one of them.
const PARTS: usize = 8;

/// What passes from generation to generation beside the files.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Totals {
    pub(crate) lost: u64,
    pub(crate) leaked: u64,
}

/// A file that is kept.
struct Item {
    record: PhysAddr,
    path: NonNull<u8>,
    data: Data,
    state: State,
}

impl Item {
    /// The path's bytes, of which its record tells the number.
    fn path(&self, record: &FileRecord) -> &[u8] {
        // SAFETY: the path is the item's, of that many bytes.
        unsafe { std::slice::from_raw_parts(self.path.as_ptr(), record.path_bytes as usize) }
    }
}

/// The memory and the files in it.
pub(crate) struct Keeper<'a> {
    store: Store<'a>,
    steps: &'a Steps,
    items: Vec<Item>,
    /// Files that the published index names and the next one does not.
    replaced: Vec<Item>,
    /// How often the index was published.
    edition: u64,
}

type Records<'k, 'a> = TypedCache<'k, FileRecord, &'a Arena>;

impl<'a> Keeper<'a> {
    /// A keeper of nothing, yet.
    pub(crate) fn new(
        arena: &'a Arena,
        heirloom: Heirloom<&'a Arena>,
        steps: &'a Steps,
    ) -> Result<Self, Failure> {
        heirloom.slabs().typed::<FileRecord>(RECORDS, true)?;
        Ok(Self::over(arena, heirloom, steps, 0))
    }

    fn over(
        arena: &'a Arena,
        heirloom: Heirloom<&'a Arena>,
        steps: &'a Steps,
        edition: u64,
    ) -> Self {
        let store = Store { arena, heirloom, steps, large: 0 };
        Self { store, steps, items: Vec::new(), replaced: Vec::new(), edition }
    }

    /// Claims all that the published index names, and frees what it does not.
    pub(crate) fn take_over(
        arena: &'a Arena,
        heirloom: Heirloom<&'a Arena>,
        steps: &'a Steps,
        totals: &mut Totals,
        report: &mut Report,
    ) -> Result<Self, Failure> {
        let started = Instant::now();
        steps.at(Stage::Adopt);
        let index = Index::claim(&heirloom)?;
        let mut keeper = Self::over(arena, heirloom, steps, index.edition);
        steps.at(Stage::Adopt);
        *totals = keeper.totals()?;
        steps.at(Stage::Adopt);
        // Where a successor had given everything back and ended then, there is none to adopt.
        let records = keeper.store.heirloom.adopt_or_create::<FileRecord>(RECORDS, true)?;
        let mut items = Vec::with_capacity(index.records.len());
        for record in index.records {
            steps.at(Stage::Claim);
            match keeper.claim(records, record) {
                Ok(item) => items.push(item),
                Err(error) => keeper.lose(report, &error.to_string()),
            }
        }
        report.edition = keeper.edition;
        report.claim = Some(started.elapsed());
        report.claimed = 3 * items.len() as u64 + 1;
        keeper.items = items;
        steps.at(Stage::Finish);
        let finished = keeper.store.heirloom.finish(|_| {
            steps.at(Stage::Finish);
            Disposition::Free
        })?;
        report.unclaimed = finished.subtrees + finished.folios + finished.slabs + finished.objects;
        Ok(keeper)
    }

    /// Claims a file: its record, its path, its contents.
    fn claim(&self, records: Records<'_, 'a>, record: Handle) -> Result<Item, Failure> {
        let Parts::Object { addr, tag, .. } = record.parts()? else {
            return Err("the index names what is no record".into());
        };
        let claimed = records.claim(addr, tag)?;
        let (kept, record) = (*claimed, claimed.leak());
        self.steps.at(Stage::Claim);
        let path = self.store.heirloom.restore(Handle::from(kept.path))?;
        self.steps.at(Stage::Claim);
        let data = self.store.claim(Handle::from(kept.data), kept.bytes)?;
        Ok(Item { record, path, data, state: State::Claimed })
    }

    /// Counts a file that is not there, or not as it was stored.
    fn lose(&self, report: &mut Report, what: &str) {
        eprintln!("lost: {what}");
        self.steps.tell(format_args!("lost"));
        report.lost += 1;
    }

    /// Claims what the generations before counted.
    fn totals(&self) -> Result<Totals, Failure> {
        let root = match self.store.heirloom.claim_root(ROOT) {
            Err(Error::NoSuchSubtree { .. }) if self.edition == 0 => return Ok(Totals::default()),
            root => root?,
        };
        Ok(Totals::read_from_bytes(root.bytes()).map_err(|_| "the root is no totals")?)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.store.heirloom.generation()
    }

    fn records(&self) -> Result<Records<'_, 'a>, Failure> {
        Ok(self.store.heirloom.slabs().typed(RECORDS, true)?)
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
                let item = self.store(file.path.as_os_str().as_encoded_bytes(), &bytes)?;
                self.items.push(item);
            }
            _ => {}
        }
        Ok(())
    }

    /// Stores bytes under a path; they survive once [`Keeper::commit`] was called.
    fn store(&mut self, path: &[u8], bytes: &[u8]) -> Result<Item, Failure> {
        self.steps.at(Stage::Store);
        let data = self.store.put(bytes)?;
        self.steps.at(Stage::Store);
        let path_bytes = path.len() as u64;
        let path = self.store.buffer(path)?;
        self.steps.at(Stage::Store);
        let record = self.records()?.insert(FileRecord {
            path: self.store.heirloom.handle_of(path)?.into(),
            data: [0; 16],
            sha256: Sha256::digest(bytes).into(),
            bytes: bytes.len() as u64,
            path_bytes,
        })?;
        Ok(Item { record: record.leak(), path, data, state: State::New })
    }

    /// Makes what is kept now survive, in place of what was kept before.
    pub(crate) fn commit(&mut self, report: &mut Report) -> Result<(), Failure> {
        let started = Instant::now();
        self.preserve_new(report)?;
        report.preserve += started.elapsed();
        self.steps.at(Stage::Publish);
        self.publish()?;
        report.edition = self.edition;
        self.steps.at(Stage::Publish);
        self.steps.tell(format_args!("published {}", self.edition));
        for item in std::mem::take(&mut self.replaced) {
            self.free(item)?;
        }
        Ok(())
    }

    /// Preserves what was stored by this generation. What was claimed is preserved still.
    fn preserve_new(&mut self, report: &mut Report) -> Result<(), Failure> {
        let heirloom = &self.store.heirloom;
        let records = heirloom.slabs().typed::<FileRecord>(RECORDS, true)?;
        for item in self.items.iter_mut().filter(|item| item.state == State::New) {
            self.steps.at(Stage::Preserve);
            // SAFETY: in use, and nothing frees it meanwhile.
            unsafe { heirloom.preserve(item.path) }?;
            self.steps.at(Stage::Preserve);
            let (count, handle) = self.store.preserve(&mut item.data)?;
            report.preserved += 1 + count;
            // SAFETY: as in `record`.
            let mut record = unsafe { records.from_raw(item.record) };
            record.data = handle.map_or([0; 16], Into::into);
            record.leak();
            item.state = State::Preserved;
        }
        Ok(())
    }

    /// Publishes the next edition of the index.
    fn publish(&mut self) -> Result<(), Failure> {
        self.edition += 1;
        let mut index = Index { edition: self.edition, records: Vec::new() };
        let memory = self.store.heirloom.memory();
        for item in &self.items {
            let record = memory.machine().ptr(item.record);
            index.records.push(self.store.heirloom.handle_of(record)?);
        }
        index.publish(&self.store.heirloom)
    }

    /// A file's bytes, as long as `f` looks at them.
    fn with_bytes<R>(&self, item: &Item, f: impl FnOnce(&[u8]) -> R) -> Result<R, Failure> {
        let length = self.record(item)?.bytes as usize;
        self.store.with_bytes(&item.data, length, f)
    }

    /// Compares every byte with the checksum taken when it was stored, and sums up what is there.
    pub(crate) fn check(
        &self,
        report: &mut Report,
        mut done: impl FnMut(&Self),
    ) -> Result<(), Failure> {
        self.for_each(|path, bytes, sha256| {
            self.steps.at(Stage::Check);
            let now: [u8; 32] = Sha256::digest(bytes).into();
            if now != *sha256 {
                self.lose(report, &format!("{} changed", String::from_utf8_lossy(path)));
            }
            let both: [u8; 32] =
                Sha256::new().chain_update(path).chain_update(now).finalize().into();
            let (part, _) = u64::read_from_prefix(&both).unwrap_or_default();
            report.sum = report.sum.wrapping_add(part);
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
            let path = item.path(&record);
            self.with_bytes(item, |bytes| f(path, bytes, &record.sha256))?;
        }
        Ok(())
    }

    /// Stores every second file anew, in parts: once the index names the new copies of a part, the old
    /// ones are freed.
    pub(crate) fn renew_half(&mut self, report: &mut Report) -> Result<(), Failure> {
        let first = usize::from(self.generation().is_multiple_of(2));
        let half: Vec<_> = (first..self.items.len()).step_by(2).collect();
        for part in half.chunks(half.len().div_ceil(PARTS).max(1)) {
            for &at in part {
                let (path, bytes) = self.copy(&self.items[at])?;
                let new = self.store(&path, &bytes)?;
                self.replaced.push(std::mem::replace(&mut self.items[at], new));
            }
            self.commit(report)?;
        }
        Ok(())
    }

    /// A file's path and bytes, in this process's own memory.
    fn copy(&self, item: &Item) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let path = item.path(&self.record(item)?).to_vec();
        Ok((path, self.with_bytes(item, <[u8]>::to_vec)?))
    }

    /// Frees a file.
    fn free(&self, item: Item) -> Result<(), Failure> {
        self.store.free(item.data, item.state)?;
        self.store.free_buffer(item.path, item.state)?;
        self.steps.at(Stage::Free);
        // SAFETY: the record is ours, and ends here.
        drop(unsafe { self.records()?.from_raw(item.record) });
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
        let slabs = self.store.heirloom.slabs().caches().map(|cache| {
            let stats = cache.stats();
            stats.slabs * stats.slab_frames
        });
        let slabs: u64 = slabs.sum();
        let used = self.store.used()?;
        report.leaked = used.buffers.abs_diff(buffers)
            + used.folios.abs_diff(folios)
            + used.slabs.abs_diff(slabs);
        report.metadata = (used.scratch + used.tables + used.roll) * PAGE_SIZE as u64;
        Ok(())
    }

    /// Publishes the totals, seals, and says what to tell the successor.
    pub(crate) fn hand_over(&self, totals: &Totals) -> Result<Entry, Failure> {
        let handover = &self.store.heirloom;
        self.steps.at(Stage::Leave);
        handover.publish(ROOT, totals.as_bytes())?;
        self.steps.at(Stage::Leave);
        handover.seal()?;
        self.steps.at(Stage::Leave);
        Ok(handover.entry())
    }

    /// Takes back what is published, and frees everything; the number of frames that are still in use
    /// for nothing.
    pub(crate) fn give_everything_back(mut self) -> Result<u64, Failure> {
        self.steps.at(Stage::Publish);
        // Where a successor ended in the middle of this, there may be one of the two, or none.
        if self.edition != 0 {
            Index::unpublish(&self.store.heirloom)?;
        }
        self.steps.at(Stage::Publish);
        match self.store.heirloom.unpublish(ROOT) {
            Ok(()) | Err(Error::NoSuchSubtree { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        for item in std::mem::take(&mut self.items) {
            self.free(item)?;
        }
        self.steps.at(Stage::Leave);
        self.store.heirloom.shrink_all();
        let used = self.store.used()?;
        Ok(used.buffers + used.folios + used.slabs)
    }
}
