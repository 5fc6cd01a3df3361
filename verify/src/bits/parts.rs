//! The tables of a handover, and which of their bytes a seal covers.

use core::ops::Range;

use heirloom::kho::{Header, Left as LeftPages, PhysAddr, RootView, SUBTREE, Sealed};

use crate::world::{Left, PAGE, Place, TableAt, TestMachine};

/// Who sees that a bit of a table fell over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// The seal, which names a table of this kind.
    Seal(Sealed),
    /// The page of the `heirloom` subtree itself, which names itself.
    Header,
    /// The seal's table, which is not the one that was made.
    Table,
    /// Nobody.
    Nobody,
}

/// A table, or a stretch of bytes beside one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// What it is.
    pub what: &'static str,
    /// Its first byte.
    pub addr: PhysAddr,
    /// The bytes, from there, in stretches that are seen by different ones.
    pub bytes: Vec<(Range<usize>, Seen)>,
}

impl Part {
    /// One that is all of a kind.
    fn whole(what: &'static str, addr: PhysAddr, bytes: usize, seen: Seen) -> Self {
        Self { what, addr, bytes: vec![(0..bytes, seen)] }
    }
}

/// Every table of a sealed handover, each whole page of it, and every byte that was published.
///
/// # Panics
/// If it is not the handover that it says.
pub fn parts_of(machine: &TestMachine, left: &Left) -> Vec<Part> {
    let page = PAGE as usize;
    let mut parts: Vec<_> = left.tables.iter().map(|table| part_of(machine, *table)).collect();
    let bare = LeftPages::bare(machine);
    let root = RootView::read(&bare, left.entry.root).expect("a root page");
    for subtree in root.subtrees() {
        let subtree = subtree.expect("a sound root page");
        if subtree.name.as_str() != SUBTREE {
            let bytes = subtree.size.unwrap_or(0) as usize;
            let all = bytes.next_multiple_of(page).max(page);
            let seen = Seen::Seal(Sealed::Subtree);
            let stretches = vec![(0..bytes, seen), (bytes..all, Seen::Nobody)];
            parts.push(Part { what: "published bytes", addr: subtree.addr, bytes: stretches });
        }
    }
    parts
}

fn part_of(machine: &TestMachine, table: TableAt) -> Part {
    let TableAt { place, addr, bytes } = table;
    let page = PAGE as usize;
    let sealed = |what, kind| Part::whole(what, addr, bytes, Seen::Seal(kind));
    match place {
        Place::Root => sealed("root page", Sealed::Root),
        Place::Scratch => sealed("scratch list", Sealed::Scratch),
        Place::Node => sealed("tracker node", Sealed::Node),
        Place::Directory | Place::Slabs => sealed("cache directory page", Sealed::CacheDirectory),
        // No kernel of ours leaves these.
        Place::Linux | Place::File => Part::whole("table", addr, bytes, Seen::Nobody),
        Place::Slab => {
            // What follows up to the states is this kernel's own business.
            let stretches = vec![(0..bytes, Seen::Seal(Sealed::Slab)), (bytes..128, Seen::Nobody)];
            Part { what: "slab header", addr, bytes: stretches }
        }
        Place::States => Part::whole("object states", addr, bytes, Seen::Nobody),
        Place::Area => Part::whole("area chunk", addr, bytes, Seen::Nobody),
        Place::Records => Part::whole("record block", addr, bytes, Seen::Nobody),
        Place::Seal => {
            // A link and a count, and so many entries of 24 bytes.
            let count = machine.word(PhysAddr::new(addr.get() + 8)) as usize;
            let used = 16 + 24 * count;
            let stretches = vec![(0..used, Seen::Table), (used..page, Seen::Nobody)];
            Part { what: "seal's table", addr, bytes: stretches }
        }
        Place::Header => {
            let says = |offset: usize, first: &[u8; 8]| {
                let found = machine.word(PhysAddr::new(addr.get() + offset as u64));
                found == u64::from_le_bytes(*first)
            };
            // Of the two halves, and of the two seals, the one that holds and the other one.
            let turn = |first, one, other| if first { (one, other) } else { (other, one) };
            let (half, other) = turn(says(216, b"half-one"), 24..120, 120..216);
            let first = says(Header::FIXED, b"sealed-1");
            let (seal, unused) = turn(first, 232..256, 256..Header::SIZE);
            let mut stretches = vec![
                (0..24, Seen::Header),
                (half, Seen::Header),
                (other, Seen::Seal(Sealed::Subtree)),
                (216..Header::FIXED, Seen::Header),
                (Header::FIXED..232, Seen::Header),
                (seal, Seen::Table),
                (unused, Seen::Nobody),
                (Header::SIZE..page, Seen::Nobody),
            ];
            stretches.sort_by_key(|(range, _)| range.start);
            Part { what: "subtree page", addr, bytes: stretches }
        }
    }
}
