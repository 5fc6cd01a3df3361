//! Short texts without memory to be had: names that have a number in them.

use core::fmt::Write;

/// Bytes of the longest.
const MOST: usize = 31;

/// A text that is written into an array: as long as a cache's name, at most.
#[derive(Default)]
pub struct Text {
    bytes: [u8; MOST],
    length: usize,
}

impl Text {
    /// Returns what was written.
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..self.length).unwrap_or(&[]);
        core::str::from_utf8(text).unwrap_or("")
    }
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let end = self.length + s.len();
        self.bytes.get_mut(self.length..end).ok_or(core::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.length = end;
        Ok(())
    }
}
