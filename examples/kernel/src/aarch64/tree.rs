//! The device tree: kept, walked, and written anew for a successor, with another `/chosen`.

use core::ops::Range;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

use heirloom::kho::{DeviceTree, Error, Table, Token};
use heirloom::{Entry, PAGE_SIZE, PhysAddr};

/// Bytes of the largest tree.
pub const LARGEST: usize = 64 << 10;

/// The tree that this kernel was told, copied.
#[repr(C, align(8))]
struct Words([AtomicU32; LARGEST / 4]);
static WORDS: Words = Words([const { AtomicU32::new(0) }; LARGEST / 4]);

/// Words of a tree's header.
const TOTAL: usize = 1;
const STRUCTURE: usize = 2;
const STRINGS: usize = 3;
const RESERVED: usize = 4;
const STRINGS_BYTES: usize = 8;
const STRUCTURE_BYTES: usize = 9;
/// Bytes of it.
const HEADER: usize = 40;

/// Copies a tree, as far as there is something in it, and checks it.
///
/// # Safety
/// There is memory at the address, that nothing changes.
pub unsafe fn keep(at: u64) -> Result<DeviceTree<'static>, Error> {
    let from = at as *const u32;
    // SAFETY: the caller's promise; a tree's header says how long it is.
    let word = |at: usize| unsafe { from.add(at).read() };
    let field = |at| u32::from_be(word(at)) as usize;
    let structure = field(STRUCTURE).saturating_add(field(STRUCTURE_BYTES));
    let used = structure.max(field(STRINGS).saturating_add(field(STRINGS_BYTES)));
    // One that is too long or none at all is refused below.
    let count = used.div_ceil(4).min(WORDS.0.len());
    (0..count).for_each(|at| WORDS.0[at].store(word(at), Relaxed));
    WORDS.0[TOTAL].store((4 * count as u32).to_be(), Relaxed);
    DeviceTree::open(&WORDS.0, Table::Blob, PhysAddr::new(at))
}

/// A word of a tree.
fn word(tree: &DeviceTree<'_>, at: usize) -> u32 {
    u32::from_be(tree.value32(at).unwrap_or(0))
}

/// What firmware uses, by the tree's list of that: addresses, and how many bytes. The first that has none ends it.
pub fn reserved<'t>(tree: &'t DeviceTree<'_>) -> impl Iterator<Item = (u64, u64)> + 't {
    let start = word(tree, 4 * RESERVED) as usize;
    let long = move |at| u64::from(word(tree, at)) << 32 | u64::from(word(tree, at + 4));
    (start..LARGEST)
        .step_by(16)
        .map(move |at| (long(at), long(at + 8)))
        .take_while(|(_, bytes)| *bytes > 0)
}

/// A node.
#[derive(Clone)]
pub struct Node<'t, 'w> {
    tree: &'t DeviceTree<'w>,
    at: usize,
    parents: [usize; 3],
}

/// Goes through all nodes.
pub fn for_each<'t, 'w, E: From<Error>>(
    tree: &'t DeviceTree<'w>,
    mut f: impl FnMut(Node<'t, 'w>) -> Result<(), E>,
) -> Result<(), E> {
    let (mut cursor, mut depth) = (tree.start(), 0_usize);
    // Where those are that a node is in; 0: deeper than any that is looked at.
    let mut path = [0; 3];
    loop {
        match tree.next(&mut cursor)? {
            (at, Token::Begin { .. }) => {
                let mut parents = path;
                parents[depth.min(3)..].fill(0);
                if let Some(place) = path.get_mut(depth) {
                    *place = at;
                }
                depth += 1;
                if depth <= 3 {
                    f(Node { tree, at, parents })?;
                }
            }
            (_, Token::End) => depth = depth.saturating_sub(1),
            (_, Token::Property { .. }) => {}
            (_, Token::Finish) => return Ok(()),
        }
    }
}

impl Node<'_, '_> {
    /// Whether the node at this place has this name, before its address if it has one.
    fn is(&self, at: usize, name: &str) -> bool {
        let mut bytes = self.tree.bytes(at + 4..LARGEST);
        bytes.by_ref().take(name.len()).eq(name.bytes()) && matches!(bytes.next(), Some(0 | b'@'))
    }

    /// Whether it is the root's child of this name.
    pub fn is_at_root(&self, name: &str) -> bool {
        self.parents[0] != 0 && self.parents[1] == 0 && self.is(self.at, name)
    }

    /// Whether it is a child of the root's child of this name.
    pub fn is_in(&self, name: &str) -> bool {
        self.parents[1] != 0 && self.parents[2] == 0 && self.is(self.parents[1], name)
    }

    /// Whether it is what the tree begins with.
    pub fn is_root(&self) -> bool {
        self.parents[0] == 0
    }

    /// Where the value of a property is.
    pub fn property(&self, name: &str) -> Option<Range<usize>> {
        let mut cursor = self.at;
        self.tree.next(&mut cursor).ok()?;
        while let Ok((_, Token::Property { name: found, value, length })) =
            self.tree.next(&mut cursor)
        {
            if self.tree.string_is(found, name) {
                return Some(value..value + length as usize);
            }
        }
        None
    }

    /// The bytes of a property.
    pub fn bytes(&self, name: &str) -> impl Iterator<Item = u8> {
        self.tree.bytes(self.property(name).unwrap_or_default())
    }

    /// Whether one of a property's strings is this one.
    pub fn has(&self, name: &str, expected: &str) -> bool {
        let Some(range) = self.property(name) else { return false };
        let mut starts = range.clone();
        starts.any(|start| {
            let first = start == range.start || self.tree.bytes(start - 1..start).eq([0]);
            let expected = expected.bytes().chain([0]);
            first && self.tree.bytes(start..range.end).take(expected.clone().count()).eq(expected)
        })
    }

    /// The words of a property.
    pub fn words(&self, name: &str) -> impl Iterator<Item = u32> {
        self.property(name).unwrap_or_default().step_by(4).map(|at| word(self.tree, at))
    }

    /// A property that is a number, of one word or of two.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.property(name)?;
        Some(self.words(name).fold(0, |number, word| number << 32 | u64::from(word)))
    }

    /// A pair of a property: an address and how many bytes, of two words each.
    pub fn pair(&self, name: &str, number: usize) -> Option<(u64, u64)> {
        let mut words = self.words(name).skip(4 * number);
        let mut long = || Some(u64::from(words.next()?) << 32 | u64::from(words.next()?));
        Some((long()?, long()?))
    }
}

/// What a successor is told beside what it finds.
pub struct Chosen<'c> {
    pub line: &'c [u8],
    pub images: (PhysAddr, u64),
    pub entry: Entry,
}

/// Properties of `/chosen` that are the successor's own.
const LINE: &str = "bootargs";
const START: &str = "linux,initrd-start";
const END: &str = "linux,initrd-end";
const ROOT: &str = "linux,kho-fdt";
const SCRATCH: &str = "linux,kho-scratch";
const OWN: [&str; 5] = [LINE, START, END, ROOT, SCRATCH];

/// A tree in the making.
struct Writer<'w> {
    into: &'w mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: impl IntoIterator<Item = u8>) {
        for byte in bytes {
            // What does not fit is counted.
            if let Some(place) = self.into.get_mut(self.at) {
                *place = byte;
            }
            self.at += 1;
        }
    }

    fn word(&mut self, word: usize) {
        self.bytes((word as u32).to_be_bytes());
    }

    fn align(&mut self) {
        while !self.at.is_multiple_of(4) {
            self.bytes([0]);
        }
    }

    /// Writes a word of the header.
    fn head(&mut self, at: usize, word: usize) {
        let now = core::mem::replace(&mut self.at, 4 * at);
        self.word(word);
        self.at = now;
    }

    /// Writes one of `OWN`, whose names stand behind the strings that there were.
    fn property(
        &mut self,
        strings: usize,
        name: &str,
        length: usize,
        value: impl IntoIterator<Item = u8>,
    ) {
        let before = OWN.iter().take_while(|own| **own != name);
        self.word(3);
        self.word(length);
        self.word(strings + before.map(|own| own.len() + 1).sum::<usize>());
        self.bytes(value);
        self.align();
    }

    fn chosen(&mut self, strings: usize, chosen: &Chosen<'_>) {
        let Chosen { line, images: (images, length), entry } = chosen;
        let range = |addr: PhysAddr, bytes: u64| {
            [addr.get(), bytes].map(u64::to_be_bytes).into_iter().flatten()
        };
        self.property(strings, LINE, line.len() + 1, line.iter().copied().chain([0]));
        self.property(strings, START, 8, images.get().to_be_bytes());
        self.property(strings, END, 8, (images.get() + length).to_be_bytes());
        self.property(strings, ROOT, 16, range(entry.root, PAGE_SIZE as u64));
        self.property(strings, SCRATCH, 16, range(entry.scratch, entry.scratch_bytes));
    }
}

/// Writes a tree for the successor: this kernel's own, with what else is to be told in `/chosen`. Returns how many bytes it has;
/// more than there are in `into`: it did not fit.
pub fn write(tree: &DeviceTree<'_>, chosen: &Chosen<'_>, into: &mut [u8]) -> Result<usize, Error> {
    let old = |field: usize| word(tree, 4 * field) as usize;
    let mut to = Writer { into, at: 0 };
    to.bytes(tree.bytes(0..HEADER));
    to.head(RESERVED, to.at);
    let list = old(RESERVED);
    to.bytes(tree.bytes(list..list + 16 * (reserved(tree).count() + 1)));
    let structure = to.at;
    let (mut cursor, mut depth, mut within) = (tree.start(), 0, false);
    loop {
        let (at, token) = tree.next(&mut cursor)?;
        match token {
            _ if !within => {}
            Token::Property { name, .. } if OWN.iter().any(|own| tree.string_is(name, own)) => {
                continue;
            }
            Token::Property { .. } => {}
            // Behind the last of its properties.
            _ => {
                to.chosen(old(STRINGS_BYTES), chosen);
                within = false;
            }
        }
        to.bytes(tree.bytes(at..cursor));
        match token {
            Token::Begin { name } => {
                within = depth == 1 && tree.bytes(name..name + 7).eq(*b"chosen\0");
                depth += 1;
            }
            Token::End => depth -= 1,
            Token::Property { .. } => {}
            Token::Finish => break,
        }
    }
    to.head(STRUCTURE, structure);
    to.head(STRUCTURE_BYTES, to.at - structure);
    to.head(STRINGS, to.at);
    let strings = old(STRINGS);
    to.bytes(tree.bytes(strings..strings + old(STRINGS_BYTES)));
    to.bytes(OWN.iter().flat_map(|own| own.bytes().chain([0])));
    to.head(STRINGS_BYTES, old(STRINGS_BYTES) + OWN.iter().map(|own| own.len() + 1).sum::<usize>());
    to.align();
    to.head(TOTAL, to.at);
    Ok(to.at)
}
