//! Reading a root page, this kernel's or a predecessor's.

use super::{DATA, FORMAT, MAP, Name, SIZE};
use crate::addr::{PhysAddr, Run};
use crate::compat::Compat;
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::fdt::{DeviceTree, FDT_ENDED, Token};
use crate::narrow::{u32_to_usize, u64_to_usize};
use crate::page_size::PageSize;
use crate::pages::Pages;
use crate::sync::AtomicU32;

/// A root page that was found sound: every token, name, length and property.
///
/// What the addresses in it lead to was not looked at.
#[derive(Clone, Debug)]
pub struct RootView<'a> {
    tree: DeviceTree<'a>,
    map: PhysAddr,
    /// Where the first node below the root starts, in the struct block.
    nodes: usize,
}

/// What a root page says of one subtree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subtree {
    /// Its name.
    pub name: Name,
    /// Where its bytes start.
    pub addr: PhysAddr,
    /// How many bytes, where the writer said so.
    pub size: Option<u64>,
}

impl Subtree {
    /// Returns the frames in which its bytes lie; of one whose length is not known, the first.
    pub fn frames(&self) -> Option<Run> {
        self.pages(PageSize::BUILD)
    }

    /// Returns the frames of the pages, of this size, in which its bytes lie, as [`Subtree::frames`] does.
    #[inline]
    pub fn pages(&self, page: PageSize) -> Option<Run> {
        page.covering(self.addr, self.size.unwrap_or(1).max(1))
    }
}

impl<'a> RootView<'a> {
    /// Checks the root page in `words`, which stand at physical `at`.
    ///
    /// `words` may be more than the tree needs: the tree says its own length. Properties that are
    /// not known, and nodes below a subtree's, are skipped. The time is that of one walk, and for
    /// `n` subtrees of `n^2 / 2` comparisons of names at most; of one in thirty of them where names
    /// fill a page of 64 KiB, and of next to none in one of 4 KiB.
    ///
    /// # Errors
    /// [`Error::Table`] with the root page, the byte and the reason, if anything in it is not as
    /// the format has it: another version, a token or value that leaves the struct block, a
    /// property missing, twice or of a wrong length, a name twice.
    pub fn new(words: &'a [AtomicU32], at: PhysAddr) -> Result<Self, Error> {
        Self::sized(PageSize::BUILD, words, at)
    }

    /// Checks the root page as [`RootView::new`] does, of a kernel with pages of this size.
    ///
    /// # Errors
    /// As for [`RootView::new`].
    #[inline]
    pub fn sized(page: PageSize, words: &'a [AtomicU32], at: PhysAddr) -> Result<Self, Error> {
        Self::of(page, DeviceTree::open(words, Table::Root, at)?)
    }

    /// Checks a root page of which a successor ended the entry, for as long as that successor keeps the page.
    ///
    /// # Errors
    /// As for [`RootView::new`].
    pub fn ended(words: &'a [AtomicU32], at: PhysAddr) -> Result<Self, Error> {
        Self::of(PageSize::BUILD, DeviceTree::marked(words, Table::Root, at, FDT_ENDED)?)
    }

    /// Checks the root page at `at`.
    ///
    /// # Errors
    /// As for [`RootView::new`]; [`Error::Table`] also if it is not in memory or no page starts
    /// there.
    pub fn read(pages: &'a impl Pages, at: PhysAddr) -> Result<Self, Error> {
        let page = pages.page_size();
        Self::of(page, DeviceTree::read(pages, Table::Root, at, page.bytes())?)
    }

    #[inline]
    fn of(page: PageSize, tree: DeviceTree<'a>) -> Result<Self, Error> {
        let view = Self::top(page, tree)?;
        if page == PageSize::BUILD {
            view.check_subtrees::<{ marks(PageSize::BUILD) }>()?;
        } else {
            view.check_subtrees::<{ marks(PageSize::MAX) }>()?;
        }
        Ok(view)
    }

    /// Returns the view of a page that was checked before, and that only its owner has edited
    /// since.
    ///
    /// # Errors
    /// As for [`RootView::new`], but for what is wrong with subtrees: their iterator tells that.
    pub fn again(words: &'a [AtomicU32], at: PhysAddr) -> Result<Self, Error> {
        Self::top(PageSize::BUILD, DeviceTree::open(words, Table::Root, at)?)
    }

    /// Checks the properties of the root node.
    #[inline(never)]
    fn top(page: PageSize, tree: DeviceTree<'a>) -> Result<Self, Error> {
        let mut cursor = tree.start();
        match tree.next(&mut cursor)? {
            (_, Token::Begin { name }) if tree.bytes(name..name + 1).eq([0]) => {}
            (offset, _) => {
                return Err(tree.fail(offset, Fault::Malformed { expected: "root node" }));
            }
        }
        let (mut compatible, mut map) = (false, None);
        // Where the children begin: behind the last property, as the tree's format wants it.
        let mut nodes = cursor;
        while let (offset, Token::Property { name, value, length }) = tree.next(&mut cursor)? {
            nodes = cursor;
            if tree.string_is(name, "compatible") {
                // Readers differ on which of two they take, so neither is right.
                if compatible {
                    return Err(tree.fail(offset, Fault::Duplicate));
                }
                read_compat(&tree, value, length)?;
                compatible = true;
            } else if tree.string_is(name, MAP) {
                let addr = PhysAddr::new(read_u64(&tree, offset, value, length)?);
                if map.replace(addr).is_some() {
                    return Err(tree.fail(offset, Fault::Duplicate));
                }
                if addr.get() == 0 || !page.is_aligned(addr) {
                    return Err(tree.fail(value, Fault::Misaligned { addr }));
                }
            }
        }
        if !compatible {
            return Err(tree.fail(tree.start(), Fault::Missing { property: "compatible" }));
        }
        let Some(map) = map else {
            return Err(tree.fail(tree.start(), Fault::Missing { property: MAP }));
        };
        Ok(Self { tree, map, nodes })
    }

    /// Checks the subtrees. A kernel's stack is small: what the properties above them needed of it is
    /// gone by now.
    #[inline(never)]
    fn check_subtrees<const MARKS: usize>(&self) -> Result<(), Error> {
        let mut subtrees = self.subtrees();
        let (mut seen, mut marks) = (0, Marks([0; MARKS]));
        loop {
            let offset = subtrees.cursor;
            let Some(subtree) = subtrees.next() else { return Ok(()) };
            let name = subtree?.name;
            let again = marks.set(&name);
            if again && self.subtrees().take(seen).flatten().any(|s| s.name == name) {
                return Err(self.tree.fail(offset, Fault::Duplicate));
            }
            seen += 1;
        }
    }

    /// Returns the page's address.
    pub const fn at(&self) -> PhysAddr {
        self.tree.at()
    }

    /// Returns what the page says that it is.
    pub fn compat(&self) -> Compat {
        // Read again: a kernel, which has no use for it, need not keep it.
        let (mut cursor, mut compat) = (self.tree.start(), Compat::of(&FORMAT));
        let _ = self.tree.next(&mut cursor);
        while let Ok((_, Token::Property { name, value, length })) = self.tree.next(&mut cursor) {
            if self.tree.string_is(name, "compatible") {
                compat = read_compat(&self.tree, value, length).unwrap_or(compat);
            }
        }
        compat
    }

    /// Returns the address of the tracker's root node.
    pub const fn map(&self) -> PhysAddr {
        self.map
    }

    /// Returns the subtrees in the order they stand in.
    pub fn subtrees(&self) -> Subtrees<'_> {
        Subtrees { tree: &self.tree, cursor: self.nodes, done: false }
    }

    /// Returns the subtree of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchSubtree`]; [`Error::Table`] if the page changed since it was checked.
    pub fn find(&self, name: &Name) -> Result<Subtree, Error> {
        for subtree in self.subtrees() {
            let subtree = subtree?;
            if subtree.name == *name {
                return Ok(subtree);
            }
        }
        Err(Error::NoSuchSubtree { name: *name })
    }
}

/// Which names there were, as far as one bit for each tells: a Bloom filter of one hash.
/// Sixteen bits for each name that a page can have, or so.
struct Marks<const N: usize>([u64; N]);

/// Returns how many words of marks the names in a page need.
const fn marks(page: PageSize) -> usize {
    page.bytes() >> 9
}

impl<const N: usize> Marks<N> {
    /// Marks `name`: whether it, or another of the same hash, was marked before.
    fn set(&mut self, name: &Name) -> bool {
        // FNV-1a, whose lower bits are the good ones, multiplied into the upper.
        let hash = name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let words = self.0.len();
        let Some(word) = self.0.get_mut(u64_to_usize(hash >> 32) % words) else { return true };
        let bit = 1 << (hash >> 58);
        let before = *word & bit != 0;
        *word |= bit;
        before
    }
}

/// The subtrees of a root page, from [`RootView::subtrees`].
///
/// Of a page that did not change since [`RootView::new`] checked it, no item is an error.
#[derive(Clone, Debug)]
pub struct Subtrees<'a> {
    tree: &'a DeviceTree<'a>,
    cursor: usize,
    done: bool,
}

impl Subtrees<'_> {
    /// Returns the next subtree; `None` after a sound end.
    fn step(&mut self) -> Result<Option<Subtree>, Error> {
        match self.open()? {
            Some((offset, name)) => self.within(offset, name).map(Some),
            None => Ok(None),
        }
    }

    /// Opens the next subtree: where it is, and its name.
    #[inline(never)]
    fn open(&mut self) -> Result<Option<(usize, Name)>, Error> {
        let tree = self.tree;
        let malformed = |offset, expected| tree.fail(offset, Fault::Malformed { expected });
        let (offset, token) = tree.next(&mut self.cursor)?;
        let name = match token {
            Token::Begin { name } => Name::read(tree.bytes(name..usize::MAX)),
            Token::End => {
                return match tree.next(&mut self.cursor)? {
                    (_, Token::Finish) => Ok(None),
                    (offset, _) => Err(malformed(offset, "end of the struct block")),
                };
            }
            _ => return Err(malformed(offset, "node or end of the root node")),
        };
        let name = name.ok_or_else(|| malformed(offset, "name of a subtree"))?;
        Ok(Some((offset, name)))
    }

    /// Returns the subtree that was opened at `offset`: what is within it, up to its end.
    #[inline(never)]
    fn within(&mut self, offset: usize, name: Name) -> Result<Subtree, Error> {
        let tree = self.tree;
        let (mut addr, mut size, mut depth) = (None, None, 0_u32);
        loop {
            match tree.next(&mut self.cursor)? {
                (at, Token::Property { name, value, length }) if depth == 0 => {
                    let slot = if tree.string_is(name, DATA) {
                        &mut addr
                    } else if tree.string_is(name, SIZE) {
                        &mut size
                    } else {
                        continue;
                    };
                    if slot.replace(read_u64(tree, at, value, length)?).is_some() {
                        return Err(tree.fail(at, Fault::Duplicate));
                    }
                }
                (_, Token::Property { .. }) => {}
                // What another version may put below is passed over, but for its balance.
                (_, Token::Begin { .. }) => depth += 1,
                (_, Token::End) if depth == 0 => break,
                (_, Token::End) => depth -= 1,
                (at, Token::Finish) => {
                    return Err(tree.fail(at, Fault::Malformed { expected: "end of the node" }));
                }
            }
        }
        let addr = addr.ok_or_else(|| tree.fail(offset, Fault::Missing { property: DATA }))?;
        Ok(Subtree { name, addr: PhysAddr::new(addr), size })
    }
}

impl Iterator for Subtrees<'_> {
    type Item = Result<Subtree, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step();
        self.done = !matches!(step, Ok(Some(_)));
        step.transpose()
    }
}

/// Returns the 64-bit value of a property at `offset` whose value stands at `value`.
fn read_u64(tree: &DeviceTree<'_>, offset: usize, value: usize, length: u32) -> Result<u64, Error> {
    let found = match length {
        8 => tree.value(value),
        _ => None,
    };
    found.ok_or_else(|| tree.fail(offset, Fault::Length { expected: 8, found: length.into() }))
}

/// Returns what the root's `compatible` says, if all of it is known.
#[inline(never)]
fn read_compat(tree: &DeviceTree<'_>, value: usize, length: u32) -> Result<Compat, Error> {
    let length = u32_to_usize(length);
    // Without the zero at the end: those that stand between strings are part of the text.
    let zero = tree.bytes(value..value.saturating_add(length)).last() == Some(0);
    let end = value.saturating_add(length.saturating_sub(usize::from(zero)));
    let compat = FORMAT.read(&tree.bytes(value..end)).map_err(|fault| tree.fail(value, fault))?;
    let missing = Fault::Malformed { expected: "zero at the end of the text" };
    if zero { Ok(compat) } else { Err(tree.fail(value, missing)) }
}

// The capture that most of these read has 4 KiB pages.
#[cfg(all(test, not(any(heirloom_page = "16k", heirloom_page = "64k"))))]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::RootPage;
    use super::*;
    use crate::addr::{PAGE_SIZE, PhysAddr};
    use crate::excerpt::Excerpt;
    use crate::fault::{Table, TableError};
    use crate::sync::Ordering::Relaxed;
    use crate::testing::{fixture, proptest_config, words32};

    const AT: PhysAddr = PhysAddr::new(0x50_f000);

    fn view_of(bytes: &[u8]) -> Result<Vec<Subtree>, Error> {
        let words = words32(bytes);
        let view = RootView::new(&words, AT)?;
        view.subtrees().collect()
    }

    fn faults(bytes: &[u8]) -> (usize, Fault) {
        match view_of(bytes) {
            Err(Error::Table(TableError { table: Table::Root, at: AT, offset, fault })) => {
                (offset, fault)
            }
            other => panic!("{other:?}"),
        }
    }

    fn linux_root() -> Vec<u8> {
        fixture().read(AT, 4096)
    }

    #[test]
    fn linux_own_root_is_read() {
        let words = words32(&linux_root());
        let view = RootView::new(&words, AT).unwrap();
        assert_eq!(view.map(), PhysAddr::new(0x50_e000));
        let subtrees: Vec<_> = view.subtrees().map(|s| s.unwrap()).collect();
        let found: Vec<_> =
            subtrees.iter().map(|s| (s.name.as_str(), s.addr.get(), s.size)).collect();
        assert_eq!(
            found,
            [
                ("LUO", 0x70_a000, Some(32)),
                ("kho_test", 0x58_c000, Some(240)),
                ("kexec-metadata", 0x51_6000, Some(73)),
            ]
        );
        let name = Name::new("kho_test").unwrap();
        assert_eq!(view.find(&name), Ok(subtrees[1]));
        let name = Name::new("kho").unwrap();
        assert_eq!(view.find(&name), Err(Error::NoSuchSubtree { name }));
    }

    #[test]
    fn each_fault_names_its_byte() {
        let good = linux_root();
        let with = |offset: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[offset..offset + bytes.len()].copy_from_slice(bytes);
            faults(&bad)
        };
        let malformed = |expected| Fault::Malformed { expected };
        assert_eq!(with(0, &[0]), (0, Fault::Magic { found: 0x0d_feed }));
        assert_eq!(with(23, &[16]), (20, Fault::Version { found: 16, known: 17 }));
        assert_eq!(with(27, &[18]), (24, Fault::Version { found: 18, known: 17 }));
        let limit = 4096;
        assert_eq!(with(5, &[1]), (4, Fault::TooMany { found: 0x1_0159, limit }));
        assert_eq!(with(36, &[0xff; 4]), (8, malformed("block within the tree")));
        assert_eq!(with(8, &[0, 0, 0, 0]), (8, malformed("block within the tree")));
        assert_eq!(with(11, &[0x39]), (8, malformed("aligned block")));
        assert_eq!(with(39, &[8]), (64, malformed("token within the struct block")));
        assert_eq!(with(39, &[4]), (56, malformed("end of the node's name")));
        // The root's properties stand at 0x40 (compatible) and 0x54 (the map).
        assert_eq!(with(0x4c, b"kho-v5"), (0x4c, Fault::Version { found: 5, known: 4 }));
        for name in [&b"kxo-v4"[..], b"kho-v4;", b"kho-v04", b"kho-v4 ", b"kho-v"] {
            let mut text = name.to_vec();
            text.resize(7, 0);
            let found =
                Excerpt::of(text.iter().copied().take(text.len() - 1 + usize::from(text[6] != 0)));
            let unknown = Fault::Unknown { found, expected: "kho-v4" };
            assert_eq!(with(0x4c, &text), (0x4c, unknown));
        }
        let length = Fault::Length { expected: 8, found: 4 };
        assert_eq!(with(0x5b, &[4]), (0x54, length));
        let addr = PhysAddr::new(0x50_e001);
        assert_eq!(with(0x60, &[1]), (0x60, Fault::Misaligned { addr }));
        assert_eq!(with(0x5c, &[0, 0, 0, 0x15]), (0x54, Fault::Duplicate));
        let missing = Fault::Missing { property: MAP };
        assert_eq!(with(0x5c, &[0, 0, 1, 0]), (0x38, missing));
        // The first subtree, "LUO", stands at 0x68.
        assert_eq!(with(0x6c, b"/"), (0x68, malformed("name of a subtree")));
        assert_eq!(with(0x6b, &[0x0b]), (0x68, malformed("token known")));
        assert_eq!(with(0x70, &[0xff]), (0x70, malformed("token known")));
    }

    #[test]
    fn a_name_twice_is_found() {
        let mut bad = linux_root();
        let at = bad.windows(8).position(|w| w == b"kho_test").unwrap();
        bad[at..at + 4].copy_from_slice(b"LUO\0");
        // The name is now shorter than its field: what follows is no token.
        assert!(matches!(faults(&bad), (_, Fault::Malformed { .. })));
        let words = words32(&[0; PAGE_SIZE]);
        let mut page = RootPage::create(&words, AT, PhysAddr::new(0x10_0000)).unwrap();
        for name in ["twin-a", "twin-b"] {
            page.add(Name::new(name).unwrap(), AT, 1).unwrap();
        }
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()).collect();
        let at = bytes.windows(6).position(|w| w == b"twin-b").unwrap();
        bytes[at + 5] = b'a';
        assert_eq!(faults(&bytes), (at - 4, Fault::Duplicate));
    }

    #[test]
    fn what_is_not_known_is_skipped() {
        let mut odd = linux_root();
        // "blob-size" becomes a property that is not known, its value of no fixed length.
        let at = odd.windows(9).position(|w| w == b"blob-size").unwrap();
        odd[at] = b'x';
        let found = view_of(&odd).unwrap();
        assert_eq!(found.iter().map(|s| s.size).collect::<Vec<_>>(), [None, None, None]);
        assert_eq!(found[2].addr, PhysAddr::new(0x51_6000));
    }

    /// Returns what another reader, strict about names and order, makes of the same bytes.
    fn dtoolkit_reads(bytes: &[u8]) -> Option<Vec<(std::string::String, u64)>> {
        use dtoolkit::fdt::Fdt;
        use dtoolkit::{Node, Property};
        let total = u32::from_be_bytes(bytes.get(4..8)?.try_into().unwrap());
        let fdt = Fdt::new(bytes.get(..total as usize)?).ok()?;
        let read = |node: dtoolkit::fdt::FdtNode<'_>| {
            let value = node.property(DATA)?.value().to_vec();
            Some((node.name().into(), u64::from_ne_bytes(value.try_into().ok()?)))
        };
        fdt.root().children().map(read).collect()
    }

    #[test]
    fn a_reader_of_another_make_agrees() {
        let bytes = linux_root();
        let ours = view_of(&bytes).unwrap();
        let ours: Vec<_> = ours.iter().map(|s| (s.name.as_str().into(), s.addr.get())).collect();
        assert_eq!(dtoolkit_reads(&bytes), Some(ours));
    }

    proptest! {
        #![proptest_config(proptest_config(256))]

        #[test]
        fn mutated_roots_are_read_or_refused(
            hits in prop::collection::vec((0_usize..400, any::<u8>()), 1..6),
        ) {
            let mut bytes = linux_root();
            for (at, byte) in hits {
                bytes[at] = byte;
            }
            if let Ok(ours) = view_of(&bytes)
                && let Some(theirs) = dtoolkit_reads(&bytes)
            {
                let ours: Vec<_> =
                    ours.iter().map(|s| (s.name.as_str().into(), s.addr.get())).collect();
                prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn random_struct_blocks_are_read_or_refused(
            words in prop::collection::vec(
                prop_oneof![
                    Just(1_u32), Just(2), Just(3), Just(4), Just(9), Just(8), Just(0),
                    0_u32..64, any::<u32>(),
                ],
                1..120,
            ),
        ) {
            let mut bytes = linux_root();
            for (i, word) in words.iter().enumerate() {
                let at = 0x38 + i * 4;
                if at >= 0x120 {
                    break;
                }
                bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
            }
            let _ = view_of(&bytes);
        }

        #[test]
        fn random_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = view_of(&bytes);
            if let Some(magic) = bytes.get_mut(..4) {
                magic.copy_from_slice(&crate::fdt::FDT_MAGIC.to_be_bytes());
            }
            prop_assert!(view_of(&bytes).is_err());
        }
    }
}
