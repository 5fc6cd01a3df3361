//! The items: keys with their values, until when each is there, and which of them goes when memory is full.
//!
//! ```text
//! key ─ hash ─> shard 0 .. 15      each a map in the arena: its writer, behind a lock, and a reader of each thread's, which takes none
//!                  │
//!                  └─> entry: key, value, mark = | until when: 41 bits | last used: 23 bits |
//!
//! published as "cache":  the handles of the maps, one behind the other
//! ```
//!
//! What reads never waits for what writes. What writes waits for those that read where memory is full.
//!
//! An item is there for a successor from the one store on that links it, and gone from the one store on that unlinks it: there is
//! nothing to be written when the process ends, and nothing to be read when it begins.

use std::hash::{BuildHasher, RandomState};
use std::iter::repeat_with;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heirloom::arena::Arena;
use heirloom::{Handle, Heirloom};
use heirloom_collections::{Error, Map, MapReader, MapWriter, Pool, Visited};
use xxhash_rust::xxh3::xxh3_64;

/// The name of the root: the maps' handles.
const ROOT: &str = "cache";

/// Shards of a store that is new.
const SHARDS: usize = 16;

/// Bits of a cursor below the shard's number: the place in its map.
const PLACE_BITS: u32 = 48;

/// How often an item like the new one goes to make room for it, before stretches of memory are cleared, and how often those are.
const LIKE: usize = 4;
const STRETCHES: usize = 16;

/// A use is marked anew once so many items were set, as two to this power: to mark it is a store.
const CLOCK_SHIFT: u32 = 6;

/// The time at which an item expires that does not.
pub const NEVER: u64 = u64::MAX;

type Writer<'h> = MapWriter<'h, 'h, &'h Arena>;

/// The items, for one thread. Others have clones.
#[derive(Clone)]
pub struct Store<'h> {
    /// The thread's own: what it counts its looks in lies on lines that no other thread writes.
    readers: Box<[MapReader<'h, &'h Arena>]>,
    pub(crate) shared: Arc<Shared<'h>>,
}

/// What all threads share.
pub(crate) struct Shared<'h> {
    pool: &'h Pool<'h, &'h Arena>,
    writers: Box<[Mutex<Writer<'h>>]>,
    /// Goes on by one with each item that is set: what an item is older by is how much was set since it was used.
    clock: AtomicU64,
    /// Whether there was no memory for an item, and none was taken out since but for another.
    full: AtomicBool,
    /// How many items went because their time had come, and because there was no room for them, in this process.
    pub(crate) expired: AtomicU64,
    pub(crate) evicted: AtomicU64,
}

impl<'h> Store<'h> {
    /// Opens the store that a predecessor left, or begins an empty one. Takes as long however many items there are.
    ///
    /// # Errors
    /// What a predecessor left cannot be gone on with, or there is no memory for maps.
    pub fn open(
        heirloom: &'h Heirloom<&'h Arena>,
        pool: &'h Pool<'h, &'h Arena>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let maps = match heirloom.claim_root(ROOT) {
            Ok(root) => {
                let handles = root.bytes().as_chunks::<16>().0.iter();
                let open = |handle: &[u8; 16]| Map::open(pool, Handle::from(*handle));
                handles.map(open).collect::<Result<Vec<_>, _>>()?
            }
            Err(heirloom::Error::NoSuchSubtree { .. }) => {
                let new = || Map::create(pool, RandomState::new().hash_one(SHARDS));
                let maps = repeat_with(new).take(SHARDS).collect::<Result<Vec<_>, _>>()?;
                let handles = maps.iter().flat_map(|map| <[u8; 16]>::from(map.handle()));
                // From here on a successor finds them.
                heirloom.publish(ROOT, &handles.collect::<Vec<u8>>())?;
                maps
            }
            Err(error) => return Err(error.into()),
        };
        // The clock goes on from the latest use in a sample of the items.
        let mut latest = 0;
        for map in &maps {
            map.sample(random(0), |entry| latest = latest.max(entry.mark() & USED))?;
        }
        let [clock, expired, evicted] = [latest << CLOCK_SHIFT, 0, 0].map(AtomicU64::new);
        // They are in use until the process ends.
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for map in maps.leak() {
            let (mut writer, reader) = map.split()?;
            // Where memory is full. Readers leave at once: none waits for anything in a visit.
            writer.wait_by(std::thread::yield_now);
            writers.push(Mutex::new(writer));
            readers.push(reader);
        }
        let (writers, full) = (writers.into(), AtomicBool::new(false));
        let shared = Shared { pool, writers, clock, full, expired, evicted };
        Ok(Self { readers: readers.into(), shared: Arc::new(shared) })
    }

    /// Returns the number of a key's shard. Part of the format: each build finds a key where others put it.
    fn shard_of(&self, key: &[u8]) -> usize {
        ((u128::from(xxh3_64(key)) * self.readers.len() as u128) >> 64) as usize
    }

    // (A thread that panics ends the process: what it had locked is whole, as at any instant.)
    fn write(&self, shard: usize) -> MutexGuard<'_, Writer<'h>> {
        self.shared.writers[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the mark of an item that is used now.
    fn mark(&self, expires: u64) -> u64 {
        let since = expires.saturating_sub(EPOCH).clamp(1, u64::MAX >> USED_BITS);
        let since = if expires == NEVER { 0 } else { since };
        since << USED_BITS | self.shared.clock.load(Relaxed) >> CLOCK_SHIFT & USED
    }

    /// Returns the item of a key that has not expired.
    fn find(&self, key: &[u8], now: u64) -> Result<Option<Visited<'h>>, Error> {
        let item = self.readers[self.shard_of(key)].get(key)?;
        Ok(item.filter(|item| expires(item.mark()) > now))
    }

    /// Calls `f` with the value of a key, if there is one.
    ///
    /// # Errors
    /// Those of [`Map::get`].
    pub fn get(&self, key: &[u8], now: u64, f: impl FnOnce(Option<&[u8]>)) -> Result<(), Error> {
        let item = self.find(key, now)?;
        if let Some(item) = &item {
            // The first look at a bucket in a process takes longer; the writer notes that it was looked at, if it is at rest.
            if !item.is_noted()
                && let Ok(writer) = self.shared.writers[self.shard_of(key)].try_lock()
            {
                writer.map().contains(key)?;
            }
            let before = item.mark();
            let mark = self.mark(expires(before));
            if mark != before {
                // Unless another thread has marked it: as used, too, or to expire.
                item.replace_mark(before, mark);
            }
        }
        f(item.as_ref().map(Visited::value));
        Ok(())
    }

    /// Returns until when the item of a key is there, if there is one: [`NEVER`] for one that does not expire.
    ///
    /// # Errors
    /// Those of [`Map::get`].
    pub fn expiry(&self, key: &[u8], now: u64) -> Result<Option<u64>, Error> {
        Ok(self.find(key, now)?.map(|item| expires(item.mark())))
    }

    /// Sets an item, until a time or [`NEVER`]; with `when`, only if there is one of this key (`true`) or none. Returns
    /// whether it was to be set. Others go where memory is full.
    ///
    /// # Errors
    /// Out of memory, with nothing else that could go for it; else those of [`Map::insert`]. The key has the value that it had.
    pub fn set(
        &self,
        (key, value): (&[u8], &[u8]),
        when: Option<bool>,
        expires: u64,
        now: u64,
    ) -> Result<bool, Error> {
        let Shared { clock, full, .. } = &*self.shared;
        clock.fetch_add(1, Relaxed);
        let (mut tries, bytes, at) = (0, key.len() + value.len(), self.shard_of(key));
        loop {
            let mut shard = self.write(at);
            if let Some(there) = when
                && there != self.find(key, now)?.is_some()
            {
                return Ok(false);
            }
            // Rather than after the layers below have looked everywhere for memory.
            if full.load(Relaxed) && tries == 0 && !shard.map().contains(key)? {
                self.evict_like(&mut shard, bytes, now)?;
            }
            match shard.insert_marked(key, value, self.mark(expires)) {
                Err(error) if error.is_out_of_memory() && tries < LIKE => {
                    full.store(true, Relaxed);
                    self.evict_like(&mut shard, bytes, now)?;
                }
                Err(error) if error.is_out_of_memory() && tries < LIKE + STRETCHES => {
                    drop(shard);
                    self.clear_stretch(bytes)?;
                }
                set => return set.map(|_| true),
            }
            tries += 1;
        }
    }

    /// Takes the item out of a sample that was used longest ago, of those that take as much memory: what it leaves is
    /// what the new one needs. What has expired goes in any case.
    fn evict_like(&self, shard: &mut Writer<'h>, bytes: usize, now: u64) -> Result<(), Error> {
        let Shared { clock, expired, evicted, .. } = &*self.shared;
        let (random, used) = (random(clock.load(Relaxed)), self.mark(NEVER));
        let before = shard.map().len();
        let found = shard.evict(bytes, random, |entry| {
            let is_there = expires(entry.mark()) > now;
            is_there.then(|| used.wrapping_sub(entry.mark()) & USED)
        })?;
        evicted.fetch_add(u64::from(found), Relaxed);
        expired.fetch_add(before - shard.map().len() - u64::from(found), Relaxed);
        Ok(())
    }

    /// Takes all items out that lie in a stretch of memory, somewhere: what is as large as none before needs memory that
    /// lies together. Looks at all items: it is rare, as items of a size are replaced by their like.
    fn clear_stretch(&self, bytes: usize) -> Result<(), Error> {
        let Shared { pool, clock, full, evicted, .. } = &*self.shared;
        let random = random(clock.fetch_add(1, Relaxed));
        let length = (4 * bytes).next_power_of_two().max(LEAST);
        let mut somewhere = 0;
        self.write(random as usize % self.readers.len())
            .map()
            .sample(random, |entry| somewhere = entry.key().as_ptr().addr() / length)?;
        let gone = self.retain(|key| key.as_ptr().addr() / length != somewhere)?;
        evicted.fetch_add(gone, Relaxed);
        full.store(false, Relaxed);
        pool.slabs().shrink();
        Ok(())
    }

    /// Takes all items out but those of the keys that stay. Returns how many those were.
    fn retain(&self, stays: impl Fn(&[u8]) -> bool) -> Result<u64, Error> {
        let mut gone = 0;
        for at in 0..self.readers.len() {
            let mut shard = self.write(at);
            gone += shard.map().len();
            shard.retain(|entry| stays(entry.key()))?;
            gone -= shard.map().len();
        }
        Ok(gone)
    }

    /// Takes an item out. Returns whether there was one.
    ///
    /// # Errors
    /// Those of [`Map::remove`].
    pub fn remove(&self, key: &[u8], now: u64) -> Result<bool, Error> {
        let mut shard = self.write(self.shard_of(key));
        let is_there = self.find(key, now)?.is_some();
        self.shared.full.store(false, Relaxed);
        Ok(shard.remove(key)? && is_there)
    }

    /// Has an item expire at a time. Returns whether there is one.
    ///
    /// # Errors
    /// Those of [`Map::get`].
    pub fn expire(&self, key: &[u8], at: u64, now: u64) -> Result<bool, Error> {
        while let Some(item) = self.find(key, now)? {
            // Again if another thread has marked it meanwhile.
            if item.replace_mark(item.mark(), self.mark(at)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Calls `each` with about `count` keys, from a cursor on, and returns the next cursor: 0 at the end.
    ///
    /// # Errors
    /// Those of [`Map::scan`].
    pub fn scan(
        &self,
        cursor: u64,
        count: u64,
        now: u64,
        mut each: impl FnMut(&[u8]),
    ) -> Result<u64, Error> {
        let (mut at, mut place) = (cursor >> PLACE_BITS, cursor & ((1 << PLACE_BITS) - 1));
        let mut seen = 0;
        while let Some(shard) = self.readers.get(at as usize) {
            if seen >= count {
                return Ok(at << PLACE_BITS | place);
            }
            // An empty bucket is a look, too: a shard that was emptied has many.
            seen += 1;
            place = shard.enter().scan(place, |entry| {
                seen += 1;
                if expires(entry.mark()) > now {
                    each(entry.key());
                }
            })?;
            at += u64::from(place == 0);
        }
        Ok(0)
    }

    /// Returns how many items there are. Some may have expired.
    pub fn count(&self) -> u64 {
        self.readers.iter().map(MapReader::len).sum()
    }

    /// Takes all items out, and gives back their memory: those of a shard go at once.
    ///
    /// # Errors
    /// Those of [`MapWriter::clear`].
    pub fn clear(&self) -> Result<(), Error> {
        (0..self.readers.len()).try_for_each(|at| self.write(at).clear())?;
        self.shared.full.store(false, Relaxed);
        self.shared.pool.slabs().shrink();
        Ok(())
    }
}

/// The bits of a mark that tell when the item was used last. Those above tell the milliseconds from `EPOCH` until it
/// expires, and are 0 where it does not.
const USED_BITS: u32 = 23;
const USED: u64 = (1 << USED_BITS) - 1;

/// The year 2020, in milliseconds since 1970. With 41 bits the times end in 2089.
const EPOCH: u64 = 1_577_836_800_000;

/// The least stretch of memory that is cleared: more than the largest slab.
const LEAST: usize = 2 << 20;

/// Returns when an item of this mark expires.
const fn expires(mark: u64) -> u64 {
    let since = mark >> USED_BITS;
    if since == 0 { NEVER } else { since + EPOCH }
}

/// Returns a number that looks as if it had nothing to do with `number`.
fn random(number: u64) -> u64 {
    xxh3_64(&number.to_le_bytes())
}
