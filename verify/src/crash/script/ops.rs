//! What the scripts do, call by call.

use crate::crash::actor::{LAST, Op};

/// Names what scripts do: on a line the calls that belong together.
macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident: $($op:ident $(($($argument:expr),*))?),*;)*) => {
        $($(#[$doc])* pub(super) const $name: &[Op] = &[$(Op::$op $(($($argument),*))?),*];)*
    };
}

scripts! {
    /// One thing of each sort.
    SHORT_LIFE:
        Folio(1), Preserve(LAST), Run(3), Preserve(LAST), Buffer(2000, false), Preserve(LAST),
        Buffer(5000, true), Object(2), Preserve(LAST), Object(3), Object(6), Preserve(LAST),
        Area(2, 0), Records, Push(LAST, 2), Publish(0, 100),
        Folio(0), Preserve(LAST), Subtree(LAST), Seal;

    /// The same without a seal, which a root page that is laid out anew breaks; and a name and a folio that
    /// the successor does not claim.
    MOVED_LIFE:
        Folio(1), Preserve(LAST), Run(3), Preserve(LAST), Buffer(2000, false), Preserve(LAST),
        Buffer(5000, true), Object(2), Preserve(LAST), Object(3), Area(2, 0),
        Records, Push(LAST, 2), Publish(0, 100), Publish(1, 30), Publish(2, 20),
        Folio(0), Preserve(LAST), Subtree(LAST), Folio(2), Preserve(LAST), Shrink;

    /// The same without any cache, as Linux has none of heirloom's.
    PLAIN_LIFE:
        Folio(1), Preserve(LAST), Run(3), Preserve(LAST), Buffer(5000, true), Area(2, 0),
        Records, Push(LAST, 2), Publish(0, 100), Publish(1, 30), Publish(2, 20),
        Folio(0), Preserve(LAST), Subtree(LAST), Folio(2), Preserve(LAST);

    /// What a kernel does beside a root page of another make, before it ends that one's entry: names are
    /// replaced, taken back and added, things let go of and made.
    BESIDE:
        Publish(0, 40), Publish(3, 40), Unpublish(1), SubtreeGone(0), Unpreserve(0), Free(0),
        Folio(0), Preserve(LAST), Subtree(LAST), Object(2), Preserve(LAST), Buffer(700, true),
        Push(0, 1), Seal, Publish(3, 60);

    /// And after it.
    BEHIND:
        Publish(1, 10), Folio(0), Preserve(LAST), Unpublish(0), Seal;

    /// What a kernel does that hands over in the middle of its takeover.
    IN_BETWEEN:
        Publish(1, 40), Folio(0), Preserve(LAST), Object(2), Preserve(LAST), Seal;

    /// What a kernel does that ends up with what it took over.
    IDLE:
        Buffer(5000, true), Free(LAST), Folio(0), Preserve(LAST), Unpreserve(LAST), Free(LAST),
        Object(2), Preserve(LAST), Unpreserve(LAST), Free(LAST), Area(2, 0), AreaGone(LAST),
        Records, RecordsGone(LAST), Publish(3, 40), Seal, Unpublish(3), Seal, Unseal, Shrink;

    /// What a kernel does that has claimed all of that.
    BRIEF:
        Free(2), Publish(0, 40), Publish(1, 40), Unpublish(0), Unpreserve(0),
        Folio(0), Preserve(LAST), Object(2), Preserve(LAST), Push(0, 1), Seal;

    /// Everything that there is, each sort of thing in each role.
    LIFE:
        Folio(0), Preserve(LAST), Folio(2), Preserve(LAST), FolioAfar(1), Preserve(LAST),
        Folio(0), Run(5), Preserve(LAST), Run(3), Preserve(LAST), Unpreserve(LAST), Free(LAST),
        Run(7), Buffer(100, false), Preserve(LAST),
        Buffer(100, false), Preserve(LAST), Unpreserve(LAST), Buffer(2000, true),
        Buffer(300, true), Free(LAST), Buffer(300, true), Buffer(9000, false), Preserve(LAST),
        Buffer(21_000, false), Preserve(LAST), Unpreserve(LAST),
        Buffer(13_000, true), Free(LAST), Buffer(5000, true), Buffer(13_000, true),
        Object(0), Preserve(LAST), Object(0), Preserve(LAST), Unpreserve(LAST), Object(1),
        Object(1), Free(LAST), Object(1),
        Object(2), Preserve(LAST), Unpreserve(LAST), Preserve(LAST), Object(3), Object(3),
        Insert(false), Insert(false), Unpreserve(LAST), Insert(true), Insert(true), Free(LAST),
        Object(6), Preserve(LAST), Object(6), Preserve(LAST), Object(6), Publish(0, 100),
        Publish(1, 5000), Publish(0, 7000), Unpublish(1), Publish(1, 50), PreserveAll(4),
        UnpreserveAll, PreserveAll(3), PreserveRange(0), PreserveRange(1), Area(3, 1),
        Area(2, 0), AreaGone(LAST), Area(2, 0), Records, Push(LAST, 3),
        Records, Push(LAST, 172), Push(0, 1), Records, Push(LAST, 171), RecordsGone(LAST),
        Subtree(0), Subtree(1), SubtreeGone(0), Seal, Publish(2, 10), Seal, Unseal,
        Unpublish(2), Preserve(0), Preserve(2), Free(0), Free(1), Unpreserve(0), Unpreserve(5),
        Realloc(0, 700), Realloc(1, 20_000), Realloc(2, 4500), Realloc(3, 60),
        Realloc(4, 30_000), Shrink, Buffer(150, true), Object(2), Preserve(LAST), Object(4),
        Folio(1), Preserve(LAST);

    /// What becomes of a seal: untrue by each call that changes what it covers, and true again.
    SEALS:
        Seal, Publish(1, 50), Seal, Publish(1, 5000), Seal, Unpublish(0), Seal, Subtree(0),
        Seal, SubtreeGone(0), Seal, Unseal, Seal, Seal;

    /// A few of each, as a kernel does after it took over.
    SHORT:
        Folio(1), Preserve(0), Buffer(500, true), Object(1), Object(0), Preserve(1),
        Publish(0, 64), Area(2, 0), Records, Push(0, 2), Free(3), Shrink;

    /// Everything once, in a kernel that no successor follows: what [`exercise`] does.
    EVERYTHING:
        Folio(0), FolioAfar(1), Preserve(0), Run(4), Preserve(0), Buffer(200, false),
        Preserve(1), Buffer(6000, true), Object(0), Object(1), Preserve(2), Insert(true),
        PreserveRange(0), Area(2, 0), Records, Push(0, 2), Publish(0, 40), Seal, Unseal,
        Unpreserve(1), Realloc(0, 9000), Unpublish(0);
}
