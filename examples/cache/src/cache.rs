//! What threads share.

use std::sync::atomic::AtomicUsize;
use std::time::{SystemTime, UNIX_EPOCH};

use heirloom::Heirloom;
use heirloom::arena::Arena;

use crate::store::Store;

/// The cache, and what there is to be told of it, for one thread. Others have clones.
#[derive(Clone)]
pub(crate) struct Cache<'h> {
    pub(crate) store: Store<'h>,
    pub(crate) heirloom: &'h Heirloom<&'h Arena>,
    pub(crate) build: &'h str,
    /// `warm`, or why it began with nothing.
    pub(crate) began: &'h str,
    pub(crate) clients: &'h AtomicUsize,
    /// How many there may be.
    pub(crate) most_clients: usize,
}

/// Returns the time by the clock on the wall, in milliseconds since 1970: keys expire by it, in this process or a
/// later one.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
