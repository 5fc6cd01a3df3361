//! Every interleaving of what two or three threads do in the whole library, up to a bound.
//!
//! Words lie in raw memory, as they ship; see [`heirloom_verify::races`].

#![cfg(heirloom_model)]

mod adopting;
mod containers;
mod frames;
mod heirs;
mod logs;
mod objects;
mod resume;
mod seals;

use heirloom::folio::{DirectMap, Memory, Request};
use heirloom::kho::{Order, PAGE_SIZE};
use heirloom::slab::CacheSpec;
use heirloom_testkit::TestMachine;

const CACHE: CacheSpec = CacheSpec::new("objects", 700);

fn single() -> Request {
    Request::new(Order::ZERO)
}

/// Writes to all that is free: whoever finds there what was written before it was handed out, and
/// not what its owner wrote first, finds nothing that could be taken for it.
fn ruin(memory: &Memory<&'static TestMachine>) {
    let taken: Vec<_> = std::iter::from_fn(|| memory.alloc(single()).ok()).collect();
    for block in taken {
        // SAFETY: allocated just now.
        unsafe {
            memory.machine().ptr(block.addr()).write_bytes(0xff, PAGE_SIZE);
            memory.free(block).unwrap();
        }
    }
    memory.drain();
}
