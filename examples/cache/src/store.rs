//! The items: keys with their values, until when each is there, and which of them goes when memory is full.
//!
//! ```text
//! key ─ hash ─> shard 0 .. 15      each a map in the arena, and a lock
//!                  │
//!                  └─> entry: key, value, mark = | until when: 41 bits | last used: 23 bits |
//!
//! published as "cache":  the handles of the maps, one behind the other
//! ```
//!
//! An item is there for a successor from the one store on that links it, and gone from the one store on that unlinks it: there is
//! nothing to be written when the process ends, and nothing to be read when it begins.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use heirloom::arena::Arena;
use heirloom::{Handle, Heirloom};
use heirloom_collections::{Error, Map, Pool};
use xxhash_rust::xxh3::xxh3_64;

/// The name of the root: the maps' handles.
const ROOT: &str = "cache";

/// Shards of a store that is new.
const SHARDS: usize = 16;

/// Bits of a cursor below the shard's number: the place in its map.
const PLACE_BITS: u32 = 48;

/// Items of which the one that was used longest ago is evicted, and buckets that are looked at for them at most.
const CANDIDATES: usize = 5;
const SAMPLES: u64 = 64;

/// How often an item like the new one goes to make room for it, before stretches of memory are cleared, and how often those are.
const LIKE: usize = 4;
const STRETCHES: usize = 16;

/// A use is marked anew once so many items were set, as two to this power: to mark it is a store.
const CLOCK_SHIFT: u32 = 6;

/// The time at which an item expires that does not.
pub const NEVER: u64 = u64::MAX;

type Shard<'h> = Map<'h, &'h Arena>;
type Found<T> = Result<Option<T>, Error>;

/// The items.
pub struct Store<'h> {
    pool: &'h Pool<'h, &'h Arena>,
    shards: Box<[RwLock<Shard<'h>>]>,
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
        let mut maps = Vec::new();
        match heirloom.claim_root(ROOT) {
            Ok(root) => {
                for handle in root.bytes().as_chunks::<16>().0 {
                    maps.push(Map::open(pool, Handle::from(*handle))?);
                }
            }
            Err(heirloom::Error::NoSuchSubtree { .. }) => {
                let mut handles = Vec::new();
                for _ in 0..SHARDS {
                    let map = Map::create(pool, RandomState::new().hash_one(SHARDS))?;
                    handles.extend(<[u8; 16]>::from(map.handle()));
                    maps.push(map);
                }
                // From here on a successor finds them.
                heirloom.publish(ROOT, &handles)?;
            }
            Err(error) => return Err(error.into()),
        }
        // The clock goes on from the latest use in a sample of the items.
        let mut latest = 0;
        for map in &maps {
            map.sample(random(0), |entry| latest = latest.max(entry.mark() & USED))?;
        }
        let shards = maps.into_iter().map(RwLock::new).collect();
        let [clock, expired, evicted] = [latest << CLOCK_SHIFT, 0, 0].map(AtomicU64::new);
        Ok(Self { pool, shards, clock, full: AtomicBool::new(false), expired, evicted })
    }

    /// Returns the number of a key's shard. Part of the format: each build finds a key where others put it.
    fn shard_of(&self, key: &[u8]) -> usize {
        ((u128::from(xxh3_64(key)) * self.shards.len() as u128) >> 64) as usize
    }

    // (A thread that panics ends the process: what it had locked is whole, as at any instant.)
    fn read(&self, shard: usize) -> RwLockReadGuard<'_, Shard<'h>> {
        self.shards[shard].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, shard: usize) -> RwLockWriteGuard<'_, Shard<'h>> {
        self.shards[shard].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the mark of an item that is used now.
    fn mark(&self, expires: u64) -> u64 {
        let since = expires.saturating_sub(EPOCH).clamp(1, u64::MAX >> USED_BITS);
        let since = if expires == NEVER { 0 } else { since };
        since << USED_BITS | self.clock.load(Relaxed) >> CLOCK_SHIFT & USED
    }

    /// Calls `f` with the value of a key, if there is one.
    ///
    /// # Errors
    /// Those of [`Map::get`].
    pub fn get(&self, key: &[u8], now: u64, f: impl FnOnce(Option<&[u8]>)) -> Result<(), Error> {
        let shard = self.read(self.shard_of(key));
        let entry = shard.get(key)?.filter(|entry| expires(entry.mark()) > now);
        if let Some(entry) = &entry {
            let mark = self.mark(expires(entry.mark()));
            if mark != entry.mark() {
                entry.set_mark(mark);
            }
        }
        f(entry.map(|entry| entry.value()));
        Ok(())
    }

    /// Returns until when the item of a key is there, if there is one: [`NEVER`] for one that does not expire.
    ///
    /// # Errors
    /// Those of [`Map::get`].
    pub fn expiry(&self, key: &[u8], now: u64) -> Found<u64> {
        expiry(&self.read(self.shard_of(key)), key, now)
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
        self.clock.fetch_add(1, Relaxed);
        let (mut tries, bytes) = (0, key.len() + value.len());
        loop {
            let mut shard = self.write(self.shard_of(key));
            if let Some(there) = when
                && there != expiry(&shard, key, now)?.is_some()
            {
                return Ok(false);
            }
            // Rather than after the layers below have looked everywhere for memory.
            if self.full.load(Relaxed) && tries == 0 && !shard.contains(key)? {
                self.evict_like(&mut shard, bytes, now)?;
            }
            match shard.insert_marked(key, value, self.mark(expires)) {
                Err(error) if error.is_out_of_memory() && tries < LIKE => {
                    self.full.store(true, Relaxed);
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
    fn evict_like(&self, shard: &mut Shard<'h>, bytes: usize, now: u64) -> Result<(), Error> {
        let (clock, wanted) = (self.mark(NEVER), room(bytes));
        let (mut over, mut oldest, mut found) = (Vec::new(), None, 0);
        for n in 0..SAMPLES {
            shard.sample(random(self.clock.load(Relaxed) * SAMPLES + n), |entry| {
                let idle = clock.wrapping_sub(entry.mark()) & USED;
                if expires(entry.mark()) <= now {
                    over.push(entry.key().to_vec());
                } else if room(entry.key().len() + entry.value().len()) == wanted {
                    found += 1;
                    if oldest.as_ref().is_none_or(|(longest, _)| *longest < idle) {
                        oldest = Some((idle, entry.key().to_vec()));
                    }
                }
            })?;
            if found >= CANDIDATES {
                break;
            }
        }
        for key in over {
            self.expired.fetch_add(u64::from(shard.remove(&key)?), Relaxed);
        }
        if let Some((_, key)) = oldest {
            self.evicted.fetch_add(u64::from(shard.remove(&key)?), Relaxed);
        }
        Ok(())
    }

    /// Takes all items out that lie in a stretch of memory, somewhere: what is as large as none before needs memory that
    /// lies together. Looks at all items: it is rare, as items of a size are replaced by their like.
    fn clear_stretch(&self, bytes: usize) -> Result<(), Error> {
        let random = random(self.clock.fetch_add(1, Relaxed));
        let length = (4 * bytes).next_power_of_two().max(LEAST);
        let mut somewhere = 0;
        self.read(random as usize % self.shards.len())
            .sample(random, |entry| somewhere = entry.key().as_ptr().addr() / length)?;
        for at in 0..self.shards.len() {
            self.write(at).retain(|entry| {
                let stays = entry.key().as_ptr().addr() / length != somewhere;
                self.evicted.fetch_add(u64::from(!stays), Relaxed);
                stays
            })?;
        }
        self.full.store(false, Relaxed);
        self.pool.slabs().shrink();
        Ok(())
    }

    /// Takes an item out. Returns whether there was one.
    ///
    /// # Errors
    /// Those of [`Map::remove`].
    pub fn remove(&self, key: &[u8], now: u64) -> Result<bool, Error> {
        let mut shard = self.write(self.shard_of(key));
        let is_there = expiry(&shard, key, now)?.is_some();
        self.full.store(false, Relaxed);
        Ok(shard.remove(key)? && is_there)
    }

    /// Has an item expire at a time. Returns whether there is one.
    ///
    /// # Errors
    /// Those of [`Map::get`].
    pub fn expire(&self, key: &[u8], at: u64, now: u64) -> Result<bool, Error> {
        // Alone: a reader that marks the item as used would write the old time again.
        let shard = self.write(self.shard_of(key));
        let entry = shard.get(key)?.filter(|entry| expires(entry.mark()) > now);
        Ok(entry.inspect(|entry| entry.set_mark(self.mark(at))).is_some())
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
        while at < self.shards.len() as u64 && seen < count {
            // An empty bucket is a look, too: a shard that was emptied has many.
            seen += 1;
            place = self.read(at as usize).scan(place, |entry| {
                seen += 1;
                if expires(entry.mark()) > now {
                    each(entry.key());
                }
            })?;
            at += u64::from(place == 0);
        }
        Ok(if at < self.shards.len() as u64 { at << PLACE_BITS | place } else { 0 })
    }

    /// Returns how many items there are. Some may have expired.
    pub fn count(&self) -> u64 {
        (0..self.shards.len()).map(|at| self.read(at).len()).sum()
    }

    /// Takes all items out.
    ///
    /// # Errors
    /// Those of [`Map::clear`].
    pub fn clear(&self) -> Result<(), Error> {
        self.full.store(false, Relaxed);
        (0..self.shards.len()).try_for_each(|at| self.write(at).clear())
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

fn expiry(shard: &Shard<'_>, key: &[u8], now: u64) -> Found<u64> {
    let at = shard.get(key)?.map(|entry| expires(entry.mark()));
    Ok(at.filter(|at| *at > now))
}

/// Returns the bytes of memory that an entry takes: its head's too, in steps of 16, and of an eighth where it is large.
const fn room(bytes: usize) -> usize {
    let bytes = bytes + 24;
    let step = if bytes <= 256 { 16 } else { 1 << ((bytes - 1).ilog2() - 3) };
    bytes.next_multiple_of(step)
}

/// Returns a number that looks as if it had nothing to do with `number`.
fn random(number: u64) -> u64 {
    xxh3_64(&number.to_le_bytes())
}
