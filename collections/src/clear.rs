//! Clearing a map: at one store, whatever it holds.
//!
//! ```text
//!   kind: cleared, no entries   buckets emptied, one by one   16 buckets   segments freed   kind: a map
//!            ^                                                                                 ^
//!     here it happens            (a successor that finds the word goes through all of it again)
//! ```
//!
//! Beside readers the segments wait until those have left that counted more buckets: see [`MapWriter::reclaim`](crate::MapWriter::reclaim).

use heirloom_folio::Machine;
use heirloom_kho::narrow::u64_to_usize;

use crate::buckets::{Bucket, Found, MIN_BUCKETS};
use crate::error::Error;
use crate::hasher::Hash;
use crate::head::at;
use crate::line::LINES;
use crate::link::Link;
use crate::map::{CLEARED, KIND, Map};
use crate::retire::{Now, Retire};

impl<'p, M: Machine, H: Hash> Map<'p, M, H> {
    /// Makes room for the first entry, where a clear that was refused is brought to its end: what is inserted stays.
    #[cold]
    pub(crate) fn make_first_room<R: Retire>(&mut self, retire: &mut R) -> Result<(), Error> {
        if self.buckets.body.head.get(at::KIND) == CLEARED {
            self.clear_by(retire)?;
        }
        self.buckets.make_room(0)
    }

    /// Removes all entries at one store, and gives back their memory and the buckets'. A successor finds all of them, or none: then it
    /// frees what is left, as it [opens](Map::open) the map.
    ///
    /// # Errors
    /// As for [`Map::get`]. The map is empty if it was refused behind that store; what is left in memory is freed by the next call, the
    /// next insertion, or a successor.
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
    /// map.clear()?;
    /// assert!(map.is_empty() && map.get(b"key")?.is_none());
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn clear(&mut self) -> Result<(), Error> {
        let cleared = self.clear_by(&mut Now);
        if cleared.is_err() && self.is_empty() {
            // What is linked still is found by no look at a bucket that is not known, as there is no entry.
            // SAFETY: the map is borrowed alone: no bucket that was returned before is used again.
            unsafe { self.buckets.forget(0) };
        }
        cleared
    }

    /// Removes all entries at one store, and frees them as `retire` does; and the buckets, if there are no readers.
    pub(crate) fn clear_by<R: Retire>(&mut self, retire: &mut R) -> Result<(), Error> {
        let (buckets, head) = (self.buckets, self.buckets.body.head);
        // (What a split had begun when it was refused.)
        buckets.strip(buckets.count(), retire)?;
        // Here it happens.
        head.set(at::KIND, CLEARED);
        head.set(at::LEN, 0);
        let n = buckets.count();
        for first in (0..n).step_by(u64_to_usize(LINES)) {
            // (A predecessor may have freed segments.)
            if buckets.line(first)?.is_some() {
                for number in first..n.min(first + LINES) {
                    self.empty(retire, buckets.bucket(number)?)?;
                }
            }
        }
        // All lines hold zeroes by now, as those beyond the last bucket do.
        head.set(at::SIZE, MIN_BUCKETS);
        retire.shrunk();
        self.recount();
        if !R::SHARED {
            // SAFETY: the map is borrowed alone, and no bucket is used from here on.
            unsafe { buckets.trim(0) }?;
        }
        head.set(at::KIND, KIND);
        Ok(())
    }

    /// Unlinks the entries and lines of a bucket of a map that is being cleared.
    fn empty<R: Retire>(&self, retire: &mut R, bucket: Bucket<'p>) -> Result<(), Error> {
        let buckets = self.buckets;
        for line in buckets.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if !link.is_none() {
                    let entry = buckets.own_entry(link, bucket)?;
                    self.unlink_leaving(retire, bucket, &Found { word, link, entry }, 0)?;
                }
            }
        }
        buckets.drop_lines(bucket, retire)
    }
}
