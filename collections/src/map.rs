//! A hash map of byte strings that survives a jump.

use core::fmt;
use core::marker::PhantomData;

use heirloom_folio::Machine;
use heirloom_kho::Handle;
use heirloom_kho::narrow::low_u32;

use crate::body::Body;
use crate::buckets::{Bucket, Buckets, Found, MAX_BUCKETS, MIN_BUCKETS, bucket_of, parent_of};
use crate::entry::{Entry, NewEntry};
use crate::error::{Error, Field};
use crate::hasher::{Hash, Xxh3};
use crate::head::at;
use crate::link::Link;
use crate::object::kind;
use crate::pool::Pool;
use crate::word::Word;

/// What a map's head begins with: kind and version.
const KIND: u64 = u64::from_le_bytes(*b"hl-map\0\x01");
/// Entries for each bucket, above which a bucket is added.
const LOAD: u64 = 5;

/// A hash map from byte strings to byte strings, which owns both. Each insertion, replacement and removal happens at one store: a
/// successor finds it there or not there, and nothing else changed.
///
/// A map that was created is found by its [handle](Map::handle), which its owner publishes. In the successor it is opened: once, as
/// it is what owns the map from then on. Dropping the value leaves the map as it is.
///
/// Readers share the map, and a writer has it alone, as the borrow checker says: several threads with one map put it behind a
/// lock for readers and writers, or take a map for each part of the keys.
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
/// assert!(!map.insert(b"key", b"value")?);
/// assert!(map.insert(b"key", b"another")?);
/// assert_eq!(map.get(b"key")?.map(|entry| entry.value()), Some(&b"another"[..]));
/// assert!(map.remove(b"key")?);
/// assert!(map.is_empty());
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub struct Map<'p, M: Machine, H: Hash = Xxh3> {
    pub(crate) buckets: Buckets<'p, M>,
    seed: u64,
    hash: PhantomData<fn() -> H>,
}

impl<M: Machine, H: Hash> fmt::Debug for Map<'_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("head", &self.buckets.body.addr)
            .field("len", &self.len())
            .finish()
    }
}

impl<'p, M: Machine, H: Hash> Map<'p, M, H> {
    /// Creates an empty map. Its keys are hashed with `seed`, a number that is not to be known to whatever chooses the keys.
    ///
    /// Until its handle is in what survives, the map is one that no successor opens: it is told by
    /// [`Slabs::finish_inherited`](heirloom_slab::Slabs::finish_inherited) then.
    ///
    /// # Errors
    /// [`Error::Slab`]: out of memory.
    pub fn create(pool: &'p Pool<'p, M>, seed: u64) -> Result<Self, Error> {
        let words =
            [(at::KIND, KIND), (at::HASH, H::NAME), (at::SEED, seed), (at::SIZE, MIN_BUCKETS)];
        let body = Body::create(pool, &words)?;
        Ok(Self { buckets: Buckets { body }, seed, hash: PhantomData })
    }

    /// Opens the map of a handle that the predecessor left, and undoes what an operation had begun that did not happen: what it
    /// had allocated is freed. Costs the same however many entries there are.
    ///
    /// # Errors
    /// [`Error::Handle`], [`Error::Slab`]: no handle of a container, or one that was opened in this kernel before.
    /// [`Error::Mismatch`]: another container, hash or version. [`Error::Damaged`]: what was left is not sound. In the last two
    /// cases the head is claimed, and what it leads to stays as it is.
    pub fn open(pool: &'p Pool<'p, M>, handle: Handle) -> Result<Self, Error> {
        let words = [(at::KIND, Field::Kind, KIND), (at::HASH, Field::Hash, H::NAME)];
        let body = Body::open(pool, handle, &words)?;
        let seed = body.head.get(at::SEED);
        let map = Self { buckets: Buckets { body }, seed, hash: PhantomData };
        body.expect(Field::Size, MIN_BUCKETS..=MAX_BUCKETS, body.head.get(at::SIZE))?;
        map.recover()?;
        Ok(map)
    }

    /// Brings to an end what the predecessor had begun, or undoes it.
    fn recover(&self) -> Result<(), Error> {
        let (buckets, head) = (&self.buckets, self.buckets.body.head);
        buckets.body.recover(|word, link, object| {
            let linked = buckets.is_linked(link, object)?;
            // SAFETY: in use, and this map's.
            let is_entry = unsafe { Entry::in_object(object, link.bytes()) }.is_some();
            // What was to be linked is, or what was to be unlinked is not: the operation has happened.
            if is_entry && linked == (word == at::NEW) {
                head.set(at::LEN, head.get(at::AFTER));
            }
            Ok(linked)
        })?;
        // A bucket was being added, or was added, and its parent not cleared yet.
        let n = buckets.count();
        buckets.strip(n)?;
        if n > MIN_BUCKETS {
            buckets.tidy(parent_of(n - 1))?;
        }
        Ok(())
    }

    /// Returns the sixteen bytes by which a successor opens the map.
    pub const fn handle(&self) -> Handle {
        self.buckets.body.handle
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

    /// Returns the entry of a key.
    ///
    /// # Errors
    /// [`Error::Damaged`]: what the predecessor left is not sound. [`Error::Slab`]: out of memory for a cache, at the first use
    /// of a size in this kernel; or where nothing can be waited for.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Result<Option<Entry<'_>>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let hash = H::hash(self.seed, key);
        Ok(self.find(self.bucket(hash)?, hash, key)?.map(|found| found.entry))
    }

    /// Returns whether there is an entry of this key.
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }

    /// Returns the bucket of a hash.
    #[inline]
    fn bucket(&self, hash: u64) -> Result<Bucket<'p>, Error> {
        self.buckets.bucket(bucket_of(low_u32(hash), self.buckets.count()))
    }

    /// Returns the entry of a key, and the word that links it.
    #[inline]
    fn find(&self, bucket: Bucket<'p>, hash: u64, key: &[u8]) -> Result<Option<Found<'p>>, Error> {
        let is = |entry: Entry<'_>| entry.hash() == low_u32(hash) && entry.key() == key;
        self.buckets.find(bucket, hash, is)
    }

    /// Inserts an entry, or replaces the one of this key. Returns whether there was one.
    ///
    /// # Errors
    /// What was there is there still: [`Error::Slab`] ([out of memory](Error::is_out_of_memory)), [`Error::TooLong`]; and as
    /// for [`Map::get`].
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        self.insert_marked(key, value, 0)
    }

    /// Inserts an entry with this mark, as [`Map::insert`] does.
    ///
    /// # Errors
    /// As for [`Map::insert`].
    pub fn insert_marked(&mut self, key: &[u8], value: &[u8], mark: u64) -> Result<bool, Error> {
        let (buckets, hash) = (self.buckets, H::hash(self.seed, key));
        let head = buckets.body.head;
        let new = NewEntry { owner: buckets.body.owner(), hash: low_u32(hash), key, value, mark };
        let class = new.class()?;
        if self.is_empty() {
            buckets.make_room(0)?;
        }
        let bucket = self.bucket(hash)?;
        let there = self.find(bucket, hash, key)?;
        let (word, len) = match &there {
            Some(old) => (old.word, self.len()),
            None => (buckets.free_word(bucket)?, self.len().wrapping_add(1)),
        };
        head.set(at::AFTER, len);
        // SAFETY: the entry's bytes are of that class, and begin with the owner's words.
        let link = unsafe { buckets.body.alloc(class, |object| new.write(object)) }?;
        let Some(old) = there else {
            // Here it happens.
            word.set(link.tagged(hash).bits());
            head.set(at::LEN, len);
            head.set(at::NEW, 0);
            if len > buckets.count() * LOAD {
                // Without memory for one more, buckets grow longer.
                let _ = buckets.split();
            }
            return Ok(false);
        };
        head.set(at::OLD, old.link.bits());
        // Here it happens.
        word.set(link.tagged(hash).bits());
        head.set(at::NEW, 0);
        buckets.body.free(old.link, bucket.trust)?;
        head.set(at::OLD, 0);
        Ok(true)
    }

    /// Removes the entry of a key. Returns whether there was one.
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, Error> {
        if self.is_empty() {
            return Ok(false);
        }
        let hash = H::hash(self.seed, key);
        let bucket = self.bucket(hash)?;
        let Some(found) = self.find(bucket, hash, key)? else { return Ok(false) };
        self.unlink(found.word, found.link, bucket.trust)?;
        self.buckets.drop_lines(bucket)?;
        Ok(true)
    }

    /// Removes the entry that a word links.
    fn unlink(&self, word: &Word, link: Link, trust: bool) -> Result<(), Error> {
        let head = self.buckets.body.head;
        let len = self.len().wrapping_sub(1);
        head.set(at::AFTER, len);
        head.set(at::OLD, link.bits());
        // Here it happens.
        word.set(0);
        head.set(at::LEN, len);
        self.buckets.body.free(link, trust)?;
        head.set(at::OLD, 0);
        Ok(())
    }

    /// Calls `each` with a few entries, and returns the cursor that leads on: 0 once all were seen. A scan begins at cursor 0.
    ///
    /// What is in the map during the whole of a scan is seen at least once, whatever is inserted and removed between its calls;
    /// what was moved meanwhile may be seen twice. A cursor stays good in a successor.
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn scan(&self, cursor: u64, mut each: impl FnMut(Entry<'_>)) -> Result<u64, Error> {
        let buckets = &self.buckets;
        let n = buckets.count();
        if cursor >= n || self.is_empty() {
            return Ok(0);
        }
        let bucket = buckets.bucket(cursor)?;
        for line in buckets.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if !link.is_none() {
                    each(buckets.entry(link, bucket)?);
                }
            }
        }
        Ok(if cursor + 1 == n { 0 } else { cursor + 1 })
    }

    /// Calls `each` with the entries of one bucket, which `random` chooses: to find one to evict, say. With none, if the map
    /// is empty; otherwise of the first bucket from there on that has some.
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn sample(&self, random: u64, mut each: impl FnMut(Entry<'_>)) -> Result<(), Error> {
        let n = self.buckets.count();
        let (mut at, mut seen) = (random % n, 0_u32);
        for _ in 0..n {
            self.scan(at, |entry| {
                seen += 1;
                each(entry);
            })?;
            if seen > 0 || self.is_empty() {
                break;
            }
            at = if at + 1 == n { 0 } else { at + 1 };
        }
        Ok(())
    }

    /// Calls `each` with every entry.
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

    /// Removes the entries for which `keep` returns `false`, one after the other.
    ///
    /// # Errors
    /// As for [`Map::get`]; what was removed by then is.
    pub fn retain(&mut self, mut keep: impl FnMut(Entry<'_>) -> bool) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let buckets = self.buckets;
        for bucket in 0..buckets.count() {
            let bucket = buckets.bucket(bucket)?;
            for line in buckets.lines(bucket) {
                for word in line?.links() {
                    let link = Link::from_bits(word.get());
                    if !link.is_none() && !keep(buckets.entry(link, bucket)?) {
                        self.unlink(word, link, bucket.trust)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes all entries, one after the other, and then the buckets.
    ///
    /// # Errors
    /// As for [`Map::retain`].
    pub fn clear(&mut self) -> Result<(), Error> {
        self.retain(|_| false)?;
        let buckets = &self.buckets;
        for bucket in 0..buckets.count() {
            if let Some(bucket) = buckets.unchecked(bucket)? {
                buckets.drop_lines(bucket)?;
            }
        }
        // All lines hold zeroes by now, as those beyond the last bucket do.
        buckets.body.head.set(at::SIZE, MIN_BUCKETS);
        buckets.body.trim(0, kind::SEGMENT)
    }

    /// Frees the map.
    ///
    /// # Errors
    /// As for [`Map::clear`]; what is left can be opened by the next kernel.
    pub fn destroy(mut self) -> Result<(), Error> {
        self.clear()?;
        let body = self.buckets.body;
        // SAFETY: this value's, which ends, and nothing leads from it to anything.
        unsafe { body.pool.free_head(body.addr) };
        Ok(())
    }
}

impl<M: Machine, H: Hash> Drop for Map<'_, M, H> {
    fn drop(&mut self) {
        // SAFETY: the value's own, which ends.
        unsafe { self.buckets.body.close() };
    }
}

#[cfg(test)]
mod tests;
