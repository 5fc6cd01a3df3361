//! Text of a fixed room, as C has it.

use core::fmt;

use crate::addr::PhysAddr;
use crate::error::Error;
use crate::fault::{Fault, Table};

/// Text that ends with a zero within `N` bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// Returns `text`; `None` if there is no room for it and a zero, or it has a zero in it.
    ///
    /// # Examples
    /// ```
    /// use heirloom_kho::linux::Text;
    ///
    /// assert_eq!(Text::<8>::new("session").unwrap().as_str(), "session");
    /// assert_eq!(Text::<8>::new("sessions"), None);
    /// ```
    pub fn new(text: &str) -> Option<Self> {
        let fits = text.len() < N && !text.as_bytes().contains(&0);
        fits.then(|| Self::cut(text.as_bytes()))
    }

    /// Returns the bytes that stand for it: all of them, with zeroes behind the text.
    pub(crate) const fn into_bytes(self) -> [u8; N] {
        self.0
    }

    /// Returns the text in `bytes`, the field at byte `offset` of the table at `at`.
    pub(crate) fn read(
        bytes: [u8; N],
        (table, at, offset): (Table, PhysAddr, usize),
    ) -> Result<Self, Error> {
        if !bytes.contains(&0) {
            let fault = Fault::Malformed { expected: "zero at the end of the text" };
            return Err(fault.in_table(table, at, offset));
        }
        Ok(Self(bytes))
    }

    /// Cuts `text` where there is no more room for it and a zero.
    pub(crate) fn cut(text: &[u8]) -> Self {
        let mut bytes = [0; N];
        let room = N.saturating_sub(1);
        bytes.iter_mut().take(room).zip(text).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    /// Returns the bytes before the zero, of any encoding.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or(&[])
    }

    /// Returns the text as far as it is UTF-8.
    pub fn as_str(&self) -> &str {
        self.as_bytes().utf8_chunks().next().map_or("", |chunk| chunk.valid())
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
