//! What a predecessor wrote where no reader looks: a successor goes on in the same tables for as long as it
//! lives, and still does not follow it.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;
#[path = "common/foreign.rs"]
mod foreign;

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use common::memory;
use foreign::{lay_out, says, words};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Request};
use heirloom_kho::{Block, Handle, Order, PAGE_SIZE, Parts, PhysAddr};
use heirloom_restore::{
    Entry, Error, Finished, Heirloom, PreservedArea, Records, SealPolicy, Unclaimed,
};

const FRAMES: u64 = 1024;
const PAGE: u64 = PAGE_SIZE as u64;

type Kernel<'r> = Heirloom<&'r Ram>;
type Row = [u64; 3];

fn machine() -> Ram {
    Ram::over(&Ram::frames(FRAMES))
}

fn boot(ram: &Ram) -> Kernel<'_> {
    Heirloom::<&Ram>::boot_memory(memory(ram, FRAMES), &[], "first").unwrap()
}

fn revive(ram: &Ram, entry: Entry) -> Kernel<'_> {
    Heirloom::<&Ram>::revive_memory(memory(ram, FRAMES), entry, "next", SealPolicy::Checked)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Words that look like addresses of frames, counts and entries.
fn litter(words: &[AtomicU64], looks_like: &[PhysAddr]) {
    for (n, word) in words.iter().enumerate() {
        let at = looks_like[n % looks_like.len()].get();
        word.store([at, at | 1, u64::MAX, 1][n % 4], Relaxed);
    }
}

const fn row(n: u64) -> Row {
    [n, !n, n << 7]
}

fn rows(list: &Records<'_, &Ram, Row>) -> Vec<Row> {
    let mut found = Vec::new();
    list.for_each(|row| found.push(row)).unwrap();
    found
}

/// Fails if a list is read, or gone on with, by anything but its counts.
#[test]
fn what_stands_behind_the_counts_of_a_list_is_never_read_and_is_written_over() {
    let per_block = (PAGE - 16) / size_of::<Row>() as u64;
    // In the first block; in the second; a second that is full.
    for length in [2, per_block + 5, 2 * per_block] {
        let ram = machine();
        let first = boot(&ram);
        let mut list = Records::<_, Row>::new(first.memory()).unwrap();
        (0..length).for_each(|n| list.push(&row(n)).unwrap());
        let other = Records::<_, Row>::new(first.memory()).unwrap().first();
        let head = list.first();
        let handle = Handle::new(Parts::Records { first: head, entry: size_of::<Row>() as u64 });
        let (handle, entry) = (handle.unwrap(), first.entry());
        drop(first);
        // Each block of it, and the words behind what its count says.
        let mut at = head;
        while at.get() != 0 {
            let words = words(&ram, at, PAGE_SIZE);
            let entries = words[1].load(Relaxed) as usize;
            litter(&words[2 + 3 * entries..], &[head, other, entry.root]);
            at = PhysAddr::new(words[0].load(Relaxed));
        }
        let kernel = revive(&ram, entry);
        let mut list = kernel.claim_records::<Row>(handle).unwrap();
        assert_eq!((list.len(), rows(&list)), (length, (0..length).map(row).collect()));
        let more = length + 2 * per_block;
        for n in length..more {
            list.push(&row(n)).unwrap();
            if n % 50 == 0 {
                // One that starts in the middle of it.
                let copy = machine();
                let next = revive(copy_of(&ram, &copy), entry);
                let list = next.claim_records::<Row>(handle).unwrap();
                assert_eq!(rows(&list), (0..=n).map(row).collect::<Vec<_>>());
            }
        }
        drop(list);
        let next = revive(&ram, entry);
        let list = next.claim_records::<Row>(handle).unwrap();
        assert_eq!(rows(&list), (0..more).map(row).collect::<Vec<_>>());
        list.free().map_err(|(_, error)| error).unwrap();
        // The other one is told, and nothing else.
        assert_eq!(next.finish(|_| Disposition::Keep).unwrap().folios, 1);
        next.memory().audit().unwrap();
    }
}

/// Gives a machine the memory of another.
fn copy_of<'c>(ram: &Ram, copy: &'c Ram) -> &'c Ram {
    let [(run, _)] = Ram::frames(FRAMES);
    let bytes = usize::try_from(run.bytes()).unwrap();
    for (to, from) in words(copy, run.addr(), bytes).iter().zip(words(ram, run.addr(), bytes)) {
        to.store(from.load(Relaxed), Relaxed);
    }
    copy
}

/// Fails if an area's chunk is read behind its end.
#[test]
fn what_stands_behind_the_blocks_of_an_area_is_never_read() {
    let ram = machine();
    let first = boot(&ram);
    let memory = first.memory();
    let blocks: Vec<Block> =
        (0..5).map(|_| memory.alloc(Request::new(Order::ZERO)).unwrap()).collect();
    // SAFETY: allocated just now, and told to nothing else.
    let area = unsafe { PreservedArea::preserve(memory, blocks.clone(), Order::ZERO, false) };
    let info = area.unwrap().into_raw();
    let bystander = memory.alloc_folio(Request::new(Order::ZERO)).unwrap();
    let bystander = bystander.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
    let (bystander, entry) = (bystander.into_raw(), first.entry());
    drop(first);
    let words = words(&ram, info.first(), PAGE_SIZE);
    // Behind the word that says that there is none.
    litter(&words[2 + blocks.len()..], &[bystander.addr(), info.first(), blocks[0].addr()]);
    let kernel = revive(&ram, entry);
    let area = kernel.claim_area(Handle::new(Parts::Area(info)).unwrap()).unwrap();
    let mut found = Vec::new();
    area.for_each(|block| found.push(block)).unwrap();
    assert_eq!(found, blocks);
    let mut gone = Vec::new();
    area.unpreserve(|block| gone.push(block)).map_err(|(_, error)| error).unwrap();
    assert_eq!(gone, blocks);
    assert!(kernel.memory().preserved().contains(bystander));
    let told = kernel.finish(|_| Disposition::Keep).unwrap();
    assert_eq!(told, Finished { folios: 1, frames: 1, ..Finished::default() });
    kernel.memory().audit().unwrap();
}

/// Names that share frames, in a root page of another layout: each of them starts elsewhere, or is longer.
fn share_frames(ram: &Ram) -> (Entry, [Block; 2]) {
    let first = boot(ram);
    let bytes = vec![7; 3 * PAGE_SIZE];
    first.publish("whole", &bytes).unwrap();
    first.publish("other", &[8; 16]).unwrap();
    let entry = first.entry();
    drop(first);
    let (map, mut names) = says(ram, entry.root);
    let at = |names: &[(String, u64, Option<u64>)], name: &str| {
        names.iter().find(|(found, ..)| found == name).unwrap().1
    };
    let (whole, other) = (at(&names, "whole"), at(&names, "other"));
    let more = [
        ("start", whole, Some(1)),
        ("inside", whole + PAGE, Some(PAGE)),
        ("crooked", whole + 24, Some(8)),
        ("unsized", whole, None),
        ("twice", other, Some(16)),
    ];
    names.extend(more.map(|(name, at, size)| (name.to_owned(), at, size)));
    lay_out(ram, entry.root, map, &names);
    let block = |at: u64, frames| {
        Block::containing(PhysAddr::new(at).pfn(), Order::for_frames(frames).unwrap())
    };
    (entry, [block(whole, 3), block(other, 1)])
}

/// Fails if a block is given back, or claimed anew, while a name leads into it.
#[test]
fn names_that_share_frames_keep_them_until_the_last_is_gone() {
    // In this kernel's page, to which they are copied; and in the predecessor's, until that has ended.
    for ended in [true, false] {
        let ram = machine();
        let (old, [whole, other]) = share_frames(&ram);
        let mut kernel = revive(&ram, old);
        if ended {
            kernel.finish(|_| Disposition::Keep).unwrap();
            let entry = kernel.entry();
            drop(kernel);
            kernel = revive(&ram, entry);
        }
        let root = kernel.claim_root("whole").unwrap();
        assert_eq!(root.bytes(), vec![7; 3 * PAGE_SIZE]);
        drop(root);
        // One claims the block; a name that starts inside is no root.
        for name in ["start", "inside", "crooked", "unsized"] {
            let refused = kernel.claim_root(name).map(|_| ());
            assert!(matches!(refused, Err(Error::NotInherited { .. })), "{name}: {refused:?}");
        }
        kernel.unpublish("whole").unwrap();
        assert!(kernel.memory().preserved().contains(whole), "others lead there");
        // So too if what leads there is told, and struck out one after another.
        let mut left = 5;
        kernel
            .finish(|unclaimed| {
                let kept = kernel.memory().preserved().contains(whole);
                if matches!(unclaimed, Unclaimed::Subtree { .. }) {
                    assert!(kept, "{left} names lead there");
                    left -= 1;
                }
                Disposition::Free
            })
            .unwrap();
        assert!(left < 2, "{left}");
        assert!(!kernel.memory().preserved().contains(other), "no name is left, nor an owner");
        kernel.memory().audit().unwrap();
        // What the claimed one led to had no name of its own when the last one went: it went with the
        // predecessor's entry, or the next kernel is told.
        let next = revive(&ram, kernel.entry());
        let mut told = Vec::new();
        next.finish(|unclaimed| {
            told.push(unclaimed);
            Disposition::Free
        })
        .unwrap();
        assert_eq!(told.first(), Some(&Unclaimed::Folio(whole)).filter(|_| ended));
        assert_eq!(told.len(), usize::from(ended));
        assert!(!next.memory().preserved().contains(whole));
        next.memory().audit().unwrap();
    }
}
