//! Frames that are known and absent: memory that comes and goes a run at a time.
//!
//! ```text
//!              online                      alloc
//!   absent  ───────────>  free memory  ───────────>  in use
//!           <───────────               <───────────
//!              offline                     free
//! ```
//!
//! All physical memory of a machine may be one range of absent frames, at less than 1.2 bytes each, of
//! which an instance has what is lent to it: by the kernel that it is a guest of, or by a balloon. One
//! range is found at once, however many runs came and went, and frames go back one run at a time.
//!
//! That a frame is absent stands in its byte, so that nothing else names it: no bit of the free map is
//! set for it, and no block begins there.

use core::ptr::NonNull;

use heirloom_kho::Run;
use heirloom_kho::sync::Relaxed;

use crate::error::Error;
use crate::frame_type::{ABSENT, NEVER};
use crate::machine::{Machine, NodeId};
use crate::memory::Memory;

impl<M: Machine> Memory<M> {
    /// Adds a range of frames of which none is there yet: [`Memory::online`] makes them memory, run by
    /// run. At any time, and any number of them.
    ///
    /// Costs one pass over `space`: no frame is touched, and no bit set.
    ///
    /// # Errors
    /// As for [`Memory::add_range`].
    ///
    /// # Safety
    /// - `space` is as for [`Memory::add_range`].
    /// - The machine's direct map has one linear place for all of `run`: each frame is seen there
    ///   while it is online.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Memory, NodeId, Request};
    /// use heirloom_kho::{Order, Run};
    ///
    /// # fn main() -> Result<(), heirloom_folio::Error> {
    /// let [(all, _)] = Ram::frames(4096);
    /// let lent = Run::new(all.start().add(1024), 64).unwrap();
    /// let memory = Ram::over(&Ram::frames(4096)).attach(&[])?;
    /// let space = memory.machine().space(Memory::<Ram>::range_bytes(all));
    /// // SAFETY: the machine maps all its frames, and has the space as long as it lives.
    /// unsafe { memory.add_absent_range(all, NodeId(0), space)? };
    /// assert!(memory.alloc(Request::new(Order::ZERO)).is_err());
    ///
    /// // SAFETY: the frames are the machine's, and nothing else uses them.
    /// unsafe { memory.online(lent)? };
    /// let folio = memory.alloc_folio(Request::new(Order::new(5).unwrap()))?;
    /// assert!(memory.offline(lent).is_err(), "half of it is in use");
    /// drop(folio);
    /// memory.offline(lent)?;
    /// assert_eq!((memory.stats().frames, memory.stats().absent), (0, 4096));
    /// # Ok(())
    /// # }
    /// ```
    pub unsafe fn add_absent_range(
        &self,
        run: Run,
        node: NodeId,
        space: NonNull<[u8]>,
    ) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { self.push_range(run, node, space, ABSENT) }
    }

    /// Makes absent frames free memory.
    ///
    /// What a predecessor preserved is in frames that must be online before its tree is taken over: a
    /// tree that names an absent frame is refused.
    ///
    /// # Errors
    /// [`Error::NotMemory`]: part of `run` is in no range. [`Error::NotAbsent`], with the first frame
    /// that is online. Nothing is changed then.
    ///
    /// # Safety
    /// The direct map covers `run`, and nothing else uses it until [`Memory::offline`] has given it
    /// back, or the memory is gone.
    pub unsafe fn online(&self, run: Run) -> Result<(), Error> {
        let parts = self.ranges.parts(run).ok_or(Error::NotMemory { pfn: run.start() })?;
        for (range, part) in parts.clone() {
            for (byte, i) in range.bytes_of(part).unwrap_or(&[]).iter().zip(0..) {
                let pfn = part.start().add(i);
                // Of two calls that name one frame, one has it.
                if byte.compare_exchange(ABSENT, NEVER, Relaxed, Relaxed).is_err() {
                    if let Some(before) = Run::between(run.start(), pfn) {
                        self.make_absent(before);
                    }
                    return Err(Error::NotAbsent { pfn });
                }
            }
        }
        for (range, part) in parts {
            range.absent().fetch_sub(part.frames(), Relaxed);
        }
        self.give_run(run);
        // How much a CPU keeps depends on how much there is.
        self.slots.request_drain();
        Ok(())
    }

    /// Takes free frames out of memory: they are absent, and the caller's.
    ///
    /// Frames in the cache of a CPU other than the calling one are not free; that CPU gives them back
    /// with its next call, or by [`Memory::drain`].
    ///
    /// # Errors
    /// [`Error::NotMemory`]; [`Error::NotFree`]: a frame is in use, in a CPU's cache, or absent. Nothing
    /// is changed then.
    pub fn offline(&self, run: Run) -> Result<(), Error> {
        self.take_run_at(run)?;
        // Before the bytes, and by `online` after them: the count is never less than what is absent.
        for (range, part) in self.ranges.parts(run).into_iter().flatten() {
            range.absent().fetch_add(part.frames(), Relaxed);
        }
        self.make_absent(run);
        Ok(())
    }

    /// Says of frames that are neither free nor in use that they are absent. Their count is the caller's
    /// to keep.
    fn make_absent(&self, run: Run) {
        for (range, part) in self.ranges.parts(run).into_iter().flatten() {
            for byte in range.bytes_of(part).unwrap_or(&[]) {
                byte.store(ABSENT, Relaxed);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use heirloom_kho::tree::TreeFault;
    use heirloom_kho::{Block, Order, Pfn};
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::harness::Ram;
    use crate::request::Request;

    const FRAMES: u64 = 1024;

    /// Returns frames by their distance from the first one.
    fn run(start: u64, frames: u64) -> Run {
        let [(all, _)] = Ram::frames(FRAMES);
        Run::new(all.start().add(start), frames).unwrap()
    }

    fn page() -> Request {
        Request::new(Order::ZERO)
    }

    /// Returns a memory of one absent range. The machine's frames keep their contents.
    fn absent(ram: Ram) -> Memory<Ram> {
        let memory = ram.attach(&[]).unwrap();
        let space = memory.machine().space(Memory::<Ram>::range_bytes(run(0, FRAMES)));
        // SAFETY: the machine maps its frames, and has the space as long as it lives.
        unsafe { memory.add_absent_range(run(0, FRAMES), NodeId(0), space) }.unwrap();
        memory
    }

    fn fresh() -> Memory<Ram> {
        absent(Ram::over(&Ram::frames(FRAMES)))
    }

    #[test]
    fn nothing_gets_an_absent_frame() {
        let memory = fresh();
        let first = run(0, 1).start();
        assert_eq!(memory.alloc(page()).ok(), None);
        assert_eq!(memory.alloc_run(3, page()).ok(), None);
        let block = Block::new(first, Order::ZERO).unwrap();
        assert_eq!(memory.alloc_at(block), Err(Error::NotFree { run: block.run() }));
        assert_eq!(memory.reserve(run(0, 8)), Err(Error::NotFree { run: run(0, 8) }));
        // SAFETY: refused.
        unsafe {
            assert_eq!(memory.release(run(0, 8)), Err(Error::Absent { pfn: first }));
            assert_eq!(memory.free(block), Err(Error::Absent { pfn: first }));
            assert_eq!(memory.preserve(block), Err(Error::Absent { pfn: first }));
        }
        assert!(!memory.contains(run(0, 1)) && memory.frames() == 0);
        let audit = memory.audit().unwrap();
        assert_eq!((audit.absent, audit.free, audit.reserved), (FRAMES, 0, 0));
    }

    #[test]
    fn what_is_online_in_part_comes_online_not_at_all() {
        let memory = fresh();
        // SAFETY: the machine's frames, used by nothing else.
        unsafe {
            memory.online(run(100, 28)).unwrap();
            let there = Error::NotAbsent { pfn: run(100, 1).start() };
            assert_eq!(memory.online(run(64, 64)), Err(there));
            assert_eq!(
                memory.online(run(127, 2)),
                Err(Error::NotAbsent { pfn: run(127, 1).start() })
            );
            let outside = run(0, FRAMES).end();
            assert_eq!(
                memory.online(Run::new(outside, 1).unwrap()),
                Err(Error::NotMemory { pfn: outside })
            );
        }
        assert_eq!((memory.frames(), memory.stats().free()), (28, 28));
        assert_eq!((memory.stats().absent, memory.stats().used()), (FRAMES - 28, 0));
        assert!(memory.contains(run(100, 28)) && !memory.contains(run(99, 2)));
    }

    #[test]
    fn frames_in_use_stay_and_freed_ones_go() {
        let memory = fresh();
        // SAFETY: the machine's frames, used by nothing else.
        unsafe { memory.online(run(0, 64)) }.unwrap();
        let blocks: Vec<_> = (0..64).map(|_| memory.alloc(page()).unwrap()).collect();
        for block in &blocks {
            assert_eq!(memory.offline(run(0, 64)), Err(Error::NotFree { run: run(0, 64) }));
            // SAFETY: allocated above.
            unsafe { memory.free(*block) }.unwrap();
        }
        // What this thread's cache has is given back first.
        memory.offline(run(0, 64)).unwrap();
        assert_eq!(memory.offline(run(0, 64)), Err(Error::NotFree { run: run(0, 64) }));
        assert_eq!((memory.frames(), memory.stats().cached), (0, 0));
    }

    #[test]
    fn a_tree_is_taken_over_if_all_that_it_names_is_online() {
        let memory = fresh();
        // SAFETY: the machine's frames, used by nothing else.
        unsafe { memory.online(run(256, 128)) }.unwrap();
        let kept: Vec<_> = (0..20).map(|_| memory.alloc(page()).unwrap()).collect();
        for block in &kept {
            // SAFETY: allocated above.
            unsafe { memory.preserve(*block) }.unwrap();
        }
        let root = memory.preserved().tree_root().unwrap();
        let lost = kept[7].run();

        let mut all_but_one = absent(memory.into_machine());
        // SAFETY: as above.
        unsafe {
            all_but_one.online(Run::between(run(256, 1).start(), lost.start()).unwrap()).unwrap();
            all_but_one.online(Run::between(lost.end(), run(384, 0).start()).unwrap()).unwrap();
        }
        let fault = TreeFault::Overlap { block: kept[7] };
        match all_but_one.take_over_in_place(root, |_| ()) {
            Err(Error::Tree(error)) => assert_eq!(error.reason, fault),
            other => panic!("a tree that names an absent frame: {other:?}"),
        }

        // A node that is absent is not looked into: its frame is taken first.
        let mut rootless = absent(all_but_one.into_machine());
        match rootless.take_over_in_place(root, |_| ()) {
            Err(Error::Tree(error)) => {
                assert_eq!(
                    error.reason,
                    TreeFault::Overlap { block: Block::containing(root.pfn(), Order::ZERO) }
                );
            }
            other => panic!("a tree with an absent root: {other:?}"),
        }

        let successor = absent(rootless.into_machine());
        // SAFETY: as above.
        unsafe { successor.online(run(256, 128)) }.unwrap();
        let (successor, _) = successor.take_over(root).unwrap();
        for block in kept {
            successor.claim(block).unwrap();
        }
    }

    /// One call of a program.
    #[derive(Clone, Copy, Debug)]
    enum Call {
        Online(u64, u64),
        Offline(u64, u64),
        Alloc(u8),
        Free(usize),
    }

    fn call() -> impl Strategy<Value = Call> {
        let span = || (0..FRAMES, 1..200_u64);
        prop_oneof![
            span().prop_map(|(start, frames)| Call::Online(start, frames)),
            span().prop_map(|(start, frames)| Call::Offline(start, frames)),
            (0..7_u8).prop_map(Call::Alloc),
            any::<usize>().prop_map(Call::Free),
        ]
    }

    /// What becomes of each frame: absent, free or in use.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Is {
        Absent,
        Free,
        Used,
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 2 } else { 64 },
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(0x6162_7365),
            ..ProptestConfig::default()
        })]

        /// Any calls do to each frame what they do in a model that is an array.
        #[test]
        fn frames_come_and_go_as_in_the_model(calls in proptest::collection::vec(call(), 1..80)) {
            let memory = fresh();
            let mut frames = [Is::Absent; FRAMES as usize];
            let mut blocks: Vec<Block> = Vec::new();
            let at = |pfn: Pfn| (pfn.get() - run(0, 1).start().get()) as usize;
            for call in calls {
                match call {
                    Call::Online(start, count) => {
                        let run = run(start, count.min(FRAMES - start));
                        let part = &mut frames[start as usize..at(run.end())];
                        // SAFETY: the machine's frames, used by nothing else.
                        let done = unsafe { memory.online(run) };
                        match part.iter().position(|is| *is != Is::Absent) {
                            None => {
                                done.unwrap();
                                part.fill(Is::Free);
                            }
                            Some(i) => {
                                let pfn = run.start().add(i as u64);
                                prop_assert_eq!(done, Err(Error::NotAbsent { pfn }));
                            }
                        }
                    }
                    Call::Offline(start, count) => {
                        let run = run(start, count.min(FRAMES - start));
                        let part = &mut frames[start as usize..at(run.end())];
                        if part.iter().all(|is| *is == Is::Free) {
                            memory.offline(run).unwrap();
                            part.fill(Is::Absent);
                        } else {
                            prop_assert_eq!(memory.offline(run), Err(Error::NotFree { run }));
                        }
                    }
                    Call::Alloc(order) => {
                        let Ok(block) = memory.alloc(Request::new(Order::new(order).unwrap())) else {
                            continue;
                        };
                        let part = &mut frames[at(block.pfn())..at(block.run().end())];
                        prop_assert!(part.iter().all(|is| *is == Is::Free));
                        part.fill(Is::Used);
                        blocks.push(block);
                    }
                    Call::Free(which) if !blocks.is_empty() => {
                        let block = blocks.swap_remove(which % blocks.len());
                        // SAFETY: allocated above.
                        unsafe { memory.free(block) }.unwrap();
                        frames[at(block.pfn())..at(block.run().end())].fill(Is::Free);
                    }
                    Call::Free(_) => {}
                }
                let audit = memory.audit().unwrap();
                let count = |what| frames.iter().filter(|is| **is == what).count() as u64;
                prop_assert_eq!(audit.absent, count(Is::Absent));
                prop_assert_eq!(audit.free + audit.cached, count(Is::Free));
                prop_assert_eq!(audit.reserved, 0);
                prop_assert_eq!(memory.stats().used(), count(Is::Used));
                prop_assert_eq!(memory.frames() + memory.stats().absent, FRAMES);
            }
        }
    }
}
