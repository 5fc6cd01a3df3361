//! A root page in memory that no kernel uses meanwhile: what it says, and how it is made another's.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

use heirloom_folio::DirectMap;
use heirloom_folio::harness::Ram;
use heirloom_kho::{PAGE_SIZE, PhysAddr, RootView};

#[path = "layout.rs"]
pub(crate) mod layout;

/// The words at an address, in memory that no kernel uses meanwhile.
pub(crate) fn words(ram: &Ram, at: PhysAddr, bytes: usize) -> &[AtomicU64] {
    let start = ram.ptr(at).cast::<AtomicU64>();
    // SAFETY: in the machine's memory, aligned.
    unsafe { core::slice::from_raw_parts(start.as_ptr(), bytes.div_ceil(8)) }
}

/// A root page's words, as it is read and written.
pub(crate) fn with_root<R>(ram: &Ram, root: PhysAddr, f: impl FnOnce(&[AtomicU32]) -> R) -> R {
    let words = words(ram, root, PAGE_SIZE);
    // SAFETY: the same memory in halves.
    f(unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), PAGE_SIZE / 4) })
}

/// What a root page says.
pub(crate) fn says(ram: &Ram, root: PhysAddr) -> (u64, Vec<(String, u64, Option<u64>)>) {
    with_root(ram, root, |words| {
        let view = RootView::new(words, root).unwrap();
        let names = view.subtrees().map(|subtree| {
            let subtree = subtree.unwrap();
            (subtree.name.to_string(), subtree.addr.get(), subtree.size)
        });
        (view.map().get(), names.collect())
    })
}

/// Lays the root page out as another make does, with these names.
pub(crate) fn lay_out(ram: &Ram, at: PhysAddr, map: u64, names: &[(String, u64, Option<u64>)]) {
    let page = layout::lay_out(map, names);
    assert!(page.len() <= PAGE_SIZE);
    for (index, word) in words(ram, at, PAGE_SIZE).iter().enumerate() {
        let mut bytes = [0; 8];
        let from = page.get(index * 8..).unwrap_or(&[]);
        let length = from.len().min(8);
        bytes[..length].copy_from_slice(&from[..length]);
        word.store(u64::from_ne_bytes(bytes), Relaxed);
    }
}
