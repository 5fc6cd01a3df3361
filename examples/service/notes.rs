//! The notes: buffers that survive, each with the handle of the one before it.

use std::fmt::Write;
use std::ptr::NonNull;

use heirloom::arena::Arena;
use heirloom::{Error, Handle, Heirloom};

/// The name of the newest note's handle.
const NEWEST: &str = "newest";

/// What stands before a note's bytes: the handle of the note before it (zeroes: none), and its length.
const HEAD: usize = 24;

/// All notes, as a list in memory that survives.
pub(crate) struct Notes<'h, 'a> {
    heirloom: &'h Heirloom<&'a Arena>,
    /// The buffers, the oldest first.
    buffers: Vec<NonNull<u8>>,
    newest: [u8; 16],
}

impl<'h, 'a> Notes<'h, 'a> {
    /// Claims the notes that a predecessor left, if there was one.
    pub(crate) fn claim(heirloom: &'h Heirloom<&'a Arena>) -> Result<Self, Error> {
        let mut notes = Self { heirloom, buffers: Vec::new(), newest: [0; 16] };
        let root = match heirloom.claim_root(NEWEST) {
            Err(Error::NoSuchSubtree { .. }) => return Ok(notes),
            root => root?,
        };
        notes.newest = root.bytes().try_into().unwrap_or([0; 16]);
        let mut handle = notes.newest;
        while handle != [0; 16] {
            let buffer = heirloom.restore(Handle::from(handle))?;
            notes.buffers.push(buffer);
            // SAFETY: a note, claimed just now: it begins with the handle of the one before it.
            handle = unsafe { buffer.cast().read() };
        }
        notes.buffers.reverse();
        Ok(notes)
    }

    pub(crate) fn len(&self) -> usize {
        self.buffers.len()
    }

    /// Adds a note. It is there for a successor from the instant at which its handle is published, and
    /// before that not at all.
    pub(crate) fn add(&mut self, note: &[u8]) -> Result<(), Error> {
        let buffer = self.heirloom.alloc(HEAD + note.len())?;
        // SAFETY: as many bytes were allocated, and nothing else knows them. A buffer is aligned to 8 bytes.
        unsafe {
            buffer.cast().write(self.newest);
            buffer.add(16).cast().write(note.len() as u64);
            buffer.add(HEAD).copy_from_nonoverlapping(NonNull::from(note).cast(), note.len());
        }
        let kept = self.keep(buffer);
        if kept.is_err() {
            // SAFETY: nothing leads to it.
            unsafe { self.heirloom.free(buffer) }?;
        }
        kept
    }

    /// Preserves a note and makes it the newest.
    fn keep(&mut self, buffer: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: allocated by the caller, and nothing frees it meanwhile.
        let handle: [u8; 16] = unsafe { self.heirloom.preserve(buffer) }?.into();
        if let Err(error) = self.heirloom.publish(NEWEST, &handle) {
            // SAFETY: preserved just now.
            unsafe { self.heirloom.unpreserve(buffer) }?;
            return Err(error);
        }
        self.buffers.push(buffer);
        self.newest = handle;
        Ok(())
    }

    /// Returns all notes, a line each.
    pub(crate) fn all(&self) -> String {
        let mut all = String::new();
        for buffer in &self.buffers {
            // SAFETY: a note, as `add` wrote it, in this life or an earlier one.
            let note = unsafe {
                let length: u64 = buffer.add(16).cast().read();
                std::slice::from_raw_parts(buffer.add(HEAD).as_ptr(), length as usize)
            };
            let _ = writeln!(all, "{}", String::from_utf8_lossy(note));
        }
        all
    }
}
