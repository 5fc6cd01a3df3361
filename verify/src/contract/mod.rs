//! What must be true whatever a predecessor left: any bytes at all lead to an error that names a
//! table and a place, or to a consistent revive in which no frame has two owners and every later
//! operation is sound. The work is bounded by the size of memory.
//!
//! ```text
//! mod      the whole of it: survey, revive, claim, use, finish, jump, revive again
//! owners   whose frame is whose
//! claims   everything that can be claimed is claimed, twice
//! usage    what a kernel does all day: fill, free, preserve, seal
//! linux    what Linux registered, read from a dump
//! ```

mod claims;
mod linux;
mod owners;
mod usage;

pub use claims::Claimed;
use heirloom::Error;
use heirloom::folio::{Disposition, Error as FolioError, FrameType};
use heirloom::kho::tree::{Frames, FramesOf};
use heirloom::kho::{Handle, Run};
use heirloom::restore::{Entry, Finished, SealPolicy, survey};
pub use linux::read_dump;
pub use owners::Owners;

use crate::world::{Kernel, TestMachine, TestObject, end};

/// How a takeover is tried.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Where the handover is said to begin.
    pub entry: Entry,
    /// What is demanded of its seal.
    pub policy: SealPolicy,
    /// What its owners hold: every one of these is claimed.
    pub handles: &'a [Handle],
    /// What must come back with its content; nothing, if the handover was tampered with.
    pub kept: &'a [TestObject],
    /// Bits that decide between things that are all allowed.
    pub whim: u64,
}

impl Attempt<'_> {
    /// Whether caches are resumed, rather than adopted or passed on.
    const fn resumes(&self) -> bool {
        self.kept.is_empty() && self.whim & 16 == 16
    }
}

/// How a takeover ended.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// Refused, for this reason.
    Refused(Error),
    /// Taken over.
    Lived {
        /// How many claims were granted.
        claims: u64,
    },
}

/// The most addresses that one operation may ask for in a memory of so many frames.
///
/// A frame is a table at most once, a table is read a fixed number of times, and a block is looked
/// up in a tree of at most six levels. What is not sound can be looked up for each word of a page.
/// A reader that goes through all frames again for each of them is far above it: no world has fewer
/// than 192.
pub const fn most_looks(frames: u64) -> u64 {
    4096 + frames * 16
}

/// Runs `f`, which must not look at more than a memory of this size makes needful.
///
/// # Panics
/// If it does.
pub fn bounded<R>(machine: &TestMachine, what: &str, f: impl FnOnce() -> R) -> R {
    let before = machine.looks();
    let result = f();
    let looks = machine.looks() - before;
    let frames = machine.all().frames();
    assert!(looks <= most_looks(frames), "{what}: {looks} looks at {frames} frames");
    result
}

/// Tries to take over whatever lies in `world`, and then everything that a kernel can do.
///
/// # Panics
/// If any of what the module promises is not so.
pub fn take_over(machine: &TestMachine, attempt: &Attempt<'_>) -> Verdict {
    let findings = findings(machine, attempt.entry);
    let revived = bounded(machine, "revive", || machine.try_revive(attempt.entry, attempt.policy));
    let kernel = match revived {
        Ok(kernel) => kernel,
        Err(error) => {
            // To a survey, a list of no bytes is one that is not known.
            refusal(&error, !findings.is_empty() || attempt.entry.scratch_bytes == 0);
            return Verdict::Refused(error);
        }
    };
    Owners::of(machine, &kernel).assert_apart();
    kernel.memory().audit().expect("a revived memory is consistent");

    let claimed = claims::claim_all(machine, &kernel, attempt);
    claimed.assert_preserved(&kernel);
    Owners::of(machine, &kernel).assert_apart();
    usage::fill(machine, &kernel);
    let fresh = usage::work(machine, &kernel, attempt.whim);
    Owners::of(machine, &kernel).with(fresh.runs()).assert_apart();
    // What was not tampered with can also be left as it is.
    let keep = attempt.whim & 8 == 8 && !attempt.kept.is_empty();
    finish(machine, &kernel, attempt.whim, keep);
    claimed.assert_preserved(&kernel);
    Owners::of(machine, &kernel).with(fresh.runs()).assert_apart();
    if !keep {
        assert_whole(machine, &kernel);
    }

    // And once more, from what this kernel leaves: that is sound, whatever it was made of.
    let sealed = attempt.whim & 1 == 0 && usage::seal(&kernel);
    let entry = end(kernel);
    let found = self::findings(machine, entry);
    assert!(found.is_empty(), "a kernel's own handover: {}", found[0]);
    let policy = if sealed { SealPolicy::Required } else { SealPolicy::Checked };
    let next = machine.try_revive(entry, policy);
    let next = next.unwrap_or_else(|error| panic!("a kernel's own handover: {error}"));
    Owners::of(machine, &next).assert_apart();
    fresh.assert_there(&next);
    next.finish(|_| Disposition::Free).expect("sound");
    next.memory().audit().expect("consistent");
    assert_whole(machine, &next);
    Verdict::Lived { claims: claimed.count() }
}

/// Asks what nobody claimed: some is left as it is and some freed; in the end all, unless it is to `keep`.
fn finish(machine: &TestMachine, kernel: &Kernel<'_>, whim: u64, keep: bool) {
    let mut turn = whim;
    let mut told = 0;
    let finished = bounded(machine, "finish", || {
        kernel.finish(|_| {
            told += 1;
            turn = turn.rotate_left(1);
            if turn & 1 == 1 { Disposition::Keep } else { Disposition::Free }
        })
    });
    let finished = finished.expect("nothing else wrote the root page");
    let Finished { subtrees, folios, slabs, objects, .. } = finished;
    assert!(subtrees + folios + slabs + objects <= told, "{finished:?}: asked {told} times");
    kernel.memory().audit().expect("consistent");
    if keep {
        return;
    }
    kernel.finish(|_| Disposition::Free).expect("what nobody wants can be freed");
    // A slab that is not sound is its owner's, where its cache was resumed.
    let unswept: u64 = kernel.slabs().caches().map(|cache| cache.stats().unswept).sum();
    let mut left = Vec::new();
    kernel.memory().predecessor().for_each(|block| left.push(block));
    assert_eq!(left.len() as u64, unswept, "{left:?}");
    for slab in left {
        assert_eq!(
            kernel.memory().predecessor().label_of(slab),
            Some(FrameType::Slab),
            "{slab} is left"
        );
        let given = bounded(machine, "give up", || {
            // SAFETY: nothing was found in it.
            kernel.slabs().caches().any(|cache| unsafe { cache.give_up(slab.addr()) } == Ok(true))
        });
        assert!(given, "{slab} is of no cache, or sound");
    }
    let again = kernel.finish(|_| Disposition::Keep).expect("nothing to do");
    assert_eq!(again, Finished::default());
}

/// Every frame is in one state, and scratch alone is reserved once nothing is left to be claimed.
fn assert_whole(machine: &TestMachine, kernel: &Kernel<'_>) {
    kernel.memory().drain();
    let audit = kernel.memory().audit().expect("consistent");
    let allocated: u64 = audit.allocated.iter().sum();
    let all = machine.all().frames();
    assert_eq!(audit.free + audit.cached + audit.reserved + allocated, all, "{audit:?}");
    let scratch: u64 = owners::scratch_of(machine, kernel).map(Run::frames).sum();
    assert_eq!(audit.reserved, scratch, "{audit:?}");
}

/// What a survey finds wrong with the handover at `entry`: the first 256 findings.
///
/// # Panics
/// If it looks at more than it should, or a finding says nothing.
pub fn findings(machine: &TestMachine, entry: Entry) -> Vec<Error> {
    let mut words = vec![0; FramesOf::words(machine.all()).expect("frames")];
    let mut stretches = [FramesOf::new(machine.all(), &mut words).expect("room")];
    let mut findings = Vec::new();
    bounded(machine, "survey", || {
        let surveyed = survey(machine, entry, &mut Frames::new(&mut stretches), |finding| {
            // There can be as many as the tables have bits: the first ones will do.
            if findings.len() < 256 {
                assert!(!finding.to_string().is_empty());
                findings.push(finding);
            }
            Ok::<_, std::convert::Infallible>(())
        });
        surveyed.unwrap_or_else(|never| match never {});
    });
    findings
}

/// A refusal says what is wrong and where; what a survey finds nothing wrong with is not refused
/// for its tables.
fn refusal(error: &Error, found: bool) {
    assert!(!error.to_string().is_empty());
    match error {
        Error::NotSealed { .. }
        | Error::Folio(FolioError::OutOfMemory { .. } | FolioError::NoRun { .. })
        | Error::ScratchTooSmall { .. }
        | Error::ScratchNotMemory { .. } => {}
        Error::MetadataInUse { .. } => panic!("{error}"),
        error => {
            named(error);
            assert!(found, "refused, and a survey finds nothing: {error}");
        }
    }
}

/// An error that names what is at fault.
fn named(error: &Error) {
    assert!(!error.to_string().is_empty());
    let of_memory = matches!(
        error,
        Error::Folio(
            FolioError::OutOfMemory { .. }
                | FolioError::NoRun { .. }
                | FolioError::NotFree { .. }
                | FolioError::NotMemory { .. }
                | FolioError::NotPreserved { .. }
                | FolioError::AlreadyPreserved { .. }
        )
    );
    assert!(error.at().is_some() || of_memory, "no place: {error}");
}
