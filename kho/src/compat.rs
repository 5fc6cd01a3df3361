//! What a structure says it is: a name and a version, and those of the structures that it is built of.
//!
//! ```text
//!  kho-v4                          a structure, with all that is in it
//!  kho-v4;radix-v1;vmalloc-v1      the same, where those in it have versions of their own
//! ```
//!
//! Each structure that is read has one [`Format`]: its name, the version that is read, and what it may be
//! built of, in which versions. A reader turns the text into a [`Compat`], or into the fault that names the one
//! that is not known; which layout the structure has follows from the value. Names stand in the order of the
//! alphabet, each once, as Linux writes them.

use core::fmt;

use crate::excerpt::Excerpt;
use crate::fault::Fault;

/// A structure that is read.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// Its name and version as text, as far as it says nothing of others.
    pub(crate) text: &'static str,
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    /// What it may be built of, by name.
    pub(crate) parts: &'static [Part],
}

/// A structure that others are built of.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
}

/// The tree of what is preserved.
pub(crate) const RADIX: Part = Part { name: "radix", version: 1 };
/// Areas.
pub(crate) const VMALLOC: Part = Part { name: "vmalloc", version: 1 };
/// Records in chains of blocks.
pub(crate) const BLOCK: Part = Part { name: "block", version: 1 };

/// What a structure said that it is, all of which is known: its name and version, and those that it
/// names of what it is built of.
///
/// # Examples
/// ```
/// use core::sync::atomic::AtomicU32;
/// use heirloom_kho::{PAGE_SIZE, PhysAddr, RootPage};
///
/// let words = [const { AtomicU32::new(0) }; PAGE_SIZE / 4];
/// let root = RootPage::create(&words, PhysAddr::new(0x10_0000), PhysAddr::new(0x20_0000))?;
/// let compat = root.view()?.compat();
/// assert_eq!((compat.name(), compat.version()), ("kho", 4));
/// assert_eq!((compat.to_string().as_str(), compat.parts().count()), ("kho-v4", 0));
/// # Ok::<(), heirloom_kho::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Compat {
    format: &'static Format,
    /// A bit for each part that is named.
    named: u8,
}

impl Compat {
    /// Returns what a structure of this format says that says nothing of what it is built of.
    pub(crate) const fn of(format: &'static Format) -> Self {
        Self { format, named: 0 }
    }

    /// Returns the structure's name.
    pub const fn name(&self) -> &'static str {
        self.format.name
    }

    /// Returns its version.
    pub const fn version(&self) -> u32 {
        self.format.version
    }

    /// Returns the names and versions that it gives of what it is built of.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, u32)> + use<> {
        let named = self.named;
        let parts = self.format.parts.iter().enumerate();
        let parts = parts.filter(move |(index, _)| named >> index & 1 == 1);
        parts.map(|(_, part)| (part.name, part.version))
    }

    /// Returns whether it gives a version of anything that it is built of.
    pub(crate) const fn has_parts(&self) -> bool {
        self.named != 0
    }
}

/// The text that says this.
impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format.text)?;
        self.parts().try_for_each(|(name, version)| write!(f, ";{name}-v{version}"))
    }
}

impl fmt::Debug for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Format {
    /// Reads what a structure says that it is, without the zero at the end.
    ///
    /// # Errors
    /// [`Fault::Version`]: another version of it; [`Fault::Part`]: of what it is built of; [`Fault::Unknown`]: a
    /// name that is not known, or no text of this kind.
    pub(crate) fn read<I>(&'static self, text: &I) -> Result<Compat, Fault>
    where
        I: Iterator<Item = u8> + Clone,
    {
        let whole = || Fault::Unknown { found: Excerpt::of(text.clone()), expected: self.text };
        match version(component(text.clone(), 0), self.name) {
            Some(found) if found == self.version => {}
            Some(found) => return Err(Fault::Version { found, known: self.version }),
            None => return Err(whole()),
        }
        let (mut named, mut next) = (0, 0);
        // One more than there can be is one that is not known.
        for n in 1..=text.clone().filter(|byte| *byte == b';').take(8).count() {
            let one = component(text.clone(), n);
            let known = self.parts.iter().enumerate().skip(next);
            let known =
                known.filter_map(|(i, part)| Some((i, part, version(one.clone(), part.name)?)));
            let Some((index, part, found)) = { known }.next() else {
                let known = self.parts.iter().any(|part| version(one.clone(), part.name).is_some());
                // Out of order, twice, or nothing at all: what is wrong is the whole of it.
                let whole_is_wrong = known || one.clone().next().is_none() || self.parts.is_empty();
                let found = Excerpt::of(one);
                return Err(if whole_is_wrong { whole() } else { Fault::UnknownPart { found } });
            };
            if found != part.version {
                let (name, known) = (part.name, part.version);
                return Err(Fault::Part { name, found, known });
            }
            (named, next) = (named | 1 << index, index + 1);
        }
        Ok(Compat { format: self, named })
    }
}

/// Returns name and version number `n` of a text.
fn component<I: Iterator<Item = u8> + Clone>(
    text: I,
    n: usize,
) -> impl Iterator<Item = u8> + Clone {
    let mut before = n;
    let rest = text.skip_while(move |byte| {
        // Up to and with the last separator before it.
        let skip = before > 0;
        before -= usize::from(skip && *byte == b';');
        skip
    });
    rest.take_while(|byte| *byte != b';')
}

/// Returns the version that `text` gives for `name`, if it is `name-v` and a number.
fn version(mut text: impl Iterator<Item = u8>, name: &str) -> Option<u32> {
    /// Digits of a version that is a number.
    const DIGITS: u32 = 9;
    for expected in name.bytes().chain(*b"-v") {
        text.next().filter(|byte| *byte == expected)?;
    }
    let number = text.try_fold((0_u32, 0), |(number, digits), byte| {
        // A number starts with no zero.
        let fits = byte.is_ascii_digit() && digits < DIGITS && (digits > 0 || byte != b'0');
        fits.then(|| (number * 10 + u32::from(byte - b'0'), digits + 1))
    });
    number.filter(|(_, digits)| *digits > 0).map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    static KHO: Format =
        Format { text: "kho-v4", name: "kho", version: 4, parts: &[RADIX, VMALLOC] };
    static ALONE: Format = Format { text: "luo-v5", name: "luo", version: 5, parts: &[] };

    fn read(format: &'static Format, text: &str) -> Result<Compat, Fault> {
        format.read(&text.bytes())
    }

    #[test]
    fn what_is_known_comes_back_as_it_was_written() {
        for text in ["kho-v4", "kho-v4;radix-v1", "kho-v4;vmalloc-v1", "kho-v4;radix-v1;vmalloc-v1"]
        {
            let compat = read(&KHO, text).unwrap();
            assert_eq!(compat.to_string(), text);
            assert_eq!((compat.name(), compat.version()), ("kho", 4));
            assert_eq!(compat.parts().count(), text.matches(';').count());
            assert_eq!(compat.has_parts(), text.contains(';'));
        }
        let compat = read(&KHO, "kho-v4;vmalloc-v1").unwrap();
        assert!(compat.parts().eq([("vmalloc", 1)]));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let version = |found| Err(Fault::Version { found, known: 4 });
        assert_eq!(read(&KHO, "kho-v5"), version(5));
        assert_eq!(read(&KHO, "kho-v44;radix-v1"), version(44));
        // The structure's own version first: what else it says is of that.
        assert_eq!(read(&KHO, "kho-v5;radix-v9"), version(5));
        let part = |name, found| Err(Fault::Part { name, found, known: 1 });
        assert_eq!(read(&KHO, "kho-v4;radix-v2;vmalloc-v1"), part("radix", 2));
        assert_eq!(read(&KHO, "kho-v4;radix-v1;vmalloc-v3"), part("vmalloc", 3));
        let unknown = |text: &str| Err(Fault::UnknownPart { found: Excerpt::of(text.bytes()) });
        assert_eq!(read(&KHO, "kho-v4;radix-v1;xarray-v1"), unknown("xarray-v1"));
        assert_eq!(read(&KHO, "kho-v4;radix"), unknown("radix"));
        assert_eq!(read(&KHO, "kho-v4;radix-v01"), unknown("radix-v01"));
        assert_eq!(read(&KHO, "kho-v4;radix-v1-"), unknown("radix-v1-"));
    }

    #[test]
    fn what_is_no_such_text_is_shown_as_it_is() {
        for text in [
            "",
            "kho",
            "kho-v",
            "kho-v04",
            "kho-v+4",
            "kho-v4 ",
            "kho-v4;",
            "kho-v4;;radix-v1",
            ";",
            "kho-v4;radix-v1;",
            "kho-v4;radix-v1;radix-v1",
            "kho-v4;vmalloc-v1;radix-v1",
            "KHO-v4",
            "kho-v4\0radix-v1",
            "kho-v4294967300",
            "luo-v5",
        ] {
            let found = Excerpt::of(text.bytes());
            let fault = Fault::Unknown { found, expected: "kho-v4" };
            assert_eq!(read(&KHO, text), Err(fault), "{text:?}");
        }
        let fault =
            Fault::Unknown { found: Excerpt::of("luo-v5;block-v1".bytes()), expected: "luo-v5" };
        assert_eq!(read(&ALONE, "luo-v5;block-v1"), Err(fault));
        let long = "kho-v4".bytes().chain(b";radix-v1".iter().copied().cycle()).take(100_000);
        assert!(matches!(KHO.read(&long), Err(Fault::Unknown { .. })));
    }
}
