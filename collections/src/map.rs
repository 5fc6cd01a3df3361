//! A hash map of byte strings that survives a jump.

use core::fmt;
use core::marker::PhantomData;

use heirloom_folio::Machine;
use heirloom_kho::Handle;
use heirloom_kho::narrow::low_u32;

use crate::body::Body;
use crate::buckets::{
    Bucket, Buckets, Found, MAX_BUCKETS, MIN_BUCKETS, bucket_by, mask_of, parent_of,
};
use crate::deferred;
use crate::entry::{Entry, NewEntry};
use crate::error::{Error, Field};
use crate::hasher::{Hash, Xxh3};
use crate::head::at;
use crate::link::Link;
use crate::pool::Pool;
use crate::readers::Noted;
use crate::retire::{Now, Place, Retire};

/// What a map's head begins with: kind and version.
pub const KIND: u64 = u64::from_le_bytes(*b"hl-map\0\x02");
/// What the head of a map begins with while it is [cleared](Map::clear): it has no entry, whatever is linked still. A build that does
/// not know this word refuses the map, rather than find some of what was there.
pub const CLEARED: u64 = u64::from_le_bytes(*b"hl-map\xff\x02");
/// Entries for each bucket, above which a bucket is added.
const LOAD: u64 = 5;

/// A hash map from byte strings to byte strings, which owns both. Each insertion, replacement and removal happens at one store: a
/// successor finds it there or not there, and nothing else changed.
///
/// A map that was created is found by its [handle](Map::handle), which its owner publishes. In the successor it is opened: once, as
/// it is what owns the map from then on. Dropping the value leaves the map as it is.
///
/// Readers share the map, and a writer has it alone, as the borrow checker says. [`Map::split`] makes a writer and readers of it
/// that go on beside one another: on several threads, say, and without a lock.
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
    /// What counts readers beside a writer, once there were some.
    pub(crate) readers: Option<Noted>,
    /// How many buckets there are, and their [mask](mask_of).
    count: u64,
    mask: u64,
    pub(crate) seed: u64,
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
        let (count, mask) = (MIN_BUCKETS, mask_of(MIN_BUCKETS));
        let buckets = Buckets { body };
        Ok(Self { buckets, readers: None, count, mask, seed, hash: PhantomData })
    }

    /// Opens the map of a handle that the predecessor left, and undoes what an operation had begun that did not happen: what it
    /// had allocated is freed. Costs the same however many entries there are, but where a [clear](Map::clear) is to be brought to its end.
    ///
    /// # Errors
    /// [`Error::Handle`], [`Error::Slab`]: no handle of a container, or one that was opened in this kernel before; out of memory.
    /// [`Error::Mismatch`]: another container, hash or version. Then nothing is claimed: it can be opened as what it is, or with
    /// more memory, and is told with what is unclaimed. [`Error::Damaged`]: what was left is not sound. The head is claimed then, and
    /// what it leads to stays as it is.
    pub fn open(pool: &'p Pool<'p, M>, handle: Handle) -> Result<Self, Error> {
        let words = |kind| [(at::KIND, Field::Kind, kind), (at::HASH, Field::Hash, H::NAME)];
        let body = match Body::open(pool, handle, &words(KIND)) {
            Err(Error::Mismatch { field: Field::Kind, found: CLEARED, .. }) => {
                Body::open(pool, handle, &words(CLEARED))
            }
            body => body,
        }?;
        // SAFETY: the value that had a copy of the body was dropped with the error, and this one is not used again.
        Self::opened(body).map_err(|error| unsafe { body.not_opened(error) })
    }

    /// Returns the map of a body that was opened.
    fn opened(body: Body<'p, M>) -> Result<Self, Error> {
        let seed = body.head.get(at::SEED);
        let buckets = Buckets { body };
        let count = buckets.count().min(MAX_BUCKETS);
        let mask = mask_of(count);
        let mut map = Self { buckets, readers: None, count, mask, seed, hash: PhantomData };
        body.expect(Field::Size, MIN_BUCKETS..=MAX_BUCKETS, body.head.get(at::SIZE))?;
        map.recover()?;
        Ok(map)
    }

    /// Brings to an end what the predecessor had begun, or undoes it.
    fn recover(&mut self) -> Result<(), Error> {
        let (buckets, head) = (self.buckets, self.buckets.body.head);
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
        deferred::recover(&buckets.body, |link, object| buckets.is_linked(link, object))?;
        // A bucket was being added, or was added, and its parent not cleared yet.
        let n = buckets.count();
        buckets.strip(n, &mut Now)?;
        if n > MIN_BUCKETS {
            buckets.tidy(parent_of(n - 1))?;
        }
        if head.get(at::KIND) == CLEARED { self.clear() } else { Ok(()) }
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
        let hash = H::hash(self.seed, key);
        let number = self.bucket_of(hash);
        match self.buckets.known(number) {
            Some(known) => {
                let found = self.buckets.find(known, hash, key);
                // (A clear that was refused leaves some linked.)
                Ok(found.filter(|_| !self.is_empty()).map(|found| found.entry))
            }
            None if self.is_empty() => Ok(None),
            None => Ok(self.find_first(number, hash, key)?.map(|found| found.entry)),
        }
    }

    /// Returns whether there is an entry of this key.
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }

    /// Notes how many buckets there are.
    pub(crate) fn recount(&mut self) {
        self.count = self.buckets.count();
        self.mask = mask_of(self.count);
    }

    /// Returns which bucket a hash belongs to.
    #[inline]
    fn bucket_of(&self, hash: u64) -> u64 {
        bucket_by(low_u32(hash), self.count, self.mask)
    }

    /// Returns the entry of a key, in a bucket that was not looked at in this kernel, or cannot be noted.
    #[cold]
    #[inline(never)]
    fn find_first(&self, number: u64, hash: u64, key: &[u8]) -> Result<Option<Found<'p>>, Error> {
        let bucket = self.buckets.bucket_slow(number)?;
        self.buckets.find_slow(bucket, hash, key)
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
        self.insert_by(&mut Now, key, value, mark)
    }

    /// Inserts an entry; what it replaces is freed as `retire` does.
    #[inline]
    pub(crate) fn insert_by<R: Retire>(
        &mut self,
        retire: &mut R,
        key: &[u8],
        value: &[u8],
        mark: u64,
    ) -> Result<bool, Error> {
        let (buckets, hash) = (self.buckets, H::hash(self.seed, key));
        let head = buckets.body.head;
        let new = NewEntry { owner: buckets.body.owner(), hash: low_u32(hash), key, value, mark };
        let class = new.class()?;
        if self.is_empty() {
            self.make_first_room(retire)?;
        }
        let (bucket, there) = self.find(hash, key)?;
        let (word, len, place) = match &there {
            Some(old) => (old.word, self.len(), self.reserve(retire, bucket, old)?),
            None => (buckets.free_word(bucket)?, self.len().wrapping_add(1), None),
        };
        head.set(at::AFTER, len);
        // SAFETY: the entry's bytes are of that class, and begin with the owner's words.
        let link = unsafe { buckets.body.alloc(class, |object| new.write(object)) }?;
        let Some(old) = there else {
            // Here it happens.
            bucket.set(word, link.tagged(hash));
            head.set(at::LEN, len);
            head.set(at::NEW, 0);
            if len > self.count * LOAD {
                // Without memory for one more, buckets grow longer.
                let _ = buckets.split(retire);
                self.recount();
            }
            return Ok(false);
        };
        head.set(at::OLD, old.link.bits());
        // Here it happens.
        bucket.set(word, link.tagged(hash));
        head.set(at::NEW, 0);
        // SAFETY: found in the map just now, and unlinked; the place was reserved for it.
        unsafe { retire.retire(&buckets.body, place, old.link, old.entry.object()) }?;
        head.set(at::OLD, 0);
        Ok(true)
    }

    /// Removes the entry of a key. Returns whether there was one.
    ///
    /// # Errors
    /// As for [`Map::get`].
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, Error> {
        self.remove_by(&mut Now, key)
    }

    /// Removes the entry of a key, which is freed as `retire` does.
    #[inline]
    pub(crate) fn remove_by<R: Retire>(
        &mut self,
        retire: &mut R,
        key: &[u8],
    ) -> Result<bool, Error> {
        if self.is_empty() {
            return Ok(false);
        }
        let hash = H::hash(self.seed, key);
        let (bucket, Some(found)) = self.find(hash, key)? else { return Ok(false) };
        self.unlink_one(retire, bucket, &found)?;
        Ok(true)
    }

    /// Removes an entry of a bucket, and the lines that are needed no more.
    #[inline]
    pub(crate) fn unlink_one<R: Retire>(
        &self,
        retire: &mut R,
        bucket: Bucket<'p>,
        found: &Found<'p>,
    ) -> Result<(), Error> {
        self.unlink(retire, bucket, found)?;
        if bucket.line.place_of(found.word).is_none() {
            // It has happened: lines that cannot be freed now are later.
            let _ = self.buckets.drop_lines(bucket, retire);
        }
        Ok(())
    }

    /// Returns the bucket of a hash, and the entry of a key in it.
    #[inline]
    fn find(&self, hash: u64, key: &[u8]) -> Result<(Bucket<'p>, Option<Found<'p>>), Error> {
        let (buckets, number) = (self.buckets, self.bucket_of(hash));
        if let Some(known) = buckets.known(number) {
            return Ok((known.0, buckets.find(known, hash, key)));
        }
        let bucket = buckets.bucket_slow(number)?;
        Ok((bucket, buckets.find_slow(bucket, hash, key)?))
    }

    /// Makes sure that an entry can be named until it is freed, and that one store unlinks it.
    #[inline]
    fn reserve<R: Retire>(
        &self,
        retire: &mut R,
        bucket: Bucket<'p>,
        found: &Found<'p>,
    ) -> Result<Place<'p>, Error> {
        // Without readers, what is found later to lead to nothing in use is refused then.
        if R::SHARED && !bucket.is_trusted() {
            self.buckets.clear_others(bucket, found.link, found.word)?;
        }
        retire.reserve(&self.buckets.body)
    }

    /// Removes an entry of a bucket.
    #[inline]
    pub(crate) fn unlink<R: Retire>(
        &self,
        retire: &mut R,
        bucket: Bucket<'p>,
        found: &Found<'p>,
    ) -> Result<(), Error> {
        self.unlink_leaving(retire, bucket, found, self.len().wrapping_sub(1))
    }

    /// Removes an entry of a bucket, which leaves so many.
    #[inline]
    pub(crate) fn unlink_leaving<R: Retire>(
        &self,
        retire: &mut R,
        bucket: Bucket<'p>,
        found: &Found<'p>,
        len: u64,
    ) -> Result<(), Error> {
        let place = self.reserve(retire, bucket, found)?;
        let head = self.buckets.body.head;
        head.set(at::AFTER, len);
        head.set(at::OLD, found.link.bits());
        // Here it happens.
        bucket.set(found.word, Link::NONE);
        head.set(at::LEN, len);
        // SAFETY: found in the map just now, and unlinked; the place was reserved for it.
        unsafe { retire.retire(&self.buckets.body, place, found.link, found.entry.object()) }?;
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
    pub fn retain(&mut self, keep: impl FnMut(Entry<'_>) -> bool) -> Result<(), Error> {
        self.retain_by(&mut Now, keep)
    }

    /// Removes the entries for which `keep` returns `false`, which are freed as `retire` does.
    pub(crate) fn retain_by<R: Retire>(
        &mut self,
        retire: &mut R,
        mut keep: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let buckets = self.buckets;
        for bucket in 0..buckets.count() {
            let bucket = buckets.bucket(bucket)?;
            for line in buckets.lines(bucket) {
                for word in line?.links() {
                    let link = Link::from_bits(word.get());
                    if link.is_none() {
                        continue;
                    }
                    let entry = buckets.own_entry(link, bucket)?;
                    if !keep(entry) {
                        self.unlink(retire, bucket, &Found { word, link, entry })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Frees the map.
    ///
    /// # Errors
    /// As for [`Map::clear`]; what is left can be opened by the next kernel.
    pub fn destroy(mut self) -> Result<(), Error> {
        let body = self.buckets.body;
        deferred::end_split(&body, &mut self.readers)?;
        self.clear()?;
        // SAFETY: this value's, which ends, and nothing leads from it to anything.
        unsafe { body.pool.free_head(body.addr) };
        Ok(())
    }
}

impl<M: Machine, H: Hash> Drop for Map<'_, M, H> {
    fn drop(&mut self) {
        // (What cannot be freed is named still, and a successor frees it.)
        let _ = deferred::end_split(&self.buckets.body, &mut self.readers);
        // SAFETY: the value's own, which ends, and all buckets with it.
        unsafe {
            self.buckets.forget(0);
            self.buckets.body.close();
        }
    }
}

#[cfg(test)]
mod tests;
