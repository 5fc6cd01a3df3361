//! The same beside a predecessor's entry that leads to a root page of another make: until it is ended both are good.

use core::cell::RefCell;
use core::ptr::NonNull;
use std::string::ToString;
use std::vec::Vec;

use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Disposition};
use heirloom_kho::{Block, Fault, Order, PAGE_SIZE, PhysAddr, Run, TableError};

use super::due::{leave, next_finds};
use super::{FRAMES, all_bytes, at_each_store, live, memory, put_all};
use crate::pages::{halves, words_at};
use crate::{Entry, Error, Heirloom, SealPolicy};

#[path = "../../tests/common/layout.rs"]
mod layout;

/// Writes the root page at an address anew, as another make lays one out. With the `heirloom` name or
/// without.
fn relay(ram: &Ram, at: PhysAddr, own: bool) {
    let memory = memory(ram, ram);
    // SAFETY: nothing writes the page meanwhile.
    let words = halves(unsafe { words_at(&memory, at, PAGE_SIZE) }.unwrap());
    let view = heirloom_kho::RootView::new(words, at).unwrap();
    let names = view.subtrees().map(Result::unwrap);
    let names = names.filter(|subtree| own || subtree.name.as_str() != heirloom_kho::SUBTREE);
    let names = names.map(|s| (s.name.to_string(), s.addr.get(), s.size));
    let page = layout::lay_out(view.map().get(), &names.collect::<Vec<_>>());
    let start = memory.ptr(Run::covering(at, PAGE_SIZE as u64).unwrap()).unwrap();
    // SAFETY: the page, which nothing else uses meanwhile.
    unsafe {
        start.write_bytes(0, PAGE_SIZE);
        start.copy_from_nonoverlapping(NonNull::from(&page[..]).cast(), page.len());
    }
}

#[test]
fn both_entries_are_good_until_the_predecessors_is_ended() {
    for own in [true, false] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let due = RefCell::new(leave(&ram, !own));
        let entry = due.borrow().entries[0];
        relay(&ram, entry.root, own);
        let stops = at_each_store(&ram, &due, SealPolicy::Checked, || {
            live(&ram, &due, SealPolicy::Checked, !own);
        });
        std::println!("{}: {stops} stops", if own { "another layout" } else { "another make" });
        assert!(stops > 150, "{stops}");
        // Until something else is written there, the refusal says what happened.
        let refused =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "late", SealPolicy::Checked);
        let refused = refused.err().unwrap();
        if let Error::Table(TableError { fault: Fault::Ended, .. }) = refused {
            assert!(refused.to_string().contains("ended by a successor"), "{refused}");
        }
    }
}

#[test]
fn a_kernel_that_starts_with_the_new_entry_ends_the_predecessors_before_it_lets_go_of_anything() {
    for own in [true, false] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let due = RefCell::new(leave(&ram, !own));
        let entry = due.borrow().entries[0];
        relay(&ram, entry.root, own);
        // This one ends with both entries good.
        let kernel =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "dying", SealPolicy::Checked);
        let beside = kernel.unwrap().entry();
        assert_ne!(beside, entry);
        due.borrow_mut().entries.push(beside);
        let stops = at_each_store(&ram, &due, SealPolicy::Checked, || {
            live(&ram, &due, SealPolicy::Checked, !own);
        });
        std::println!("{}: {stops} stops", if own { "another layout" } else { "another make" });
        assert!(stops > 150, "{stops}");
        assert_eq!(due.borrow().ended, Some(entry));
    }
}

/// The page of the header, as its kernel reads it.
fn header_of(ram: &Ram, entry: Entry) -> PhysAddr {
    let memory = memory(ram, ram);
    // SAFETY: nothing writes the page meanwhile.
    let words = halves(unsafe { words_at(&memory, entry.root, PAGE_SIZE) }.unwrap());
    let view = heirloom_kho::RootView::new(words, entry.root).unwrap();
    view.find(&heirloom_kho::Name::new(heirloom_kho::SUBTREE).unwrap()).unwrap().addr
}

/// Makes the header name a root page that was before.
fn name_before(ram: &Ram, header: PhysAddr, before: PhysAddr) {
    let memory = memory(ram, ram);
    // SAFETY: nothing else writes the page meanwhile.
    let words = unsafe { words_at(&memory, header, heirloom_kho::Header::SIZE) }.unwrap();
    let mut page = heirloom_kho::HeaderPage::reopen(words, header).unwrap();
    page.renew(&heirloom_kho::Header { before: Some(before), ..page.read().unwrap() }).unwrap();
}

#[test]
fn an_entry_in_frames_that_nothing_preserves_is_ended_too() {
    // At the start of a page, and across two.
    for inside in [0, 8] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let due = RefCell::new(leave(&ram, false));
        let old = due.borrow().entries[0];
        relay(&ram, old.root, true);
        let [(run, _)] = Ram::frames(FRAMES);
        // Two frames in which nothing stands.
        let mut free = all_bytes(&ram).chunks_exact(2 * PAGE_SIZE);
        let at = free.rposition(|bytes| bytes.iter().all(|byte| *byte == 0)).unwrap();
        let root = PhysAddr::new(run.addr().get() + (at * 2 * PAGE_SIZE) as u64 + inside);
        let (from, to) = (ram.ptr(old.root), ram.ptr(root));
        // SAFETY: frames that are in use by nothing.
        unsafe { to.copy_from_nonoverlapping(from, PAGE_SIZE) };
        let entry = Entry { root, ..old };
        let dying =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "dying", SealPolicy::Checked);
        let dying = dying.unwrap();
        let beside = dying.entry();
        dying.seal().unwrap();
        drop(dying);
        // It has let go of the root page that was copied, and of nothing else.
        due.borrow_mut().entries = Vec::from([beside]);
        let policy = SealPolicy::SealedOnly;
        assert_eq!(next_finds(&ram, &due.borrow(), beside, policy), Some(beside));
        let late = Heirloom::revive_memory(memory(&ram, &ram), entry, "late", SealPolicy::Checked);
        let Err(Error::Table(TableError { fault, .. })) = late else { panic!("taken") };
        assert_eq!(fault, Fault::Ended);
    }
}

#[test]
fn a_header_that_names_any_page_as_the_root_page_before_changes_none() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let due = leave(&ram, false);
    let entry = due.entries[0];
    let (header, left) = (header_of(&ram, entry), all_bytes(&ram).to_vec());
    let [(run, _)] = Ram::frames(FRAMES);
    let at = |pfn: heirloom_kho::Pfn| (pfn.get() - run.start().get()) as usize * PAGE_SIZE;
    let mut looked = 0;
    for n in 0..FRAMES {
        let pfn = run.start().add(n);
        put_all(&ram, &left);
        name_before(&ram, header, pfn.addr());
        let before = all_bytes(&ram)[at(pfn)..][..8].to_vec();
        // Tables that the kernel goes on with change by that.
        let kernel =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "next", SealPolicy::Checked);
        drop(kernel.unwrap_or_else(|error| panic!("{pfn:?}: {error}")));
        assert_eq!(all_bytes(&ram)[at(pfn)..][..8], before, "{pfn:?}");
        assert_eq!(next_finds(&ram, &due, entry, SealPolicy::Checked), Some(entry), "{pfn:?}");
        looked += 1;
    }
    assert_eq!(looked, FRAMES);
}

#[test]
fn a_seal_beside_a_predecessors_entry_covers_its_root_page() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let entry = leave(&ram, false).entries[0];
    relay(&ram, entry.root, true);
    let kernel = Heirloom::revive_memory(memory(&ram, &ram), entry, "sealer", SealPolicy::Checked);
    let kernel = kernel.unwrap();
    kernel.seal().unwrap();
    let beside = kernel.entry();
    drop(kernel);
    let left = all_bytes(&ram).to_vec();
    // The last byte of the first frame that has any: in the names.
    let [(run, _)] = Ram::frames(FRAMES);
    let at = (entry.root.get() - run.addr().get()) as usize;
    let last = left[at..at + PAGE_SIZE].iter().rposition(|byte| *byte != 0).unwrap();
    let mut other = left.clone();
    other[at + last] ^= 1;
    for entry in [entry, beside] {
        put_all(&ram, &other);
        let policy = SealPolicy::SealedOnly;
        let refused = Heirloom::revive_memory(memory(&ram, &ram), entry, "next", policy).map(drop);
        assert!(refused.is_err(), "a bit of the root page at {} fell over", entry.root);
        put_all(&ram, &left);
        drop(Heirloom::revive_memory(memory(&ram, &ram), entry, "next", policy).unwrap());
    }
}

#[test]
fn a_scratch_list_in_a_frame_that_nothing_preserves_is_written_anew() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let [(run, _)] = Ram::frames(FRAMES);
    let scratch = Run::new(run.start().add(FRAMES - 4), 4).unwrap();
    let kernel = Heirloom::boot_memory(memory(&ram, &ram), &[scratch], "careless").unwrap();
    kernel.publish("name", b"bytes").unwrap();
    let entry = kernel.entry();
    let list = Block::containing(entry.scratch.pfn(), Order::ZERO);
    // SAFETY: the handover's own, against its rules.
    unsafe { kernel.memory().unpreserve_as(list, heirloom_folio::FrameType::Table) }.unwrap();
    drop(kernel);
    let kernel =
        Heirloom::revive_memory(memory(&ram, &ram), entry, "next", SealPolicy::Checked).unwrap();
    let beside = kernel.entry();
    assert_ne!(beside, entry);
    drop(kernel.claim_root("name").unwrap());
    let reserved = || kernel.memory().audit().unwrap().reserved;
    assert_eq!(reserved(), 4 + 1);
    kernel.finish(|_| Disposition::Keep).unwrap();
    assert_eq!(reserved(), 4);
    drop(kernel);
    let kernel =
        Heirloom::revive_memory(memory(&ram, &ram), beside, "last", SealPolicy::Checked).unwrap();
    assert_eq!(kernel.claim_root("name").unwrap().bytes(), b"bytes");
    assert!(kernel.scratch().eq([scratch]));
}
