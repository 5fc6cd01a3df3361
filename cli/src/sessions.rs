//! The sessions of a live update, with their files, each list gone through once.
//!
//! A broken handover can give one list of files to a million sessions. What it takes to go through
//! all of them, and to print them, is bounded by the blocks that there are.

use std::collections::HashSet;

use heirloom_kho::linux::{Files, Luo, Session};
use heirloom_kho::{Block, Error, Fault, Left, Table};

use crate::image::Image;

/// The files of a session.
#[derive(Debug)]
pub(crate) enum Listing<'l, 'i> {
    Files(Files<'l, Left<'i, Image>>),
    /// Blocks of its list were gone through before: they are another list's, or it comes back to
    /// itself.
    Shared,
    /// Its list is not sound.
    Broken(Error),
}

/// Calls `each` with every session whose entry is sound, in the order they stand in.
pub(crate) fn each_session<'l, 'i>(
    luo: &Luo,
    left: &'l Left<'i, Image>,
    mut each: impl FnMut(&Session, Listing<'l, 'i>),
) {
    let mut seen = HashSet::new();
    let mut once = |block: Block| {
        let first = seen.insert(block.pfn());
        let again = Fault::Shared { block }.in_table(Table::Records, block.addr(), 0);
        first.then_some(()).ok_or(again)
    };
    // What ends the list is among the findings.
    let _ = luo.for_each_block(left, &mut once);
    for session in luo.sessions(left).into_iter().flatten().flatten() {
        let mut shared = false;
        let walked = session.for_each_block(left, |block| {
            let first = once(block);
            shared = first.is_err();
            first
        });
        let files = walked.and_then(|()| session.files(left));
        each(
            &session,
            match files {
                _ if shared => Listing::Shared,
                Ok(files) => Listing::Files(files),
                Err(error) => Listing::Broken(error),
            },
        );
    }
}
