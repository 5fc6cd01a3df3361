//! Room for an entry: another of its size goes.
//!
//! ```text
//!   bucket, bucket, bucket, …     from one on that a random number chooses, until there are enough entries of the class
//!            │
//!            └─ entry ── idle ──> no number: it goes
//!                                 of the class, and idle longest of those: it goes when all were looked at
//! ```
//!
//! Memory that an entry leaves is for entries of its class, until a whole slab of them is free. So it is one of the class that goes.

use heirloom_folio::Machine;

use crate::buckets::Found;
use crate::class::Class;
use crate::entry::{Entry, HEADER};
use crate::error::Error;
use crate::hasher::Hash;
use crate::link::Link;
use crate::map::Map;
use crate::retire::{Now, Retire};

/// Entries of the class among which one is chosen, and buckets that have entries, in which they are looked for: at most.
const CANDIDATES: u32 = 5;
const BUCKETS: u32 = 64;

impl<M: Machine, H: Hash> Map<'_, M, H> {
    /// Removes an entry to make room for a new one, of `bytes` bytes of key and value together. Looks at a few entries, from where
    /// `random` says: those of which `idle` returns nothing are removed; of those that take as much memory as the new one will, the
    /// one of which it returns the most is. Returns whether there was one of these.
    ///
    /// # Errors
    /// As for [`Map::remove`]; what was removed by then is.
    ///
    /// # Examples
    /// Marks say when an entry was used: the one that was not for longest goes.
    /// ```
    /// use heirloom_collections::{Map, Pool};
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::Slabs;
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let pool = Pool::open(&slabs)?;
    /// let mut map = Map::<_>::create(&pool, 0x5eed)?;
    /// map.insert_marked(b"older", b"value", 1)?;
    /// map.insert_marked(b"newer", b"value", 2)?;
    /// let now = 3;
    /// assert!(map.evict(b"other".len() + b"value".len(), 0, |entry| Some(now - entry.mark()))?);
    /// assert!(map.contains(b"newer")? && !map.contains(b"older")?);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn evict(
        &mut self,
        bytes: usize,
        random: u64,
        idle: impl FnMut(Entry<'_>) -> Option<u64>,
    ) -> Result<bool, Error> {
        self.evict_by(&mut Now, bytes, random, idle)
    }

    /// Makes room for an entry; what goes is freed as `retire` does.
    pub(crate) fn evict_by<R: Retire>(
        &mut self,
        retire: &mut R,
        bytes: usize,
        random: u64,
        mut idle: impl FnMut(Entry<'_>) -> Option<u64>,
    ) -> Result<bool, Error> {
        let (buckets, n) = (self.buckets, self.buckets.count());
        let class = bytes.checked_add(HEADER).and_then(Class::fitting);
        let (mut seen, mut left, mut longest) = (0, BUCKETS, None);
        for at in 0..n {
            if self.is_empty() || seen >= CANDIDATES || left == 0 {
                break;
            }
            let (bucket, mut has_entries) = (buckets.bucket((random % n + at) % n)?, false);
            for line in buckets.lines(bucket) {
                for word in line?.links() {
                    let link = Link::from_bits(word.get());
                    if link.is_none() {
                        continue;
                    }
                    has_entries = true;
                    let entry = buckets.own_entry(link, bucket)?;
                    let Some(idle) = idle(entry) else {
                        self.unlink(retire, bucket, &Found { word, link, entry })?;
                        // (A forged bucket may lead to it twice.)
                        longest = longest.filter(|(.., found): &(_, _, Found<'_>)| {
                            !found.link.same_object(link)
                        });
                        continue;
                    };
                    if link.class() == class {
                        seen += 1;
                        if longest.as_ref().is_none_or(|(before, ..)| *before < idle) {
                            longest = Some((idle, bucket, Found { word, link, entry }));
                        }
                    }
                }
            }
            left -= u32::from(has_entries);
        }
        let Some((_, bucket, found)) = longest else { return Ok(false) };
        self.unlink_one(retire, bucket, &found)?;
        Ok(true)
    }
}
