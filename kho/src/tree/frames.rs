//! Whose frame is whose, in memory that is not this machine's.
//!
//! Two bits a frame: not taken, a preserved block's, a node's, scratch. So a
//! [`survey`](super::survey) of an image says not only that a frame has two uses, but which. A
//! third bit says that a table named it.

use core::convert::Infallible;

use super::check::Ledger;
use super::fault::TreeFault;
use crate::addr::{Block, Order, Pfn, Run};
use crate::narrow::{u64_to_usize, usize_to_u64};

/// Frames whose bits a word holds.
const STEP: u64 = 64;

/// The frames of one stretch of memory, in words that the caller provides.
#[derive(Debug)]
pub struct FramesOf<'w> {
    run: Run,
    /// Preserved, or a node.
    taken: &'w mut [u64],
    /// A node if taken, else scratch.
    special: &'w mut [u64],
    /// Named by a table.
    claimed: &'w mut [u64],
}

/// The words of 64 frames.
struct Bits<'b> {
    taken: &'b mut u64,
    special: &'b mut u64,
    claimed: &'b mut u64,
}

impl<'w> FramesOf<'w> {
    /// Returns the number of words that the frames of `run` need; `None` if there are more than can
    /// be addressed.
    pub const fn words(run: Run) -> Option<usize> {
        let words = run.end().get().div_ceil(STEP) - run.start().get() / STEP;
        if words > usize_to_u64(usize::MAX / 32) { None } else { Some(u64_to_usize(words) * 3) }
    }

    /// Returns the frames of `run`, none of them taken; the words' contents do not matter. `None`
    /// if there are fewer than [`FramesOf::words`].
    pub fn new(run: Run, words: &'w mut [u64]) -> Option<Self> {
        let words = words.get_mut(..Self::words(run)?)?;
        words.fill(0);
        let (taken, rest) = words.split_at_mut(words.len() / 3);
        let (special, claimed) = rest.split_at_mut(rest.len() / 2);
        Some(Self { run, taken, special, claimed })
    }

    /// Returns the frames.
    pub const fn run(&self) -> Run {
        self.run
    }

    /// Calls `each` with the words of the frames that `run` shares with this stretch, each with the
    /// mask of their bits and the first frame of the word.
    fn each<E>(
        &mut self,
        run: Run,
        mut each: impl FnMut(Bits<'_>, u64, Pfn) -> Result<(), E>,
    ) -> Result<(), E> {
        let (start, end) = (run.start().max(self.run.start()), run.end().min(self.run.end()));
        let first = self.run.start().get() / STEP;
        let mut at = start.get();
        while at < end.get() {
            let word = at / STEP;
            let next = end.get().min((word + 1) * STEP);
            // One bit at least, as `next` lies behind `at`, so the shift is below 64.
            let mask = (u64::MAX >> (STEP - (next - at))) << (at % STEP);
            let index = u64_to_usize(word - first);
            if let (Some(taken), Some(special), Some(claimed)) = (
                self.taken.get_mut(index),
                self.special.get_mut(index),
                self.claimed.get_mut(index),
            ) {
                each(Bits { taken, special, claimed }, mask, Pfn::new(word * STEP))?;
            }
            at = next;
        }
        Ok(())
    }
}

/// A ledger of frames for memory in any number of stretches: what a survey of an image uses.
///
/// # Examples
/// ```
/// use heirloom_kho::tree::{Frames, FramesOf, Ledger, TreeFault};
/// use heirloom_kho::{Block, Order, Pfn, Run};
///
/// let memory = Run::new(Pfn::new(0x100), 256).unwrap();
/// let mut words = vec![0; FramesOf::words(memory).unwrap()];
/// let mut stretches = [FramesOf::new(memory, &mut words).unwrap()];
/// let mut frames = Frames::new(&mut stretches);
/// frames.keep_out(Run::new(Pfn::new(0x180), 16).unwrap());
///
/// let block = |pfn, order| Block::new(Pfn::new(pfn), Order::new(order).unwrap()).unwrap();
/// frames.take(block(0x100, 3))?;
/// frames.take_node(block(0x120, 0))?;
/// let twice = block(0x104, 0);
/// assert_eq!(frames.take(twice), Err(TreeFault::Overlap { block: twice }));
/// let around = block(0x120, 2);
/// let node = block(0x120, 0).addr();
/// assert_eq!(frames.take(around), Err(TreeFault::Node { block: around, node }));
/// let scratch = block(0x180, 1);
/// assert_eq!(frames.take(scratch), Err(TreeFault::Scratch { block: scratch }));
/// # Ok::<(), TreeFault>(())
/// ```
#[derive(Debug)]
pub struct Frames<'a, 'w> {
    stretches: &'a mut [FramesOf<'w>],
}

impl<'a, 'w> Frames<'a, 'w> {
    /// Returns the frames of all `stretches`, no two of which share one.
    pub const fn new(stretches: &'a mut [FramesOf<'w>]) -> Self {
        Self { stretches }
    }

    /// Returns whether all frames of `run` are there, in one stretch or in several side by side.
    pub fn has(&self, run: Run) -> bool {
        let there: u64 = self.stretches.iter().map(|part| part.run.common(run)).sum();
        there == run.frames()
    }

    fn take_as(&mut self, block: Block, is_node: bool) -> Result<(), TreeFault> {
        let run = block.run();
        if !self.has(run) {
            return Err(TreeFault::OutsideMemory { addr: block.addr() });
        }
        // All of it is looked at before any of it is taken: a refusal changes nothing.
        for part in self.stretches.iter_mut() {
            part.each(run, |bits, mask, first| {
                let (used, marked) = (*bits.taken & mask, *bits.special & mask);
                if marked & !used != 0 {
                    return Err(TreeFault::Scratch { block });
                }
                if marked != 0 {
                    let node = first.add(u64::from(marked.trailing_zeros())).addr();
                    return Err(TreeFault::Node { block, node });
                }
                if used != 0 {
                    return Err(TreeFault::Overlap { block });
                }
                Ok(())
            })?;
        }
        for part in self.stretches.iter_mut() {
            part.each(run, |bits, mask, _| {
                *bits.taken |= mask;
                *bits.special |= if is_node { mask } else { 0 };
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Ledger for Frames<'_, '_> {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        self.take_as(block, false)
    }

    fn take_node(&mut self, node: Block) -> Result<(), TreeFault> {
        self.take_as(node, true)
    }

    fn keep_out(&mut self, area: Run) {
        for part in self.stretches.iter_mut() {
            let marked = part.each(area, |bits, mask, _| {
                *bits.special |= mask & !*bits.taken;
                Ok::<_, Infallible>(())
            });
            marked.unwrap_or_else(|never| match never {});
        }
    }

    fn claim(&mut self, block: Block) -> bool {
        let mut first = true;
        for part in self.stretches.iter_mut() {
            let claimed = part.each(block.run(), |bits, mask, _| {
                first &= *bits.claimed & mask == 0;
                *bits.claimed |= mask;
                Ok::<_, Infallible>(())
            });
            claimed.unwrap_or_else(|never| match never {});
        }
        first
    }

    fn take_word(&mut self, first: Pfn, frames: u64) -> Result<(), (u32, TreeFault)> {
        let last = first.add(u64::from(frames.checked_ilog2().unwrap_or(0)));
        let within = |part: &&mut FramesOf<'_>| {
            let from = first.add(u64::from(frames.trailing_zeros()));
            part.run.contains(from) && part.run.contains(last)
        };
        if let Some(part) = self.stretches.iter_mut().find(within) {
            let index = u64_to_usize(first.get() / STEP - part.run.start().get() / STEP);
            if let (Some(taken), Some(special)) =
                (part.taken.get_mut(index), part.special.get(index))
                && (*taken | *special) & frames == 0
            {
                *taken |= frames;
                return Ok(());
            }
        }
        // One of them is at fault, or they lie in two stretches: find out one by one.
        for bit in (0..u64::BITS).filter(|bit| frames >> bit & 1 == 1) {
            let block = Block::containing(first.add(u64::from(bit)), Order::ZERO);
            self.take(block).map_err(|fault| (bit, fault))?;
        }
        Ok(())
    }
}
