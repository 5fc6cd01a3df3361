//! One validator: a survey of a handover's memory finds something exactly where reviving it would
//! be refused.
#![cfg(feature = "std")]
#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use std::sync::atomic::AtomicU64;

use common::{Kernel, World, keep_area, keep_buffer, keep_folio, keep_run, proptest_config};
use heirloom::kho::tree::{Frames, FramesOf};
use heirloom::kho::{Image, PAGE_SIZE, PhysAddr, Run};
use heirloom::restore::{Entry, Error, SealPolicy, survey};
use heirloom::slab::internal::DirectoryPart;
use heirloom::slab::{CacheSpec, Error as SlabError};
use proptest::prelude::*;

/// A copy of all memory.
struct Copied {
    run: Run,
    words: Vec<AtomicU64>,
}

impl Copied {
    fn new(run: Run, bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
        Self { run, words: words.map(AtomicU64::new).collect() }
    }

    fn findings(&self, entry: Entry) -> Vec<Error> {
        let mut words = vec![0; FramesOf::words(self.run).unwrap()];
        let mut stretches = [FramesOf::new(self.run, &mut words).unwrap()];
        let mut found = Vec::new();
        let surveyed = survey(self, entry, &mut Frames::new(&mut stretches), |error| {
            found.push(error);
            Ok::<_, Error>(())
        });
        surveyed.unwrap();
        found
    }
}

impl Image for Copied {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let skip = usize::try_from(addr.get().checked_sub(self.run.addr().get())?).ok()?;
        let whole = skip.is_multiple_of(8);
        self.words.get(skip / 8..)?.get(..bytes.div_ceil(8)).filter(|_| whole)
    }

    fn is_memory(&self, run: Run) -> bool {
        self.run.covers(run)
    }
}

/// Something of everything.
fn fill(kernel: &Kernel<'_>) {
    keep_folio(kernel, 3, 1).unwrap();
    keep_run(kernel, 5, 2).unwrap();
    keep_buffer(kernel, 100, false, 3).unwrap();
    keep_buffer(kernel, 3 * PAGE_SIZE, true, 4).unwrap();
    keep_area(kernel, 4, 1, 5).unwrap();
    let names = kernel.slabs().cache(CacheSpec::new("names", 48).preserving(true)).unwrap();
    for _ in 0..100 {
        names.alloc().unwrap();
    }
    kernel.publish("root", b"found by name").unwrap();
}

/// The pages that a successor reads.
fn tables(kernel: &Kernel<'_>) -> Vec<PhysAddr> {
    let mut pages = vec![kernel.entry().root, kernel.entry().scratch];
    kernel.for_each_subtree(|_, addr, _| pages.push(addr)).unwrap();
    kernel.memory().preserved().for_each_node(|node| pages.push(node.addr));
    kernel.slabs().for_each_table(|part| match part {
        DirectoryPart::Page(addr) | DirectoryPart::Header { addr, .. } => pages.push(addr),
    });
    pages
}

/// Whether revive leaves this to be found when the slab is adopted.
fn is_found_later(error: &Error) -> bool {
    matches!(error, Error::Slab(SlabError::Slab(_)))
}

proptest! {
    #![proptest_config(proptest_config(192))]

    #[test]
    fn a_survey_finds_something_exactly_where_revive_refuses(
        sealed in any::<bool>(),
        hits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_u64..80, any::<prop::sample::Index>(), 0..5_u8),
            0..3,
        ),
    ) {
        let world = World::new(2048);
        let kernel = world.boot();
        fill(&kernel);
        if sealed {
            kernel.seal().unwrap();
        }
        let (entry, pages) = (kernel.entry(), tables(&kernel));
        drop(kernel);
        for (page, word, other, what) in hits {
            let at = PhysAddr::new(page.get(&pages).get() + word * 8);
            let now = world.words(at, 8)[0];
            let value = match what {
                0 => other.get(&pages).get(),
                1 => now ^ 1 << other.index(64),
                2 => now.wrapping_add(PAGE_SIZE as u64),
                3 => 0,
                _ => now.rotate_left(1),
            };
            world.write(at, &value.to_ne_bytes());
        }
        let memory = world.map()[0].0;
        let found = Copied::new(memory, &world.save()).findings(entry);
        match world.try_revive(entry, SealPolicy::Checked) {
            Ok(_) => prop_assert!(found.iter().all(is_found_later), "revived with {found:?}"),
            Err(error) => prop_assert!(!found.is_empty(), "nothing found, but {error}"),
        }
    }
}
