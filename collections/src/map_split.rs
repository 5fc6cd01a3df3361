//! A map's readers beside its writer.
//!
//! ```text
//!   reader  ── moves ── count ── bucket ── entry        found: it was there, and stays as long as the reader is in
//!                │                                      not found, and the moves are the same still: it was not there
//!                └── not found, and they have changed: again
//! ```
//!
//! A link appears in a new place before it goes from the old one, and in between the writer counts a move. So a reader that comes too
//! late to the old place, and was too early at the new one, finds another count. It looks again once for each move that the writer
//! makes meanwhile: it waits for none, and one move takes longer than one look.

use core::fmt;
use core::marker::PhantomData;

use heirloom_folio::Machine;

use crate::buckets::{Buckets, MAX_BUCKETS, bucket_of, is_split};
use crate::deferred::{self, Later};
use crate::entry::Entry;
use crate::error::Error;
use crate::hasher::{Hash, Xxh3};
use crate::head::at;
use crate::line::LINES;
use crate::link::Link;
use crate::map::Map;
use crate::readers::{Inside, Readers};
use crate::retire::Now;

impl<'p, M: Machine, H: Hash> Map<'p, M, H> {
    /// Splits the map into its writer and a reader, which go on beside one another: on several threads, say. The reader is cloned
    /// for more of them.
    ///
    /// Readers take no lock and wait for nothing. What the writer removes or replaces is freed once the readers have left that may
    /// look at it; a successor frees it where the kernel ends before.
    ///
    /// # Errors
    /// [`Error::Slab`]: out of memory for four kibibytes that end with the map's value.
    ///
    /// # Examples
    /// ```
    /// use heirloom_collections::{Map, Pool};
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::Slabs;
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let pool = Pool::open(&slabs)?;
    /// let mut map = Map::<_>::create(&pool, 0x5eed)?;
    /// map.insert(b"key", b"value")?;
    ///
    /// let (mut writer, reader) = map.split()?;
    /// std::thread::scope(|scope| {
    ///     for reader in [reader.clone(), reader.clone()] {
    ///         scope.spawn(move || {
    ///             let entry = reader.get(b"key").unwrap().expect("it is there");
    ///             assert!([&b"value"[..], b"another"].contains(&entry.value()));
    ///         });
    ///     }
    ///     writer.insert(b"key", b"another")
    /// })?;
    /// // A visit for several: what it found stays as long.
    /// let visit = reader.enter();
    /// let entry = visit.get(b"key")?.expect("it is there");
    /// writer.remove(b"key")?;
    /// assert_eq!(entry.value(), b"another");
    /// assert!(visit.get(b"key")?.is_none());
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[expect(clippy::type_complexity, reason = "two handles of one map")]
    pub fn split(&mut self) -> Result<(MapWriter<'_, 'p, M, H>, MapReader<'_, M, H>), Error> {
        let (buckets, seed) = (self.buckets, self.seed);
        // SAFETY: the writer keeps the map borrowed, and neither splits it again nor ends it.
        let readers = unsafe { deferred::begin_split(&buckets.body, &mut self.readers) }?;
        let reader = MapReader { buckets, seed, readers, slot: readers.join(), hash: PhantomData };
        Ok((MapWriter { map: self, later: Later::new(readers) }, reader))
    }
}

/// The writer of a [split](Map::split) map: it changes the map while readers look at it.
///
/// Each operation happens at one store, as the map's does, and readers find it there or not. What is removed or replaced is named in
/// the map's head until it is freed: by calls that come later, by [`MapWriter::reclaim`], or when the writer, or the map's value,
/// ends. No call waits for a reader, unless it is [told to](MapWriter::wait_by). One that stays in has what is removed meanwhile stay
/// in memory.
pub struct MapWriter<'m, 'p, M: Machine, H: Hash = Xxh3> {
    map: &'m mut Map<'p, M, H>,
    later: Later<'m>,
}

impl<M: Machine, H: Hash> fmt::Debug for MapWriter<'_, '_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapWriter").field("map", &self.map).finish_non_exhaustive()
    }
}

impl<'p, M: Machine, H: Hash> MapWriter<'_, 'p, M, H> {
    /// Returns the map, to be read by its writer: what is found is there until the writer changes the map.
    pub const fn map(&self) -> &Map<'p, M, H> {
        self.map
    }

    /// Has the writer wait for readers where memory is full: it calls `wait`, to yield say, until those have left that may look at what
    /// it has removed, rather than refuse what needs memory. What makes room, [`MapWriter::evict`] and [`MapWriter::retain`], waits
    /// whether memory is full or not. So a thread must not write while it is in a visit itself: the writer would wait for ever.
    pub const fn wait_by(&mut self, wait: fn()) {
        self.later.wait_by(wait);
    }

    /// Inserts an entry, or replaces the one of this key, as [`Map::insert`] does.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        self.insert_marked(key, value, 0)
    }

    /// Inserts an entry with this mark, as [`Map::insert_marked`] does.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    pub fn insert_marked(&mut self, key: &[u8], value: &[u8], mark: u64) -> Result<bool, Error> {
        let inserted = self.map.insert_by(&mut self.later, key, value, mark);
        match inserted {
            // What is freed now is room for it.
            Err(error) if error.is_out_of_memory() && self.later.holds() => {
                let _ = self.later.make_room(&self.map.buckets.body);
                self.map.insert_by(&mut self.later, key, value, mark)
            }
            inserted => inserted,
        }
    }

    /// Removes the entry of a key, as [`Map::remove`] does.
    ///
    /// # Errors
    /// As for [`Map::remove`]; and [`Error::Slab`] ([out of memory](Error::is_out_of_memory)) where readers stay in beside many
    /// removals, and there is no memory to name what they may look at, unless the writer [waits](MapWriter::wait_by). Nothing has
    /// changed then.
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, Error> {
        self.map.remove_by(&mut self.later, key)
    }

    /// Removes the entries for which `keep` returns `false`, as [`Map::retain`] does. The buckets stay.
    ///
    /// # Errors
    /// As for [`MapWriter::remove`]; what was removed by then is.
    pub fn retain(&mut self, keep: impl FnMut(Entry<'_>) -> bool) -> Result<(), Error> {
        self.map.retain_by(&mut self.later, keep)?;
        self.later.make_room(&self.map.buckets.body)
    }

    /// Removes all entries at one store, as [`Map::clear`] does. A reader beside it may find an entry until the call has come to it,
    /// and what it has found stays as it is until its visit ends.
    ///
    /// Memory is given back once readers have left: when the call returns, if none is in or the writer [waits](MapWriter::wait_by).
    /// Otherwise that of the entries is by later calls, and that of the buckets by [`MapWriter::reclaim`], or it is used for the buckets
    /// that come.
    ///
    /// # Errors
    /// As for [`MapWriter::remove`]; but [`MapReader::len`] says whether it has happened. If it has, what is left is freed by the next
    /// call, the next insertion, or a successor; readers may find it until then.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.map.clear_by(&mut self.later)?;
        self.later.make_room(&self.map.buckets.body)?;
        self.reclaim().map(drop)
    }

    /// Removes an entry to make room for another, as [`Map::evict`] does. There is room once readers have left:
    /// when the call returns, if the writer [waits](MapWriter::wait_by).
    ///
    /// # Errors
    /// As for [`MapWriter::remove`]; what was removed by then is.
    pub fn evict(
        &mut self,
        bytes: usize,
        random: u64,
        idle: impl FnMut(Entry<'_>) -> Option<u64>,
    ) -> Result<bool, Error> {
        let evicted = self.map.evict_by(&mut self.later, bytes, random, idle)?;
        self.later.make_room(&self.map.buckets.body)?;
        Ok(evicted)
    }

    /// Frees what no reader can look at any more, of what was removed or replaced. Returns whether nothing of it is left; if not, a
    /// reader is in that was in when it was removed, or that came soon after.
    ///
    /// # Errors
    /// [`Error::Slab`]: where nothing can be waited for. What is left can be freed later.
    pub fn reclaim(&mut self) -> Result<bool, Error> {
        let buckets = self.map.buckets;
        let is_done = self.later.reclaim(&buckets.body)?;
        if is_done && self.later.trims {
            // Readers that saw more buckets have left. (What a split that was refused has begun would go with its segment.)
            let n = buckets.count();
            buckets.strip(n, &mut Now)?;
            // SAFETY: lines beyond the last bucket hold zeroes. No reader looks at one, and the writer keeps none.
            unsafe { buckets.trim((n - 1) / LINES + 1) }?;
            self.later.trims = false;
        }
        Ok(is_done)
    }
}

impl<M: Machine, H: Hash> Drop for MapWriter<'_, '_, M, H> {
    fn drop(&mut self) {
        // (What is left is freed when the map's value ends, or is split again.)
        let _ = self.reclaim();
    }
}

/// A reader of a [split](Map::split) map, beside its writer.
///
/// Each of up to 31 counts its visits on a cache line of its own; what is cloned after them shares one, which costs time alone. One
/// reader can be used by several threads.
pub struct MapReader<'m, M: Machine, H: Hash = Xxh3> {
    buckets: Buckets<'m, M>,
    seed: u64,
    readers: &'m Readers,
    slot: usize,
    hash: PhantomData<fn() -> H>,
}

impl<M: Machine, H: Hash> Clone for MapReader<'_, M, H> {
    fn clone(&self) -> Self {
        Self { slot: self.readers.join(), ..*self }
    }
}

impl<M: Machine, H: Hash> fmt::Debug for MapReader<'_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapReader").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<'m, M: Machine, H: Hash> MapReader<'m, M, H> {
    /// Begins a visit: what is found in it stays as it is until the visit ends. Two atomic operations on a line of the reader's
    /// own, one now and one at the end.
    ///
    /// A visit may last as long as it likes, and the writer goes on. What is removed meanwhile stays in memory.
    #[inline]
    pub fn enter(&self) -> MapVisit<'_, 'm, M, H> {
        MapVisit { reader: self, _inside: self.readers.enter(self.slot) }
    }

    /// Returns the entry of a key, in a visit of its own, which ends when it is dropped.
    ///
    /// # Errors
    /// As for [`Map::get`].
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<Visited<'m>>, Error> {
        let inside = self.readers.enter(self.slot);
        let found = self.find(key)?;
        Ok(found.map(|(entry, noted)| Visited { entry, noted, _inside: inside }))
    }

    /// Returns whether there is an entry of this key.
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.enter().get(key)?.is_some())
    }

    /// Returns how many entries there are.
    #[inline]
    pub fn len(&self) -> u64 {
        self.buckets.body.head.get(at::LEN)
    }

    /// Returns whether there is no entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the entry of a key, which is good as long as the caller is in, and whether its bucket was looked at before.
    #[inline]
    fn find(&self, key: &[u8]) -> Result<Option<(Entry<'m>, bool)>, Error> {
        let hash = H::hash(self.seed, key);
        loop {
            let moves = self.moves();
            let number = bucket_of(heirloom_kho::narrow::low_u32(hash), self.count());
            let found = match self.buckets.known(number) {
                Some(known) => self.buckets.find(known, hash, key).map(|found| (found.entry, true)),
                None if self.is_empty() => None,
                None => self.buckets.find_shared(number, hash, key)?.map(|entry| (entry, false)),
            };
            if found.is_some() || self.moves() == moves {
                return Ok(found);
            }
        }
    }

    /// Calls `each` with the entries of a bucket: those that are in none of its words are missed, if links move meanwhile.
    fn bucket(&self, number: u64, each: &mut impl FnMut(Entry<'m>)) -> Result<(), Error> {
        let buckets = &self.buckets;
        let bucket = match buckets.known(number) {
            Some((bucket, _)) => bucket,
            None => buckets.unchecked(number)?.ok_or_else(|| buckets.body.damaged(number, 0))?,
        };
        for line in buckets.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if link.is_none() {
                    continue;
                }
                // (Of a bucket that is not trusted another's may be in it: moved there, or forged.)
                let is_own = |hash| bucket_of(hash, self.count()) == number;
                if let Some(entry) = buckets.shared_entry(link, bucket, is_own)? {
                    each(entry);
                }
            }
        }
        Ok(())
    }

    /// Returns how often links have moved. Read before all else, and again behind a word that held no link: the writer stores this in
    /// between.
    #[inline]
    fn moves(&self) -> u64 {
        self.buckets.body.head.get(at::MOVES)
    }

    #[inline]
    fn count(&self) -> u64 {
        self.buckets.count().min(MAX_BUCKETS)
    }
}

/// A visit of a reader. While it lasts, no entry that it finds is freed or changed.
pub struct MapVisit<'r, 'm, M: Machine, H: Hash = Xxh3> {
    reader: &'r MapReader<'m, M, H>,
    _inside: Inside<'m>,
}

impl<M: Machine, H: Hash> fmt::Debug for MapVisit<'_, '_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapVisit").field("reader", self.reader).finish_non_exhaustive()
    }
}

impl<M: Machine, H: Hash> MapVisit<'_, '_, M, H> {
    /// Returns the entry of a key. Two looks in one visit may find different ones: the writer goes on.
    ///
    /// # Errors
    /// As for [`Map::get`].
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry<'_>>, Error> {
        Ok(self.reader.find(key)?.map(|(entry, _)| entry))
    }

    /// Calls `each` with the entries of a bucket, and returns the cursor that leads on, as [`Map::scan`] does: what is in the map
    /// during the whole of a scan is seen at least once. What the writer moves meanwhile may be seen more often: an entry of a bucket
    /// once for each time that the bucket is split, which is when the map becomes twice as large.
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn scan(&self, cursor: u64, mut each: impl FnMut(Entry<'_>)) -> Result<u64, Error> {
        let reader = self.reader;
        if cursor >= reader.count() || reader.is_empty() {
            return Ok(0);
        }
        loop {
            let (moves, before) = (reader.moves(), reader.count());
            reader.bucket(cursor, &mut each)?;
            // What moved in other buckets was not missed in this one, and `each` may take as long as many moves.
            if reader.moves() == moves || !is_split(cursor, before, reader.count()) {
                break;
            }
        }
        Ok(if cursor + 1 >= reader.count() { 0 } else { cursor + 1 })
    }

    /// Calls `each` with every entry.
    ///
    /// Beside a writer that inserts faster than `each` is called it does not end. (`each` itself may be what inserts.)
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn for_each(&self, mut each: impl FnMut(Entry<'_>)) -> Result<(), Error> {
        let mut cursor = 0;
        loop {
            cursor = self.scan(cursor, &mut each)?;
            if cursor == 0 {
                return Ok(());
            }
        }
    }
}

/// An entry that a reader found, and the visit that it is good in.
#[derive(Debug)]
pub struct Visited<'m> {
    // (Copied out it would outlive the visit.)
    entry: Entry<'m>,
    noted: bool,
    _inside: Inside<'m>,
}

impl Visited<'_> {
    /// Returns the entry.
    #[inline]
    pub const fn entry(&self) -> Entry<'_> {
        self.entry
    }

    /// Returns whether its bucket had been looked at by the map, or its writer, in this kernel. If not, this look took longer, and so will
    /// others, as readers note nothing: [`MapWriter::map`] is to look for the key once ([`Map::contains`]), where the writer is at hand.
    #[inline]
    pub const fn is_noted(&self) -> bool {
        self.noted
    }

    /// Returns the key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        self.entry.key()
    }

    /// Returns the value.
    #[inline]
    pub fn value(&self) -> &[u8] {
        self.entry.value()
    }

    /// Returns the mark, as [`Entry::mark`] does.
    #[inline]
    pub fn mark(&self) -> u64 {
        self.entry.mark()
    }

    /// Changes the mark, as [`Entry::set_mark`] does. That of an entry that was replaced meanwhile is gone with it.
    #[inline]
    pub fn set_mark(&self, mark: u64) {
        self.entry.set_mark(mark);
    }

    /// Changes the mark if it is `expected` still, as [`Entry::replace_mark`] does. Returns whether it was.
    #[inline]
    pub fn replace_mark(&self, expected: u64, mark: u64) -> bool {
        self.entry.replace_mark(expected, mark)
    }
}
