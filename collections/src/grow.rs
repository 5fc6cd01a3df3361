//! How a map's buckets grow: segments, lines and pages are added, a bucket takes what belongs to it of its parent, and lines that
//! are empty are freed.
//!
//! ```text
//!   split   link in bucket n what is to move   n + 1 buckets   clear it in the parent   close up
//!             (a successor strips bucket n)         ^            (a successor tidies the parent)
//!                                              here it happens
//! ```

use heirloom_folio::Machine;
use heirloom_kho::narrow::u32_to_u64;

use crate::buckets::{Bucket, Buckets, MAX_BUCKETS, bucket_of, mask_of, parent_of};
use crate::class::Class;
use crate::entry::Entry;
use crate::error::Error;
use crate::head::at;
use crate::index::Looked;
use crate::line::{LINE_BYTES, LINES, Line};
use crate::link::Link;
use crate::object::{Object, kind};
use crate::retire::{Now, Retire};
use crate::word::Word;

impl<'p, M: Machine> Buckets<'p, M> {
    /// Adds a line to a bucket whose last line this is.
    pub(crate) fn add_line(&self, bucket: u64, last: Line<'_>) -> Result<(), Error> {
        let class = Class::fitting(LINE_BYTES).unwrap_or(Class::SEGMENT);
        self.body.grow(class, kind::LINE, bucket, last.next())
    }

    /// Makes room for bucket `bucket`, whose line holds zeroes then.
    pub(crate) fn make_room(&self, bucket: u64) -> Result<(), Error> {
        let segment = bucket / LINES;
        if self.body.add_part(segment, kind::SEGMENT)? {
            // It holds zeroes, which lead to nothing else's.
            self.find_segment(segment, true)?;
        }
        Ok(())
    }

    /// Returns a word of a bucket that is free, in a line that may be new.
    pub(crate) fn free_word(&self, bucket: Bucket<'p>) -> Result<&'p Word, Error> {
        if let Some(free) = bucket.line.links().find(|word| word.get() == 0) {
            return Ok(free);
        }
        let mut last = bucket.line;
        for line in self.lines(bucket).skip(1) {
            last = line?;
            if let Some(free) = last.links().find(|word| word.get() == 0) {
                return Ok(free);
            }
        }
        self.add_line(bucket.number, last)?;
        let added = self.next_line(Link::from_bits(last.next().get()), bucket.number, true)?;
        added.links().next().ok_or_else(|| self.body.damaged(bucket.number, 0))
    }

    /// Adds a bucket, and moves to it what belongs there. Changes nothing that can be seen, but that there is room.
    ///
    /// # Errors
    /// As for an insertion; the map is as it was.
    pub(crate) fn split<R: Retire>(&self, retire: &mut R) -> Result<(), Error> {
        let n = self.count();
        if n >= MAX_BUCKETS {
            return Ok(());
        }
        let parent = self.bucket(parent_of(n))?;
        self.make_room(n)?;
        let line = self.line(n)?.ok_or_else(|| self.body.damaged(n, 0))?;
        if !line.is_empty() || line.next().get() != 0 {
            // Zeroes, but for what a predecessor forged, or for what could not be stripped: never part of a bucket that is trusted.
            self.strip(n, retire)?;
        }
        let known = self.tags(n);
        if let Some(tags) = known {
            // What a bucket that is not trusted leaves to this one, this one is to be looked at for.
            tags.set(if parent.is_trusted() { Looked::EMPTY } else { Looked::NOTHING });
        }
        let tags = if parent.is_trusted() { known } else { None };
        let new = Bucket { number: n, line, tags };
        let moved = match self.link_moved(new, parent) {
            Ok(moved) => moved,
            Err(error) => {
                // What was linked there so far is in its parent too.
                self.strip(n, retire)?;
                return Err(error);
            }
        };
        self.body.head.set(at::SIZE, n + 1);
        self.clear_moved(parent, n, moved, retire)
    }

    /// Tells readers that a link is where it was not before, and will not be where it was: those that did not find theirs look again.
    /// They read this behind a word that was cleared, and it is stored before.
    fn note_move(&self) {
        let head = self.body.head;
        head.set(at::MOVES, head.get(at::MOVES).wrapping_add(1));
    }

    /// Returns which links of a line of `parent` belong to bucket `n`, of n + 1: a bit for each place.
    ///
    /// Half of them do, and no processor foresees which: so there is no branch on it, and the entries are asked for together.
    fn moved(&self, line: Line<'p>, parent: Bucket<'p>, n: u64) -> Result<u8, Error> {
        let (mask, mut moved) = (mask_of(n + 1), 0);
        for (place, word) in line.links().enumerate() {
            let to = Link::from_bits(word.get());
            let hash = if parent.is_trusted() {
                let ptr = if to.is_none() { self.body.head.ptr() } else { self.body.pool.ptr(to) };
                // SAFETY: an entry of this map, found to be one before, or its head, which has a second word, too.
                unsafe { Entry::at(ptr) }.hash()
            } else if to.is_none() {
                continue;
            } else {
                self.entry(to, parent)?.hash()
            };
            // (No other hash of the parent has the highest bit of n.)
            moved |= u8::from(u32_to_u64(hash) & mask == n && !to.is_none()) << place;
        }
        Ok(moved)
    }

    /// Links in bucket `new`, which is none yet, what belongs to it of its parent. Returns which links of the parent's line do.
    fn link_moved(&self, new: Bucket<'p>, parent: Bucket<'p>) -> Result<u8, Error> {
        let mut first = None;
        for line in self.lines(parent) {
            let line = line?;
            let moved = self.moved(line, parent, new.number)?;
            for word in line.those(moved) {
                new.set(self.free_word(new)?, Link::from_bits(word.get()));
            }
            first.get_or_insert(moved);
        }
        Ok(first.unwrap_or(0))
    }

    /// Clears in a parent what is linked in bucket `n` now; `moved` says which links of its line are.
    fn clear_moved<R: Retire>(
        &self,
        parent: Bucket<'p>,
        n: u64,
        moved: u8,
        retire: &mut R,
    ) -> Result<(), Error> {
        self.note_move();
        parent.line.those(moved).for_each(|word| parent.set(word, Link::NONE));
        if parent.line.next().get() == 0 {
            return Ok(());
        }
        for line in self.lines(parent).skip(1) {
            let line = line?;
            let moved = self.moved(line, parent, n)?;
            line.those(moved).for_each(|word| parent.set(word, Link::NONE));
        }
        self.close_up(parent, retire)
    }

    /// Clears a bucket that is none yet, and frees its lines but the first.
    pub(crate) fn strip<R: Retire>(&self, bucket: u64, retire: &mut R) -> Result<(), Error> {
        let Some(bucket) = self.unchecked(bucket)? else { return Ok(()) };
        if let Some(tags) = self.tags(bucket.number) {
            tags.set(Looked::NOTHING);
        }
        for line in self.lines(bucket) {
            line?.links().filter(|word| word.get() != 0).for_each(|word| word.set(0));
        }
        // (A reader that counted the buckets before they were cleared may look at one that is none yet.)
        self.drop_lines(bucket, retire)
    }

    /// Clears in a bucket what belongs to another, and the second of what was being moved and is there twice; then closes it up.
    /// Looks at each link once.
    pub(crate) fn tidy(&self, bucket: u64) -> Result<(), Error> {
        let n = self.count();
        let Some(bucket) = self.unchecked(bucket)? else { return Ok(()) };
        let (moved, mut seen) = (Link::from_bits(self.body.head.get(at::MOVED)), false);
        for line in self.lines(bucket) {
            for word in line?.links() {
                let link = Link::from_bits(word.get());
                if link.is_none() {
                    continue;
                }
                let is_moved = link.same_object(moved);
                if is_moved && seen
                    || bucket_of(self.entry(link, bucket)?.hash(), n) != bucket.number
                {
                    word.set(0);
                }
                seen |= is_moved;
            }
        }
        self.close_up(bucket, &mut Now)
    }

    /// Moves links of a bucket to where words are free in lines before, and frees the lines that are empty then.
    fn close_up<R: Retire>(&self, bucket: Bucket<'p>, retire: &mut R) -> Result<(), Error> {
        let head = self.body.head;
        // What is behind this one is looked at once: no word is free before it.
        let mut free = self.words(bucket).peekable();
        for line in self.lines(bucket).skip(1) {
            for word in line?.links() {
                let bits = word.get();
                if bits == 0 {
                    continue;
                }
                let in_use = |before: &Result<&Word, Error>| {
                    before.is_ok_and(|before| before.get() != 0 && !core::ptr::eq(before, word))
                };
                while free.next_if(in_use).is_some() {}
                let Some(before) = free.peek() else { continue };
                let before = (*before)?;
                // (Or it is this one.)
                if before.get() == 0 {
                    // For a moment it is there twice.
                    head.set(at::MOVED, bits);
                    bucket.set(before, Link::from_bits(bits));
                    self.note_move();
                    bucket.set(word, Link::NONE);
                }
            }
        }
        if head.get(at::MOVED) != 0 {
            head.set(at::MOVED, 0);
        }
        self.drop_lines(bucket, retire)
    }

    /// Returns the words of a bucket's links, the first first, until an error.
    fn words(&self, bucket: Bucket<'p>) -> impl Iterator<Item = Result<&'p Word, Error>> {
        self.lines(bucket).flat_map(|line| {
            let (words, error) = match line {
                Ok(line) => (Some(line.links().map(Ok)), None),
                Err(error) => (None, Some(Err(error))),
            };
            words.into_iter().flatten().chain(error)
        })
    }

    /// Frees the lines of a bucket that are empty, but the first.
    #[inline]
    pub(crate) fn drop_lines<R: Retire>(
        &self,
        bucket: Bucket<'p>,
        retire: &mut R,
    ) -> Result<(), Error> {
        if bucket.line.next().get() == 0 {
            return Ok(());
        }
        self.drop_lines_slow(bucket, retire)
    }

    #[cold]
    fn drop_lines_slow<R: Retire>(&self, bucket: Bucket<'p>, retire: &mut R) -> Result<(), Error> {
        if !bucket.is_trusted() {
            // They end, and each is the map's.
            self.lines(bucket).try_for_each(|line| line.map(drop))?;
        }
        let mut last = bucket.line;
        loop {
            let link = Link::from_bits(last.next().get());
            if link.is_none() {
                return Ok(());
            }
            let next = self.next_line(link, bucket.number, bucket.is_trusted())?;
            if !next.is_empty() {
                last = next;
                continue;
            }
            let place = retire.reserve(&self.body)?;
            self.body.head.set(at::OLD, link.bits());
            // (A reader in this line goes on from it as from the one before.)
            last.next().set(next.next().get());
            self.note(bucket);
            // SAFETY: a line of this map, which was checked before and has atomic words; unlinked just now. `place` was reserved for it.
            unsafe {
                let object = Object::at(self.body.pool.ptr(link));
                retire.retire(&self.body, place, link, object)?;
            }
            self.body.head.set(at::OLD, 0);
        }
    }
}
