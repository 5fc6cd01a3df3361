//! What a running Linux kernel asked its allocators, in order.

use std::io::Read;

use flate2::read::GzDecoder;

const TRACE: &[u8] = include_bytes!("../tests/fixtures/linux-kmem-trace/trace.gz");

/// One event: the slot is a name for what was allocated, used again after its free.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// So many bytes.
    Alloc(usize, usize),
    /// The object of the slot.
    Free(usize),
}

/// A trace of one kind of events.
#[derive(Debug)]
pub struct Trace {
    /// In time order; objects in bytes, folios in orders.
    pub events: Vec<Event>,
    /// One more than the largest slot.
    pub slots: usize,
}

/// The events whose letters these are.
fn of(alloc: &str, free: &str) -> Trace {
    let mut text = String::new();
    GzDecoder::new(TRACE).read_to_string(&mut text).expect("the trace is whole");
    let mut trace = Trace { events: Vec::new(), slots: 0 };
    for line in text.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(op), Some(slot)) = (words.next(), words.next()) else { continue };
        let slot: usize = slot.parse().expect("a slot");
        if op == alloc {
            let argument = words.next().and_then(|word| word.parse().ok()).expect("an argument");
            trace.events.push(Event::Alloc(slot, argument));
        } else if op == free {
            trace.events.push(Event::Free(slot));
        } else {
            continue;
        }
        trace.slots = trace.slots.max(slot + 1);
    }
    trace
}

/// Objects and their bytes.
pub fn objects() -> Trace {
    of("+", "-")
}

/// Folios and their orders.
pub fn folios() -> Trace {
    of("P", "p")
}
