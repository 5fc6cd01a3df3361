//! Everything that can be claimed is claimed, twice: the second claim fails.

use heirloom::folio::FrameType;
use heirloom::kho::{Block, Handle, Parts, PhysAddr, Run};
use heirloom::restore::Error;

use super::{Attempt, bounded, named};
use crate::world::{Kernel, PLAIN, Record, THINGS, TestMachine, TestObject};

/// What was claimed.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Frames that have one owner now, and are preserved still.
    frames: Vec<Run>,
    /// Objects: address and bytes.
    objects: Vec<(PhysAddr, u64)>,
    /// Lists of records.
    lists: Vec<Handle>,
    /// Claims that were granted.
    count: u64,
}

impl Claimed {
    /// What was claimed has one owner, and is preserved still.
    ///
    /// # Panics
    /// If it is not.
    pub(super) fn assert_preserved(&self, kernel: &Kernel<'_>) {
        let mut frames = self.frames.clone();
        frames.sort_unstable_by_key(|run| run.start());
        for pair in frames.windows(2) {
            assert!(!pair[0].overlaps(pair[1]), "{} and {} have two owners", pair[0], pair[1]);
        }
        for run in frames {
            let holder = kernel.memory().owning_block(run.start());
            assert!(matches!(holder, Some((held, _, true)) if held == run), "{run} in {holder:?}");
            assert!(run.blocks().all(|block| kernel.memory().preserved().contains(block)), "{run}");
        }
    }

    /// How many claims were granted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    fn assert_objects_apart(&mut self) {
        self.objects.sort_unstable();
        for pair in self.objects.windows(2) {
            let ((a, bytes), (b, _)) = (pair[0], pair[1]);
            assert!(a.get() + bytes <= b.get(), "objects at {a} and {b} share bytes");
        }
    }
}

/// Claims all of it.
pub(super) fn claim_all(
    machine: &TestMachine,
    kernel: &Kernel<'_>,
    attempt: &Attempt<'_>,
) -> Claimed {
    let mut claimed = Claimed::default();
    if attempt.resumes() {
        resume(machine, kernel, &mut claimed);
    } else {
        // An upgrade takes objects away from the owners of their handles.
        adopt(machine, kernel, attempt.kept.is_empty() && attempt.whim & 4 == 4);
    }
    roots(machine, kernel, &mut claimed);
    for (i, handle) in attempt.handles.iter().enumerate() {
        let granted = bounded(machine, "claim", || claim(machine, kernel, *handle, &mut claimed));
        let kept = attempt.kept.iter().any(|kept| kept.handle() == *handle);
        match granted {
            Ok(()) => claimed.count += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(!kept || attempt.handles[..i].contains(handle), "{handle:?}: {error}");
            }
        }
        let again = bounded(machine, "claim", || claim(machine, kernel, *handle, &mut claimed));
        assert!(again.is_err(), "{handle:?} was claimed twice");
    }
    for kept in attempt.kept {
        kept.check(kernel);
    }
    for handle in &claimed.lists {
        let list = TestObject::of(*handle, 0).expect("it was claimed");
        let mut records = list.records(kernel);
        let before = records.len();
        if records.push(&[1, 2, 3]).is_ok() {
            assert_eq!(records.len(), before + 1);
        }
    }
    unclaimed_objects(machine, kernel, &mut claimed);
    if attempt.whim & 2 == 2 {
        whatever_is_left(machine, kernel, &mut claimed);
    }
    claimed.assert_objects_apart();
    kernel.memory().audit().expect("consistent after claims");
    claimed
}

/// Adopts every cache that was left: those we know as they are, of the others some by upgrade.
fn adopt(machine: &TestMachine, kernel: &Kernel<'_>, upgrade: bool) {
    let slabs = kernel.slabs();
    for spec in [THINGS, PLAIN] {
        let adopted = bounded(machine, "adopt", || slabs.adopt(spec).map(|_| ()));
        adopted.err().into_iter().for_each(|error| named_slab(error.into()));
    }
    let mut records = Vec::new();
    slabs.for_each_inherited(|record| records.push(record));
    for record in records {
        if upgrade {
            let mut bytes = 0;
            let upgraded = bounded(machine, "upgrade", || {
                slabs.upgrade(&record, |object| {
                    bytes += object.bytes.len();
                    Ok(())
                })
            });
            upgraded.err().into_iter().for_each(|error| named_slab(error.into()));
            assert!(bytes as u64 <= machine.all().bytes(), "more objects than memory");
        }
    }
}

/// Resumes every cache that was left, has all that is in use in it, and frees every other object.
fn resume(machine: &TestMachine, kernel: &Kernel<'_>, claimed: &mut Claimed) {
    let slabs = kernel.slabs();
    let mut records = Vec::new();
    slabs.for_each_inherited(|record| records.push(record));
    let named_so = |done: Result<(), heirloom::slab::Error>| {
        done.err().into_iter().for_each(|error| named_slab(error.into()));
    };
    for record in records {
        let resumed = bounded(machine, "resume", || slabs.resume(record.spec()).map(|_| ()));
        // Those of the size classes are resumed together.
        if !matches!(resumed, Err(heirloom::slab::Error::ReservedName { .. })) {
            named_so(resumed);
        }
    }
    named_so(bounded(machine, "resume", || slabs.resume_buffers()));
    for cache in slabs.caches() {
        let half = bounded(machine, "sweep", || cache.sweep(2)).expect("it may wait");
        assert!(half <= 2);
        let objects: Vec<_> = bounded(machine, "a walk", || cache.preserved().collect());
        assert!((objects.len() * cache.object_size()) as u64 <= machine.all().bytes());
        for (i, (addr, tag)) in objects.into_iter().enumerate() {
            let object = cache.at(addr, tag).expect("it is in use");
            assert!(cache.claim(addr).is_err() && cache.discard(addr).is_err());
            assert_is_slab(kernel, addr);
            claimed.count += 1;
            if i % 2 == 0 {
                claimed.objects.push((addr, cache.object_size() as u64));
                continue;
            }
            // SAFETY: resumed, so it is ours, and nothing uses it afterwards.
            unsafe {
                object.write_bytes(0x5a, cache.object_size());
                // One that is held is freed as it is.
                let _ = if cache.is_preserving() { Ok(()) } else { cache.unpreserve(object) };
                cache.free(object)
            }
            .expect("ours");
        }
    }
}

/// A slab's error says where, or what does not match.
fn named_slab(error: Error) {
    assert!(!error.to_string().is_empty());
    if matches!(
        error,
        Error::Slab(heirloom::slab::Error::Slab(_) | heirloom::slab::Error::Directory(_))
    ) {
        named(&error);
    }
}

/// Claims every subtree as a published root.
fn roots(machine: &TestMachine, kernel: &Kernel<'_>, claimed: &mut Claimed) {
    let mut names: Vec<String> = Vec::new();
    kernel
        .for_each_inherited_subtree(|name, _, _| names.push(name.to_owned()))
        .expect("revive read it");
    for name in names {
        // A predecessor may have names that this library gives nobody.
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
        if let Ok(root) = bounded(machine, "claim of a root", || kernel.claim_root(&name)) {
            assert!(kernel.claim_root(&name).is_err(), "{name} was claimed twice");
            assert!(kernel.unpublish(&name).is_err() && kernel.publish(&name, &[]).is_err());
            drop(root);
            claimed.count += 1;
        }
        assert!(kernel.claim_root(&name).is_err(), "{name} was claimed twice");
    }
}

/// Claims what one handle names.
fn claim(
    machine: &TestMachine,
    kernel: &Kernel<'_>,
    handle: Handle,
    claimed: &mut Claimed,
) -> Result<(), Error> {
    match handle.parts()? {
        Parts::Folio(block) => {
            let folio = kernel.claim_folio(handle)?;
            assert_eq!(folio.extent(), block);
            claimed.frames.push(folio.into_raw().run());
        }
        Parts::Run(run) => {
            let owned = kernel.claim_run(handle)?;
            assert_eq!(owned.into_raw(), run);
            claimed.frames.push(run);
        }
        Parts::Area(info) => {
            let area = kernel.claim_area(handle)?;
            let mut blocks = 0;
            area.for_each(|block| {
                assert!(kernel.memory().preserved().contains(block), "{block} of an area");
                blocks += 1;
            })?;
            assert_eq!(blocks, info.blocks());
            let _ = area.into_raw();
        }
        Parts::Records { .. } => {
            let records = kernel.claim_records::<Record>(handle)?;
            let before = records.len();
            let mut seen = 0;
            records.for_each(|_| seen += 1)?;
            assert_eq!(seen, before);
            claimed.lists.push(handle);
        }
        Parts::Buffer { addr, bytes } => {
            kernel.restore(handle)?;
            let run = Run::covering(addr, bytes).expect("claimed, so it is memory");
            assert!(machine.all().covers(run));
            claimed.frames.push(run);
        }
        Parts::Object { addr, bytes, .. } => {
            let ptr = kernel.restore(handle)?;
            assert_eq!(kernel.slabs().size_of(ptr), usize::try_from(bytes).ok());
            assert_is_slab(kernel, addr);
            claimed.objects.push((addr, bytes));
        }
        Parts::Blob { .. } => return Err(kernel.restore(handle).expect_err("no buffer")),
    }
    Ok(())
}

fn assert_is_slab(kernel: &Kernel<'_>, addr: PhysAddr) {
    let holder = kernel.memory().owning_block(addr.pfn());
    assert!(matches!(holder, Some((_, FrameType::Slab, _))), "an object at {addr} in {holder:?}");
}

/// Claims the objects that are left in caches that were adopted, and frees them.
fn unclaimed_objects(machine: &TestMachine, kernel: &Kernel<'_>, claimed: &mut Claimed) {
    for cache in kernel.slabs().caches() {
        let left: Vec<_> = cache.unclaimed().map(|(addr, _)| addr).collect();
        assert!((left.len() * cache.object_size()) as u64 <= machine.all().bytes());
        for addr in left.into_iter().step_by(2) {
            let object = cache.claim(addr).expect("it is unclaimed");
            assert!(cache.claim(addr).is_err(), "an object was claimed twice");
            assert_is_slab(kernel, addr);
            // SAFETY: claimed just now, so it is ours, and nobody uses it afterwards.
            unsafe {
                object.write_bytes(0x5a, cache.object_size());
                cache.free(object)
            }
            .expect("ours");
            claimed.count += 1;
        }
    }
}

/// Claims every other block that nobody claimed as a folio, by its address alone: what is a slab or
/// a table stays.
fn whatever_is_left(machine: &TestMachine, kernel: &Kernel<'_>, claimed: &mut Claimed) {
    let mut left: Vec<Block> = Vec::new();
    kernel.memory().predecessor().for_each(|block| left.push(block));
    for block in left.into_iter().step_by(2) {
        let Ok(handle) = Handle::new(Parts::Folio(block)) else { continue };
        let label = kernel.memory().predecessor().label_of(block);
        match claim(machine, kernel, handle, claimed) {
            Ok(()) => {
                assert_eq!(label, None, "{block} was claimed as a folio");
                claimed.count += 1;
            }
            Err(error) => assert!(label.is_some(), "{block}: {error}"),
        }
    }
}
