//! Where blocks are taken: what a long time of taking and freeing leaves for large requests.

mod common;

use common::{free, order};
use heirloom_folio::harness::Ram;
use heirloom_folio::{FrameType, Memory, Request};
use heirloom_kho::Block;

/// 256 MiB of the smallest pages.
const FRAMES: u64 = 1 << 16;
/// Orders 0 to 8: as large a part of the memory as 4 MiB are of a gibibyte.
const ORDERS: u64 = 9;
const SEED: u64 = 13;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// Keeps `percent` of the memory taken, in blocks of random orders that are freed in a random order. Returns of how
/// many operations in a hundred thousand one was refused, and the largest order that is free at the end.
fn churn(percent: u64) -> (u64, u8) {
    const WARM: u64 = 40_000;
    const STEPS: u64 = 40_000;
    let memory: Memory<Ram> = Ram::memory(&Ram::frames(FRAMES)).unwrap();
    let (mut dice, mut live, mut used, mut refused) = (Dice(SEED), Vec::<Block>::new(), 0, 0);
    for step in 0..WARM + STEPS {
        if used < FRAMES * percent / 100 {
            let order = order(dice.roll(ORDERS) as u8);
            if let Ok(block) = memory.alloc(Request::new(order)) {
                used += order.frames();
                live.push(block);
                continue;
            }
            refused += u64::from(step >= WARM);
        }
        let block = live.swap_remove(dice.roll(live.len() as u64) as usize);
        used -= block.order().frames();
        free(&memory, block, FrameType::Folio).unwrap();
    }
    memory.drain();
    let free = memory.stats().free_blocks;
    let largest = free.iter().rposition(|blocks| *blocks > 0);
    (refused * 100_000 / STEPS, largest.unwrap_or(0) as u8)
}

#[test]
fn a_nearly_full_memory_refuses_few_requests_that_leave_room() {
    for (percent, most, at_least) in [(75, 0, 8), (90, 100, 8), (95, 1000, 7)] {
        let (refused, largest) = churn(percent);
        let said = format!("{percent} % taken, seed {SEED}: {refused} of 100000, order {largest}");
        println!("{said}");
        assert!(refused <= most && largest >= at_least, "{said}");
    }
}
