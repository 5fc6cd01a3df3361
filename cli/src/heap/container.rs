//! Containers of `heirloom-collections` in an image: what is in a map, a vector, a log. Where it is that crate says.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use heirloom_collections::internal::{
    CHUNK_HEADER, ENTRY_HEADER, FIRST, HEADS, LAST, LINES, LINKS, LOG, LOG_HEADER, Link, MAP,
    MAP_CLEARED, MAX_BUCKETS, PAGE_LINKS, PREFIX, REPLACED, SEGMENT_BYTES, UNIT, VEC, WORDS, at,
    bucket_of, kind,
};
use heirloom_kho::PhysAddr;

use super::{Heap, Object};

/// Which container it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Map,
    Vec,
    Log,
}

/// What is in a container is not sound; or was not when it was looked at, as its owner was changing it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unsound(Kind);

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} is not sound", self.0.as_str())
    }
}

/// A container.
#[derive(Clone, Copy)]
pub(crate) struct Container<'h, 'i> {
    heap: &'h Heap<'i>,
    head: PhysAddr,
    pub(crate) kind: Kind,
}

/// What a container holds: an entry of a map, a record of a log, an element of a vector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    /// Where its bytes are.
    pub(crate) at: PhysAddr,
    pub(crate) bytes: u64,
}

/// Bytes that an element can have.
const ELEMENT: std::ops::RangeInclusive<u64> = 1..=4096;

/// What an entry is found by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Bytes(Vec<u8>),
    Number(u64),
}

impl fmt::Display for Key {
    /// A number, a text that is printed, or bytes in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => {
                    f.write_str(text)
                }
                _ => {
                    f.write_str("0x")?;
                    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
                }
            },
        }
    }
}

impl Kind {
    /// What a person calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Vec => "vector",
            Self::Log => "log",
        }
    }
}

impl<'h, 'i> Container<'h, 'i> {
    /// Returns the container with its head at `addr`; `None` if no container starts there, or one of a kind or version that
    /// this build does not know.
    pub(crate) fn at(heap: &'h Heap<'i>, addr: PhysAddr) -> Option<Self> {
        let object = heap.object(addr)?;
        if object.addr != addr
            || object.bytes != 8 * WORDS as u64
            || object.cache.name().as_str() != HEADS
        {
            return None;
        }
        let kind = match heap.word(addr)? {
            MAP | MAP_CLEARED => Kind::Map,
            VEC => Kind::Vec,
            LOG => Kind::Log,
            _ => return None,
        };
        Some(Self { heap, head: addr, kind })
    }

    fn word(&self, index: usize) -> Result<u64> {
        self.at_word(self.head, index)
    }

    fn at_word(&self, addr: PhysAddr, index: usize) -> Result<u64> {
        let at = addr.checked_add(index as u64 * 8).context("beyond all memory")?;
        self.heap.word(at).with_context(|| format!("the word at {at} is not in the image"))
    }

    /// Whether it is a map that was being cleared: it has no entry, whatever is linked still.
    fn is_cleared(&self) -> bool {
        self.word(at::KIND).is_ok_and(|word| word == MAP_CLEARED)
    }

    /// How many entries its head says that there are; of a log it says nothing.
    pub(crate) fn length(&self) -> Option<u64> {
        (self.kind != Kind::Log).then(|| self.word(at::LEN).ok())?
    }

    /// Returns the object that a link leads to, its kind and its second word, if it is this container's.
    fn part(&self, link: u64, from: u64) -> Result<(Object<'h>, u16, u64)> {
        let addr = Link::from_bits(link).addr();
        let object = self.heap.object(addr).filter(|object| {
            let name = object.cache.name();
            object.addr == addr && name.as_str().starts_with(PREFIX) && name.as_str() != HEADS
        });
        let object = object.with_context(|| {
            format!("the link {link:#x} at {from} leads to no object of a container")
        })?;
        let (owner, more) = (self.at_word(addr, 0)?, self.at_word(addr, 1)?);
        ensure!(
            owner >> 16 == self.head.get() / UNIT,
            "the link {link:#x} at {from} leads to an object of another container, at {addr}"
        );
        let [a, b, ..] = owner.to_le_bytes();
        Ok((object, u16::from_le_bytes([a, b]), more))
    }

    /// Returns the object that a link leads to, if it is of this kind and number.
    fn meant(&self, link: u64, kind: u16, number: u64) -> Result<Object<'h>> {
        let (object, is, more) = self.part(link, number)?;
        ensure!(
            is == kind && more == number,
            "the object at {} says that it is {is:#x}, {more}: {kind:#x}, {number} was meant",
            object.addr
        );
        Ok(object)
    }

    /// Returns the part of this kind and number; `None` if there is none.
    fn numbered(&self, number: u64, of: u16) -> Result<Option<Object<'h>>> {
        let index = usize::try_from(number)?;
        let link = match index.checked_sub(at::PAGES - at::DIRECT) {
            None => self.word(at::DIRECT + index)?,
            Some(beyond) => {
                let (page, index) = (beyond / PAGE_LINKS, beyond % PAGE_LINKS);
                ensure!(page < WORDS - at::PAGES, "part {number}: there are not so many");
                match self.word(at::PAGES + page)? {
                    0 => 0,
                    link => {
                        let page = self.meant(link, kind::DIRECTORY, page as u64)?;
                        self.at_word(page.addr, 2 + index)?
                    }
                }
            }
        };
        if link == 0 { Ok(None) } else { self.meant(link, of, number).map(Some) }
    }

    /// How many bytes an element of a vector has, if it says that: one that an older build made does not.
    pub(crate) fn element(&self) -> Option<u64> {
        let said = || self.word(at::ELEMENT).ok().filter(|bytes| ELEMENT.contains(bytes));
        (self.kind == Kind::Vec).then(said)?
    }

    /// Calls `each` with what is in it, until that returns `false`. `element`: the bytes of a vector's element, where it does not
    /// say that itself.
    ///
    /// # Errors
    /// Those of `each`; what in the container is not sound; `element` is not what it says.
    pub(crate) fn each(
        &self,
        element: Option<u64>,
        each: &mut dyn FnMut(Entry) -> Result<bool>,
    ) -> Result<()> {
        let element = match (element, self.element()) {
            _ if self.kind != Kind::Vec => 1,
            (Some(named), Some(said)) if named != said => {
                bail!("the vector's elements have {said} bytes each: leave out --element")
            }
            (Some(element), _) | (None, Some(element)) => element,
            (None, None) => bail!(
                "the vector does not say how large its elements are, as an older build made it: --element does"
            ),
        };
        ensure!(ELEMENT.contains(&element), "an element has 1 to 4096 bytes");
        let mut refused = None;
        let mut each = |entry| {
            each(entry).or_else(|error| {
                refused = Some(error);
                Ok(false)
            })
        };
        let gone_through = match self.kind {
            Kind::Map => self.entries(&mut each),
            Kind::Log => self.records(&mut each),
            Kind::Vec => self.elements(element, &mut each),
        };
        match refused {
            Some(error) => Err(error),
            None => gone_through.context(Unsound(self.kind)),
        }
    }

    /// What a kernel left in the middle of a change is passed over, as the next one clears it: what belongs to a bucket that was
    /// added and is in its parent too, and the second word of the link that was being moved within its bucket.
    fn entries(&self, each: &mut dyn FnMut(Entry) -> Result<bool>) -> Result<()> {
        if self.is_cleared() {
            return Ok(());
        }
        let (buckets, moved) =
            (self.word(at::SIZE)?.max(1), Link::from_bits(self.word(at::MOVED)?));
        ensure!(buckets <= MAX_BUCKETS, "{buckets} buckets: there are {MAX_BUCKETS} at most");
        let mut segment = None;
        for bucket in 0..buckets {
            let mut seen = false;
            if bucket % LINES == 0 {
                segment = self.numbered(bucket / LINES, kind::SEGMENT)?;
            }
            let segment = segment.with_context(|| {
                format!("of {buckets} buckets there is no segment for number {bucket}")
            })?;
            let mut next = segment.addr.checked_add(64 * (1 + bucket % LINES));
            while let Some(line) = next {
                for slot in 0..LINKS {
                    let link = self.at_word(line, slot)?;
                    if link == 0 {
                        continue;
                    }
                    let (entry, hash) = self.entry(link, bucket)?;
                    let is_moved = Link::from_bits(link).same_object(moved);
                    let is_left = is_moved && seen || bucket_of(hash, buckets) != bucket;
                    seen |= is_moved;
                    if !is_left && !each(entry)? {
                        return Ok(());
                    }
                }
                self.heap.spend(8 * (LINKS as u64 + 1))?;
                next = match self.at_word(line, LINKS)? {
                    0 => None,
                    more => self.meant(more, kind::LINE, bucket)?.addr.checked_add(16),
                };
            }
        }
        Ok(())
    }

    /// Returns the entry that a link of a bucket leads to, and the low half of its key's hash.
    fn entry(&self, link: u64, bucket: u64) -> Result<(Entry, u32)> {
        const HEADER: u64 = ENTRY_HEADER as u64;
        let (object, key, more) = self.part(link, bucket)?;
        let (key, value) = (u64::from(key), more & u64::from(u32::MAX));
        ensure!(
            key <= 0xfff0 && HEADER + key + value <= object.bytes,
            "the entry at {} is longer than its object",
            object.addr
        );
        self.heap.spend(object.bytes)?;
        let start = object.addr.checked_add(HEADER).context("beyond all memory")?;
        let mut bytes = vec![0; usize::try_from(key)?];
        let there = self.heap.image.read(start, &mut bytes);
        there.with_context(|| format!("the key at {start} is not in the image"))?;
        let at = start.checked_add(key).context("beyond all memory")?;
        Ok((Entry { key: Key::Bytes(bytes), at, bytes: value }, (more >> 32) as u32))
    }

    fn elements(&self, element: u64, each: &mut dyn FnMut(Entry) -> Result<bool>) -> Result<()> {
        const HEADER: u64 = CHUNK_HEADER as u64;
        let (length, per_chunk) = (self.word(at::LEN)?, (SEGMENT_BYTES as u64 - HEADER) / element);
        // Place 0 holds the element that is being replaced: the head has its number plus one.
        let replaced = self.word(REPLACED)?;
        let mut chunk = None;
        for number in 0..length {
            let place = if replaced == number + 1 { 0 } else { number + 1 };
            let part = place / per_chunk;
            let object = match chunk {
                Some((of, object)) if of == part => object,
                _ => {
                    let object = self.numbered(part, kind::CHUNK)?;
                    object.with_context(|| {
                        format!("of {length} elements there is no chunk for number {number}")
                    })?
                }
            };
            chunk = Some((part, object));
            let at = object.addr.checked_add(HEADER + place % per_chunk * element);
            let at = at.context("beyond all memory")?;
            if !each(Entry { key: Key::Number(number), at, bytes: element })? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn records(&self, each: &mut dyn FnMut(Entry) -> Result<bool>) -> Result<()> {
        let (mut link, mut number) = (self.word(FIRST)?, None);
        // One that was being destroyed is empty.
        if self.word(LAST)? == 0 {
            return Ok(());
        }
        while link != 0 {
            let (object, is, base) = self.part(link, number.unwrap_or_default())?;
            ensure!(
                is == kind::CHUNK && number.is_none_or(|number| number == base),
                "the object at {} is not the log's next segment",
                object.addr
            );
            let [next, front, end] =
                [2, 3, 4].map(|word| self.at_word(object.addr, word).unwrap_or(u64::MAX));
            ensure!(
                LOG_HEADER <= front
                    && front <= end
                    && end <= object.bytes
                    && (front | end) % 8 == 0,
                "records from {front} to {end} in the segment at {}, of {} bytes",
                object.addr,
                object.bytes
            );
            // An empty segment behind others is one that was being added.
            if number.is_some() && end == LOG_HEADER {
                return Ok(());
            }
            let (mut at, mut here) = (LOG_HEADER, base);
            while at < end {
                let length = self.at_word(object.addr, usize::try_from(at / 8)?)?;
                let behind =
                    length.checked_next_multiple_of(8).and_then(|all| all.checked_add(at + 8));
                let behind = behind.filter(|behind| *behind <= end);
                let behind = behind.with_context(|| {
                    format!("record {here}, {length} bytes long, ends behind its segment")
                })?;
                let start = object.addr.checked_add(at + 8).context("beyond all memory")?;
                let entry = Entry { key: Key::Number(here), at: start, bytes: length };
                if at >= front && !each(entry)? {
                    return Ok(());
                }
                (at, here) = (behind, here.wrapping_add(1));
            }
            self.heap.spend(object.bytes)?;
            // Numbers go on, and there was a record: so no segment comes twice.
            ensure!(here != base || next == 0, "a segment without records at {}", object.addr);
            (link, number) = (next, Some(here));
        }
        Ok(())
    }
}
