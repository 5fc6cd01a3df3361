//! A log's readers beside its writer: records do not move, and what lies before a segment's end is not written again.

use core::fmt;

use heirloom_folio::Machine;

use crate::body::Body;
use crate::deferred::{self, Later};
use crate::error::Error;
use crate::log::{Log, Records};
use crate::readers::{Inside, Readers};

impl<'p, M: Machine> Log<'p, M> {
    /// Splits the log into its writer and a reader, which go on beside one another: on several threads, say. The reader is cloned
    /// for more of them.
    ///
    /// Readers take no lock and wait for nothing. A segment from which the writer has removed all is freed once the readers have
    /// left that may look at it; a successor frees it where the kernel ends before.
    ///
    /// # Errors
    /// [`Error::Slab`]: out of memory for four kibibytes that end with the log's value.
    ///
    /// # Examples
    /// ```
    /// use heirloom_collections::{Log, Pool};
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_slab::Slabs;
    ///
    /// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
    /// let pool = Pool::open(&slabs)?;
    /// let mut log = Log::create(&pool)?;
    /// let (mut writer, reader) = log.split()?;
    /// writer.append(b"first")?;
    /// let visit = reader.enter();
    /// let mut records = visit.records()?;
    /// assert_eq!(records.next().transpose()?, Some((0, &b"first"[..])));
    /// writer.append(b"second")?;
    /// writer.pop_front()?;
    /// assert_eq!(records.next().transpose()?, Some((1, &b"second"[..])));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn split(&mut self) -> Result<(LogWriter<'_, 'p, M>, LogReader<'_, M>), Error> {
        let body = self.body;
        // SAFETY: the writer keeps the log borrowed, and neither splits it again nor ends it.
        let readers = unsafe { deferred::begin_split(&body, &mut self.readers) }?;
        let reader = LogReader { body, readers, slot: readers.join() };
        Ok((LogWriter { log: self, later: Later::new(readers) }, reader))
    }
}

/// The writer of a [split](Log::split) log: it appends and removes records while readers look at them.
pub struct LogWriter<'l, 'p, M: Machine> {
    log: &'l mut Log<'p, M>,
    later: Later<'l>,
}

impl<M: Machine> fmt::Debug for LogWriter<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").field("log", &self.log).finish_non_exhaustive()
    }
}

impl<'p, M: Machine> LogWriter<'_, 'p, M> {
    /// Returns the log, to be read by its writer: what is found is there until the writer changes the log.
    pub const fn log(&self) -> &Log<'p, M> {
        self.log
    }

    /// Adds a record at the end, as [`Log::append`] does.
    ///
    /// # Errors
    /// As for [`Log::append`].
    pub fn append(&mut self, record: &[u8]) -> Result<u64, Error> {
        let appended = self.log.append_by(&mut self.later, record);
        match appended {
            // What is freed now is room for it.
            Err(error) if error.is_out_of_memory() && self.later.holds() => {
                let _ = self.reclaim();
                self.log.append_by(&mut self.later, record)
            }
            appended => appended,
        }
    }

    /// Removes the first record, as [`Log::pop_front`] does.
    ///
    /// # Errors
    /// As for [`Log::pop_front`]; and [`Error::Slab`] ([out of memory](Error::is_out_of_memory)) where readers stay in beside the
    /// removal of many segments, and there is no memory to name those. Nothing has changed then.
    pub fn pop_front(&mut self) -> Result<bool, Error> {
        self.log.pop_front_by(&mut self.later)
    }

    /// Frees what no reader can look at any more. Returns whether nothing of it is left; if not, a reader is in that was in when it
    /// was removed, or that came soon after.
    ///
    /// # Errors
    /// [`Error::Slab`]: where nothing can be waited for. What is left can be freed later.
    pub fn reclaim(&mut self) -> Result<bool, Error> {
        self.later.reclaim(&self.log.body)
    }
}

impl<M: Machine> Drop for LogWriter<'_, '_, M> {
    fn drop(&mut self) {
        // (What is left is freed when the log's value ends, or is split again.)
        let _ = self.reclaim();
    }
}

/// A reader of a [split](Log::split) log, beside its writer. Each of up to 31 counts its visits on a cache line of its own.
pub struct LogReader<'l, M: Machine> {
    body: Body<'l, M>,
    readers: &'l Readers,
    slot: usize,
}

impl<M: Machine> Clone for LogReader<'_, M> {
    fn clone(&self) -> Self {
        Self { slot: self.readers.join(), ..*self }
    }
}

impl<M: Machine> fmt::Debug for LogReader<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("head", &self.body.addr).finish_non_exhaustive()
    }
}

impl<'l, M: Machine> LogReader<'l, M> {
    /// Begins a visit: what is found in it stays as it is until the visit ends. The writer goes on meanwhile.
    #[inline]
    pub fn enter(&self) -> LogVisit<'_, 'l, M> {
        LogVisit { reader: self, _inside: self.readers.enter(self.slot) }
    }
}

/// A visit of a reader. While it lasts, no record that it finds is freed.
pub struct LogVisit<'r, 'l, M: Machine> {
    reader: &'r LogReader<'l, M>,
    _inside: Inside<'l>,
}

impl<M: Machine> fmt::Debug for LogVisit<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogVisit").field("reader", self.reader).finish_non_exhaustive()
    }
}

impl<'l, M: Machine> LogVisit<'_, 'l, M> {
    /// Returns the records from the one on that is the first now, with their numbers: those that the writer adds before the last is
    /// read, too, and those that it removes meanwhile.
    ///
    /// Beside a writer that appends faster than they are read they do not end, and what it removes is freed only after the visit: a
    /// reader of a long log ends its visit every so often, and passes over the numbers that it has had in the next.
    ///
    /// # Errors
    /// [`Error::Damaged`]: what the predecessor left is not sound. [`Error::Slab`]: as for [`Log::front`].
    pub fn records(&self) -> Result<Records<'_, 'l, M>, Error> {
        Records::beside(&self.reader.body)
    }

    /// Returns the first record; `None` if there is none.
    ///
    /// # Errors
    /// As for [`LogVisit::records`].
    pub fn front(&self) -> Result<Option<&[u8]>, Error> {
        Ok(self.records()?.next().transpose()?.map(|(_, record)| record))
    }
}
