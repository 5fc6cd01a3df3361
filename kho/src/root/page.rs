//! Writing a root page so that it is a whole tree at any instant.

use super::view::{RootView, Subtree};
use super::{COMPATIBLE, DATA, MAP, Name, SIZE};
use crate::addr::{PAGE_BYTES, PAGE_SIZE, PhysAddr, Run};
use crate::error::Error;
use crate::fault::Table;
use crate::fdt::{FDT_LAST_COMPATIBLE, FDT_MAGIC, FDT_VERSION, header, token};
use crate::narrow::usize_to_u32;
use crate::store;
use crate::sync::AtomicU32;
use crate::sync::Ordering::{Relaxed, Release};

/// Every property's name, each ended by a zero, and padding to a whole word.
const STRINGS: &[u8; 60] = b"compatible\0preserved-memory-map\0preserved-data\0blob-size\0\0\0\0";
/// The part of [`STRINGS`] that holds names.
const STRINGS_SIZE: usize = 57;
const COMPATIBLE_AT: usize = 0;
const MAP_AT: usize = COMPATIBLE_AT + "compatible".len() + 1;
const DATA_AT: usize = MAP_AT + MAP.len() + 1;
const SIZE_AT: usize = DATA_AT + DATA.len() + 1;
const _: () = assert!(SIZE_AT + SIZE.len() + 1 == STRINGS_SIZE, "every name stands in STRINGS");

const WORDS: usize = PAGE_SIZE / 4;
/// The reserve map: one entry, all zeroes, which ends it.
const RESERVE_AT: usize = header::BYTES;
const RESERVE_SIZE: usize = 16;
const FIRST_HALF: usize = RESERVE_AT + RESERVE_SIZE;
/// Bytes of each of the two struct blocks.
const HALF: usize = (PAGE_SIZE - FIRST_HALF - STRINGS.len()) / 2 / 8 * 8;
const SECOND_HALF: usize = FIRST_HALF + HALF;
const STRINGS_AT: usize = SECOND_HALF + HALF;
const _: () = assert!(STRINGS_AT + STRINGS.len() <= PAGE_SIZE && FIRST_HALF.is_multiple_of(8));

/// The root page of this kernel's handover.
///
/// # Examples
/// ```
/// use core::sync::atomic::AtomicU32;
/// use heirloom_kho::{PAGE_SIZE, PhysAddr};
/// use heirloom_kho::{Name, RootPage};
///
/// let words = [const { AtomicU32::new(0) }; PAGE_SIZE / 4];
/// let at = PhysAddr::new(0x10_0000);
/// let mut root = RootPage::create(&words, at, PhysAddr::new(0x20_0000))?;
/// let name = Name::new("guest-memory")?;
/// root.add(name, PhysAddr::new(0x30_0000), 512)?;
/// assert_eq!(root.view()?.find(&name)?.size, Some(512));
/// # Ok::<(), heirloom_kho::Error>(())
/// ```
#[derive(Debug)]
pub struct RootPage<'a> {
    words: &'a [AtomicU32],
    at: PhysAddr,
}

/// What an edit does to the tree.
#[derive(Clone, Copy)]
pub enum Edit {
    /// Adds a subtree.
    Add(Subtree),
    /// Gives the subtree of this name another place.
    Replace(Subtree),
    /// Removes the subtree of this name.
    Remove(Name),
    /// Gives the tree of what is preserved another root.
    Map(PhysAddr),
}

impl<'a> RootPage<'a> {
    /// No page has more subtrees: each is a node of a name and one property of 8 bytes at least. (What
    /// this kernel adds has two; what it goes on with may not.)
    pub const MOST: usize = HALF / (4 + 4 + (12 + 8) + 4);

    /// Lays out a root without subtrees in `words`, the page at `at`, whose map is at `map`.
    ///
    /// The page must be told to a successor only after this, and nothing else may write it while
    /// the value lives.
    ///
    /// # Errors
    /// [`Error::BadRun`] if `words` are not one whole page, or `at` or `map` starts no page.
    pub fn create(words: &'a [AtomicU32], at: PhysAddr, map: PhysAddr) -> Result<Self, Error> {
        if words.len() != WORDS || !at.is_page_aligned() || !is_map(map) {
            return Err(bad_run(at));
        }
        for word in words {
            store::word32(word, 0, Relaxed);
        }
        let page = Self { words, at };
        for (i, name) in STRINGS.chunks_exact(4).enumerate() {
            page.put(STRINGS_AT / 4 + i, be_word(name));
        }
        let mut block = Emit { page: &page, at: FIRST_HALF, end: SECOND_HALF };
        block.open(map);
        block.close();
        page.put(header::TOTAL_SIZE, usize_to_u32(PAGE_SIZE));
        page.put(header::OFF_STRUCT, usize_to_u32(FIRST_HALF));
        page.put(header::OFF_STRINGS, usize_to_u32(STRINGS_AT));
        page.put(header::OFF_RESERVE, usize_to_u32(RESERVE_AT));
        page.put(header::VERSION, FDT_VERSION);
        page.put(header::LAST_COMPATIBLE, FDT_LAST_COMPATIBLE);
        page.put(header::SIZE_STRINGS, usize_to_u32(STRINGS_SIZE));
        // The whole half: the tree ends in it with FDT_END, and this word never has to change
        // together with the offset.
        page.put(header::SIZE_STRUCT, usize_to_u32(HALF));
        page.put(header::MAGIC, FDT_MAGIC);
        Ok(page)
    }

    /// Returns the page that [`RootPage::create`] laid out in `words` before.
    ///
    /// # Errors
    /// [`Error::Table`] if something else wrote the page.
    pub fn reopen(words: &'a [AtomicU32], at: PhysAddr) -> Result<Self, Error> {
        RootView::new(words, at)?;
        Ok(Self::again(words, at))
    }

    /// Returns the page that [`RootPage::create`] laid out in `words`, or [`RootView::new`] found whole,
    /// before, and that only its owner has edited since.
    pub const fn again(words: &'a [AtomicU32], at: PhysAddr) -> Self {
        Self { words, at }
    }

    /// Returns whether the page is laid out as [`RootPage::create`] does it, so that this build can
    /// go on with it: an edit keeps to the half that is not in use.
    pub fn is_ours(&self) -> bool {
        let word =
            |index: usize| self.words.get(index).map(|word| u32::from_be(word.load(Relaxed)));
        let fixed = [
            (header::TOTAL_SIZE, usize_to_u32(PAGE_SIZE)),
            (header::OFF_STRINGS, usize_to_u32(STRINGS_AT)),
            (header::OFF_RESERVE, usize_to_u32(RESERVE_AT)),
            (header::VERSION, FDT_VERSION),
            (header::LAST_COMPATIBLE, FDT_LAST_COMPATIBLE),
            (header::SIZE_STRINGS, usize_to_u32(STRINGS_SIZE)),
            (header::SIZE_STRUCT, usize_to_u32(HALF)),
        ];
        let half = [FIRST_HALF, SECOND_HALF].map(|half| Some(usize_to_u32(half)));
        let mut strings = (STRINGS_AT / 4..).zip(STRINGS.chunks_exact(4));
        self.words.len() == WORDS
            && fixed.into_iter().all(|(index, value)| word(index) == Some(value))
            && half.contains(&word(header::OFF_STRUCT))
            && (RESERVE_AT / 4..FIRST_HALF / 4).all(|index| word(index) == Some(0))
            && strings.all(|(index, name)| word(index) == Some(be_word(name)))
    }

    /// Returns the page's address: what a successor is told.
    pub const fn at(&self) -> PhysAddr {
        self.at
    }

    /// Returns the tree as it is now.
    ///
    /// # Errors
    /// [`Error::Table`] if something else wrote the page.
    pub fn view(&self) -> Result<RootView<'_>, Error> {
        RootView::again(self.words, self.at)
    }

    /// Adds a subtree: `size` bytes at `addr`.
    ///
    /// # Errors
    /// [`Error::NameTaken`], [`Error::RootFull`]; [`Error::Table`] if something else wrote the
    /// page.
    pub fn add(&mut self, name: Name, addr: PhysAddr, size: u64) -> Result<(), Error> {
        self.edit(Edit::Add(Subtree { name, addr, size: Some(size) }), || Ok(()))
    }

    /// Lets a subtree that is there lead to `size` bytes at `addr`, in one step.
    ///
    /// # Errors
    /// [`Error::NoSuchSubtree`]; [`Error::Table`] if something else wrote the page.
    pub fn replace(&mut self, name: Name, addr: PhysAddr, size: u64) -> Result<(), Error> {
        self.edit(Edit::Replace(Subtree { name, addr, size: Some(size) }), || Ok(()))
    }

    /// Removes a subtree.
    ///
    /// # Errors
    /// [`Error::NoSuchSubtree`]; [`Error::Table`] if something else wrote the page.
    pub fn remove(&mut self, name: Name) -> Result<(), Error> {
        self.edit(Edit::Remove(name), || Ok(()))
    }

    /// Sets the address of the tracker's root node.
    ///
    /// # Errors
    /// [`Error::BadRun`] if `map` starts no page; [`Error::Table`] if something else wrote the
    /// page.
    pub fn set_map(&mut self, map: PhysAddr) -> Result<(), Error> {
        if !is_map(map) {
            return Err(bad_run(map));
        }
        self.edit(Edit::Map(map), || Ok(()))
    }

    /// Composes the edited tree in the half that is not in use, and turns to it. Once nothing
    /// speaks against that, and before anything is written, `first` is called.
    ///
    /// # Errors
    /// As for [`RootPage::add`] and its siblings, and those of `first`; nothing is changed then.
    pub fn edit<E: From<Error>>(
        &mut self,
        edit: Edit,
        first: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let (start, end) = self.other_half();
        self.try_edit(edit)?;
        first()?;
        self.compose(edit, Emit { page: self, at: start, end }, end)?;
        if let Some(word) = self.words.get(header::OFF_STRUCT) {
            // Release: a reader of the new offset (`DeviceTree::open`'s Acquire) sees the new tree.
            store::word32(word, usize_to_u32(start).to_be(), Release);
        }
        Ok(())
    }

    /// Checks whether an edit can be made; nothing is written.
    ///
    /// # Errors
    /// As for the edit.
    pub fn try_edit(&self, edit: Edit) -> Result<(), Error> {
        let (start, end) = self.other_half();
        self.compose(edit, Emit { page: self, at: start, end: start }, end)
    }

    /// Returns where the half that is not in use begins and ends.
    fn other_half(&self) -> (usize, usize) {
        match self.words.get(header::OFF_STRUCT) {
            Some(word) if u32::from_be(word.load(Relaxed)) == usize_to_u32(FIRST_HALF) => {
                (SECOND_HALF, STRINGS_AT)
            }
            _ => (FIRST_HALF, SECOND_HALF),
        }
    }

    /// Writes the edited tree, which has to end at `end`.
    fn compose(&self, edit: Edit, mut block: Emit<'_, '_>, end: usize) -> Result<(), Error> {
        // Checked when the page was made or opened, and this value's alone since.
        let (view, start) = (RootView::again(self.words, self.at)?, block.at);
        block.open(if let Edit::Map(map) = edit { map } else { view.map() });
        let mut found = false;
        for subtree in view.subtrees() {
            let subtree = subtree?;
            match edit {
                Edit::Add(new) if new.name == subtree.name => {
                    return Err(Error::NameTaken { name: new.name });
                }
                Edit::Replace(new) if new.name == subtree.name => {
                    found = true;
                    block.subtree(&new);
                }
                Edit::Remove(name) if name == subtree.name => found = true,
                _ => block.subtree(&subtree),
            }
        }
        if let Edit::Add(new) = edit {
            block.subtree(&new);
        }
        block.close();
        match edit {
            Edit::Replace(Subtree { name, .. }) | Edit::Remove(name) if !found => {
                Err(Error::NoSuchSubtree { name })
            }
            // Another in its place may say how many bytes it has, where the one before did not.
            Edit::Add(Subtree { name, .. }) | Edit::Replace(Subtree { name, .. })
                if block.at > end =>
            {
                let needed = block.at - start;
                Err(Error::RootFull { name, needed, limit: HALF })
            }
            _ => Ok(()),
        }
    }

    /// Stores a big-endian word.
    fn put(&self, index: usize, value: u32) {
        if let Some(word) = self.words.get(index) {
            store::word32(word, value.to_be(), Relaxed);
        }
    }
}

/// Writes a struct block from byte `at` to `end`. What does not fit is counted, not written.
struct Emit<'p, 'a> {
    page: &'p RootPage<'a>,
    at: usize,
    end: usize,
}

impl Emit<'_, '_> {
    fn word(&mut self, value: u32) {
        if self.at < self.end {
            self.page.put(self.at / 4, value);
        }
        self.at += 4;
    }

    /// Writes bytes and as many zeroes as fill the last word.
    fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(4) {
            self.word(be_word(chunk));
        }
    }

    /// Writes a name or string: bytes and at least one zero.
    fn string(&mut self, bytes: &[u8]) {
        self.bytes(bytes);
        if bytes.len().is_multiple_of(4) {
            self.word(0);
        }
    }

    fn property(&mut self, name: usize, value: u64) {
        self.word(token::PROPERTY);
        self.word(8);
        self.word(usize_to_u32(name));
        self.bytes(&value.to_ne_bytes());
    }

    fn open(&mut self, map: PhysAddr) {
        self.word(token::BEGIN_NODE);
        self.word(0);
        self.word(token::PROPERTY);
        self.word(usize_to_u32(COMPATIBLE.len()) + 1);
        self.word(usize_to_u32(COMPATIBLE_AT));
        self.string(COMPATIBLE.as_bytes());
        self.property(MAP_AT, map.get());
    }

    fn subtree(&mut self, subtree: &Subtree) {
        self.word(token::BEGIN_NODE);
        self.string(subtree.name.as_bytes());
        self.property(DATA_AT, subtree.addr.get());
        if let Some(size) = subtree.size {
            self.property(SIZE_AT, size);
        }
        self.word(token::END_NODE);
    }

    fn close(&mut self) {
        self.word(token::END_NODE);
        self.word(token::END);
    }
}

/// Returns up to four bytes as the big-endian word that stands for them.
fn be_word(bytes: &[u8]) -> u32 {
    bytes.iter().zip([24, 16, 8, 0]).fold(0, |word, (byte, shift)| word | u32::from(*byte) << shift)
}

fn is_map(addr: PhysAddr) -> bool {
    addr.get() != 0 && addr.is_page_aligned()
}

fn bad_run(at: PhysAddr) -> Error {
    let run = Run::covering(at, PAGE_BYTES);
    let empty = crate::Block::containing(at.pfn(), crate::Order::ZERO).run();
    Error::BadRun { table: Table::Root, run: run.unwrap_or(empty) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::store::cut;
    use crate::testing::{proptest_config, words32};

    const AT: PhysAddr = PhysAddr::new(0x7000_0000);
    const MAP_ADDR: PhysAddr = PhysAddr::new(0x1_0000_0000);

    type Content = (PhysAddr, Vec<Subtree>);
    type Edit = fn(&mut RootPage<'_>) -> Result<(), Error>;

    fn page() -> Vec<AtomicU32> {
        words32(&[0xa5; PAGE_SIZE])
    }

    fn content(words: &[AtomicU32]) -> Content {
        let view = RootView::new(words, AT).unwrap();
        (view.map(), view.subtrees().map(Result::unwrap).collect())
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn edits_are_seen_and_refused_as_documented() {
        let words = page();
        let mut root = RootPage::create(&words, AT, MAP_ADDR).unwrap();
        assert_eq!(content(&words), (MAP_ADDR, Vec::new()));
        root.add(name("a"), AT, 1).unwrap();
        root.add(name("bcd"), AT, 2).unwrap();
        assert_eq!(root.add(name("a"), AT, 3), Err(Error::NameTaken { name: name("a") }));
        root.replace(name("a"), MAP_ADDR, 4).unwrap();
        root.set_map(AT).unwrap();
        let a = Subtree { name: name("a"), addr: MAP_ADDR, size: Some(4) };
        let bcd = Subtree { name: name("bcd"), addr: AT, size: Some(2) };
        assert_eq!(content(&words), (AT, [a, bcd].to_vec()));
        root.remove(name("a")).unwrap();
        let gone = Error::NoSuchSubtree { name: name("a") };
        assert_eq!(root.remove(name("a")), Err(gone));
        assert_eq!(root.replace(name("a"), AT, 0), Err(gone));
        assert_eq!(content(&words), (AT, [bcd].to_vec()));
    }

    #[test]
    fn only_whole_pages_become_roots() {
        let words = page();
        assert!(RootPage::create(&words[1..], AT, MAP_ADDR).is_err());
        assert!(RootPage::create(&words, PhysAddr::new(0x7000_0010), MAP_ADDR).is_err());
        assert!(RootPage::create(&words, AT, PhysAddr::new(0)).is_err());
        let mut root = RootPage::create(&words, AT, MAP_ADDR).unwrap();
        assert!(root.set_map(PhysAddr::new(12)).is_err());
    }

    #[test]
    fn a_full_root_says_so_and_stays() {
        let words = page();
        let mut root = RootPage::create(&words, AT, MAP_ADDR).unwrap();
        let mut count = 0;
        let error = loop {
            let text = std::format!("subtree-{count}");
            match root.add(name(&text), AT, count) {
                Ok(()) => count += 1,
                Err(e) => break e,
            }
        };
        // 60 bytes a node and 56 for the root.
        assert!(count as usize >= (HALF - 64) / 64, "{count} subtrees");
        let Error::RootFull { needed, limit, .. } = error else { panic!("{error:?}") };
        assert!(needed > limit && needed <= limit + 64);
        let (map, subtrees) = content(&words);
        assert_eq!((map, subtrees.len() as u64), (MAP_ADDR, count));
        root.remove(name("subtree-0")).unwrap();
        root.add(name("x"), AT, 0).unwrap();
    }

    /// Every stretch of stores that a jump can leave of an edit reads as before it or after it.
    #[test]
    fn at_any_instant_the_page_is_a_whole_tree() {
        let edits: [Edit; 4] = [
            |root| root.add(name("third"), AT, 3),
            |root| root.replace(name("first"), AT, 77),
            |root| root.remove(name("first")),
            |root| root.set_map(AT),
        ];
        for edit in edits {
            for stores in 0.. {
                let words = page();
                let mut root = RootPage::create(&words, AT, MAP_ADDR).unwrap();
                root.add(name("first"), MAP_ADDR, 1).unwrap();
                root.add(name("second-one"), MAP_ADDR, 2).unwrap();
                let before = content(&words);
                let (result, complete) = cut::after(stores, || edit(&mut root));
                result.unwrap();
                let after = content(&words);
                if complete {
                    assert_ne!(after, before);
                    break;
                }
                assert_eq!(after, before, "after {stores} stores");
                // What the cut left in the other half does not disturb the next edit.
                edit(&mut root).unwrap();
                assert_ne!(content(&words), before);
            }
        }
    }

    #[test]
    fn strict_readers_accept_both_halves() {
        use dtoolkit::fdt::Fdt;
        use dtoolkit::{Node, Property};
        let words = page();
        let mut root = RootPage::create(&words, AT, MAP_ADDR).unwrap();
        for i in 0..5_u64 {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()).collect();
            let fdt = Fdt::new(&bytes).unwrap();
            let node = fdt.root();
            assert_eq!(node.property("compatible").unwrap().value(), b"kho-v4\0");
            assert_eq!(node.property(MAP).unwrap().value(), MAP_ADDR.get().to_ne_bytes());
            let names: Vec<String> = node.children().map(|c| c.name().into()).collect();
            assert_eq!(names, (0..i).map(|i| std::format!("s{i}")).collect::<Vec<_>>());
            for (i, child) in node.children().enumerate() {
                assert_eq!(child.property(SIZE).unwrap().value(), (i as u64).to_ne_bytes());
            }
            root.add(name(&std::format!("s{i}")), AT, i).unwrap();
        }
    }

    proptest! {
        #![proptest_config(proptest_config(64))]

        #[test]
        fn a_root_behaves_like_a_map(
            edits in prop::collection::vec((0_u8..4, 0_u8..12, any::<u64>()), 1..60),
        ) {
            let words = page();
            let mut root = RootPage::create(&words, AT, MAP_ADDR).unwrap();
            let mut model = BTreeMap::new();
            let mut map = MAP_ADDR;
            for (what, which, value) in edits {
                let name = name(&"abcdefghijklmnop"[..=usize::from(which)]);
                let addr = PhysAddr::new(value);
                match what {
                    0 => {
                        let fresh = !model.contains_key(&name);
                        prop_assert_eq!(root.add(name, addr, !value).is_ok(), fresh);
                        model.entry(name).or_insert(value);
                    }
                    1 => {
                        let there = model.remove(&name).is_some();
                        prop_assert_eq!(root.remove(name).is_ok(), there);
                    }
                    2 => {
                        let there = model.contains_key(&name);
                        prop_assert_eq!(root.replace(name, addr, !value).is_ok(), there);
                        model.entry(name).and_modify(|v| *v = value);
                    }
                    _ => {
                        map = PhysAddr::new((value | 1 << 20) & !0xffff);
                        root.set_map(map).unwrap();
                    }
                }
                let (found_map, mut found) = content(&words);
                found.sort_by_key(|s| s.name);
                let expected: Vec<_> = model
                    .iter()
                    .map(|(name, v)| Subtree {
                        name: *name,
                        addr: PhysAddr::new(*v),
                        size: Some(!*v),
                    })
                    .filter(|s| model.contains_key(&s.name))
                    .collect();
                prop_assert_eq!((found_map, found), (map, expected));
            }
        }
    }
}
