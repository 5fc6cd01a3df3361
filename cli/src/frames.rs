//! Whose frame is whose, in an image as large as it may be.
//!
//! ```text
//!  memory    [ run            ]  [ run ]         by address, apart
//!  small     [..|..]   [..|..]                   blocks below a chunk: three bits a frame, in the
//!                                                chunks that have any
//!  large               [ block               ]   others, as they are
//! ```
//!
//! What it takes is memory for what is preserved, and not for what there is; and to take a block is a
//! look for its place, however many runs the image has.

use std::collections::BTreeMap;

use heirloom_kho::tree::{Ledger, TreeFault};
use heirloom_kho::{Block, Order, Pfn, Run};

/// Frames of a chunk: those of a leaf of single frames.
const CHUNK: u64 = 1 << 15;
const STEP: u64 = 64;

/// The ledger of an image's frames: [`heirloom_kho::tree::Frames`], of any number of runs.
#[derive(Debug)]
pub(crate) struct Frames {
    memory: Vec<Run>,
    /// Sorted and apart, once it is needed.
    scratch: Vec<Run>,
    small: BTreeMap<u64, Box<Chunk>>,
    /// By their first frame; no two share one.
    large: BTreeMap<u64, Large>,
    /// The same for those that a table named, taken or not.
    named: BTreeMap<u64, u64>,
}

/// The words of a chunk.
type Chunk = [Bits; (CHUNK / STEP) as usize];

/// 64 frames.
#[derive(Clone, Copy, Debug, Default)]
struct Bits {
    taken: u64,
    /// A node's.
    node: u64,
    /// Named by a table.
    claimed: u64,
}

/// A block of a chunk or more that is taken.
#[derive(Clone, Copy, Debug)]
struct Large {
    end: u64,
    node: bool,
}

impl Frames {
    /// The frames of `memory`, which are sorted runs that do not touch.
    pub(crate) fn new(memory: impl Iterator<Item = Run>) -> Self {
        Self {
            memory: memory.collect(),
            scratch: Vec::new(),
            small: BTreeMap::new(),
            large: BTreeMap::new(),
            named: BTreeMap::new(),
        }
    }

    fn has(&self, run: Run) -> bool {
        let after = self.memory.partition_point(|own| own.start() <= run.start());
        let before = after.checked_sub(1).and_then(|last| self.memory.get(last));
        before.is_some_and(|own| own.covers(run))
    }

    fn is_scratch(&self, run: Run) -> bool {
        let after = self.scratch.partition_point(|area| area.end() <= run.start());
        self.scratch.get(after).is_some_and(|area| area.start() < run.end())
    }

    /// Whether no frame of `block` is another block's or a node's.
    fn check_unused(&self, block: Block) -> Result<(), TreeFault> {
        let (start, end) = (block.run().start().get(), block.run().end().get());
        let at_node = |pfn| TreeFault::Node { block, node: Pfn::new(pfn).addr() };
        let large = self.large.range(..end).next_back().filter(|(_, large)| large.end > start);
        if let Some((first, large)) = large {
            let fault =
                if large.node { at_node(start.max(*first)) } else { TreeFault::Overlap { block } };
            return Err(fault);
        }
        for (at, mask, bits) in self.words(block.run()) {
            let nodes = bits.node & mask;
            if nodes != 0 {
                return Err(at_node(at + u64::from(nodes.trailing_zeros())));
            }
            if bits.taken & mask != 0 {
                return Err(TreeFault::Overlap { block });
            }
        }
        Ok(())
    }

    /// The words of `run` in chunks that are there: the first frame of each, the mask of its bits.
    fn words(&self, run: Run) -> impl Iterator<Item = (u64, u64, Bits)> + '_ {
        let (start, end) = (run.start().get(), run.end().get());
        let chunks = self.small.range(start / CHUNK..end.div_ceil(CHUNK));
        chunks.flat_map(move |(chunk, words)| {
            let (from, to) = (start.max(chunk * CHUNK), end.min((chunk + 1) * CHUNK));
            masks(from, to).filter_map(move |(at, mask)| {
                Some((at, mask, *words.get((at % CHUNK / STEP) as usize)?))
            })
        })
    }

    /// Changes the words of `run`, which lies in one chunk.
    fn change(&mut self, run: Run, mut each: impl FnMut(&mut Bits, u64)) {
        let chunk = run.start().get() / CHUNK;
        let none = || Box::new([Bits::default(); (CHUNK / STEP) as usize]);
        let words = self.small.entry(chunk).or_insert_with(none);
        for (at, mask) in masks(run.start().get(), run.end().get()) {
            if let Some(bits) = words.get_mut((at % CHUNK / STEP) as usize) {
                each(bits, mask);
            }
        }
    }

    fn take_as(&mut self, block: Block, node: bool) -> Result<(), TreeFault> {
        let run = block.run();
        if !self.has(run) {
            return Err(TreeFault::OutsideMemory { addr: block.addr() });
        }
        self.check_unused(block)?;
        if self.is_scratch(run) {
            return Err(TreeFault::Scratch { block });
        }
        if run.frames() >= CHUNK {
            self.large.insert(run.start().get(), Large { end: run.end().get(), node });
        } else {
            self.change(run, |bits, mask| {
                bits.taken |= mask;
                bits.node |= if node { mask } else { 0 };
            });
        }
        Ok(())
    }
}

/// The words of `from..to`, as the first frame of each and the mask of the bits within.
fn masks(from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
    (from / STEP..to.div_ceil(STEP)).map(move |word| {
        let first = word * STEP;
        let (start, end) = (from.max(first), to.min(first + STEP));
        (first, (u64::MAX >> (STEP - (end - start))) << (start - first))
    })
}

impl Ledger for Frames {
    fn take(&mut self, block: Block) -> Result<(), TreeFault> {
        self.take_as(block, false)
    }

    fn take_node(&mut self, node: Block) -> Result<(), TreeFault> {
        self.take_as(node, true)
    }

    fn keep_out(&mut self, area: Run) {
        let at = self.scratch.partition_point(|other| other.start() < area.start());
        if !area.is_empty() {
            self.scratch.insert(at, area);
        }
        // Areas that share frames are one.
        self.scratch.dedup_by(|next, last| {
            let touch = next.start() <= last.end();
            if touch {
                *last = Run::between(last.start(), last.end().max(next.end())).unwrap_or(*last);
            }
            touch
        });
    }

    fn claim(&mut self, block: Block) -> bool {
        let run = block.run();
        let (start, end) = (run.start().get(), run.end().get());
        // Blocks that share a frame lie one in the other: those within are swallowed.
        let around = self.named.range(..=start).next_back().filter(|(_, last)| **last >= end);
        let named = around.is_some() || self.named.range(start..end).next().is_some();
        let mut first = !named && !self.words(run).any(|(_, mask, bits)| bits.claimed & mask != 0);
        if run.frames() >= CHUNK {
            if around.is_none() {
                let within: Vec<_> =
                    self.named.range(start..end).map(|(first, _)| *first).collect();
                for first in within {
                    self.named.remove(&first);
                }
                self.named.insert(start, end);
            }
        } else {
            self.change(run, |bits, mask| {
                first &= bits.claimed & mask == 0;
                bits.claimed |= mask;
            });
        }
        first
    }

    fn take_word(&mut self, first: Pfn, frames: u64) -> Result<(), (u32, TreeFault)> {
        let Some(last) = frames.checked_ilog2() else { return Ok(()) };
        let from = first.add(frames.trailing_zeros().into());
        if let Some(run) = Run::between(from, first.add(u64::from(last) + 1))
            && self.has(run)
            && !self.is_scratch(run)
            && self
                .large
                .range(..run.end().get())
                .next_back()
                .is_none_or(|(_, large)| large.end <= run.start().get())
            && self.words(run).all(|(_, _, bits)| bits.taken & frames == 0)
        {
            self.change(run, |bits, _| bits.taken |= frames);
            return Ok(());
        }
        // One of them is at fault, or they lie in two runs: find out one by one.
        for bit in (0..u64::BITS).filter(|bit| frames >> bit & 1 == 1) {
            let block = Block::containing(first.add(bit.into()), Order::ZERO);
            self.take(block).map_err(|fault| (bit, fault))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use heirloom_kho::tree::{Frames as Reference, FramesOf};

    use super::*;

    fn block(pfn: u64, order: u8) -> Block {
        Block::containing(Pfn::new(pfn), Order::new(order).unwrap())
    }

    /// What happens to blocks of all sizes is what happens to them in the ledger that has bits for
    /// each frame.
    #[test]
    fn it_says_what_the_other_ledger_says() {
        let seed = 0x6672_616d_6573_u64;
        println!("seed {seed:#x}");
        let mut numbers = seed;
        let mut below = |limit: u64| {
            numbers = numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (numbers >> 33) % limit
        };
        for round in 0..200 {
            let memory = [(0x10, 0x3_0000), (0x3_0020, 0x9_0000), (0x9_1000, 0x9_1001)];
            let memory =
                memory.map(|(from, to)| Run::between(Pfn::new(from), Pfn::new(to)).unwrap());
            let mut words = memory.map(|run| vec![0; FramesOf::words(run).unwrap()]);
            let mut stretches: Vec<_> = memory
                .iter()
                .zip(&mut words)
                .map(|(run, words)| FramesOf::new(*run, words).unwrap())
                .collect();
            let mut reference = Reference::new(&mut stretches);
            let mut frames = Frames::new(memory.into_iter());
            for _ in 0..below(4) {
                let area = Run::new(Pfn::new(below(0x9_2000)), below(0x200)).unwrap();
                reference.keep_out(area);
                frames.keep_out(area);
            }
            for step in 0..200 {
                let order = if below(3) == 0 { below(20) } else { below(4) } as u8;
                let near = if below(2) == 0 { 0x9_2000 } else { 0x400 };
                let one = block(below(near), order);
                let what = below(6);
                let at = format!("round {round}, step {step}: {what} of {one}");
                // A block that cannot be for two reasons has either.
                let whole = order > 0;
                let why = |fault| if whole { None } else { Some(fault) };
                match what {
                    0 => assert_eq!(
                        frames.take_node(one).map_err(why),
                        reference.take_node(one).map_err(why),
                        "{at}"
                    ),
                    // What is named is preserved, so it is in memory.
                    1 if !frames.has(one.run()) => {}
                    1 => assert_eq!(frames.claim(one), reference.claim(one), "{at}"),
                    2 => {
                        let first = Pfn::new(one.pfn().get() / 64 * 64);
                        let bits = below(1 << 30) << below(35);
                        let found = frames.take_word(first, bits);
                        assert_eq!(found, reference.take_word(first, bits), "{at}");
                    }
                    _ => assert_eq!(
                        frames.take(one).map_err(why),
                        reference.take(one).map_err(why),
                        "{at}"
                    ),
                }
            }
        }
    }

    /// 2^50 frames in a million runs: nothing that is not touched costs anything.
    #[test]
    fn what_is_not_preserved_takes_no_room() {
        let run = |i: u64| Run::new(Pfn::new(i << 30), 1 << 29).unwrap();
        let mut frames = Frames::new((0..1 << 20).map(run));
        frames.take(block(5 << 30, 29)).unwrap();
        frames.take(block(6 << 30, 3)).unwrap();
        assert!(frames.claim(block(5 << 30, 29)) && !frames.claim(block(5 << 30, 29)));
        assert_eq!((frames.large.len(), frames.small.len()), (1, 1));
        assert!(frames.take(block((5 << 30) + 77, 0)).is_err());
    }
}
