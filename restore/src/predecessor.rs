//! A predecessor's tables, read as it left them; and what a handover must be to be taken over.

use heirloom_folio::sync::AtomicU64;

use heirloom_folio::{Machine, Memory, PAGE_SIZE, PhysAddr, Run};

use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::pages::{Inherited, halves, words_at};
use crate::root::RootView;

/// Whether a handover must be sealed, and as it was when it was sealed.
///
/// A handover that was sealed can be [opened](crate::SealState::Opened): a successor found it whole,
/// and has been at work in it since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SealPolicy {
    /// A seal that is broken is refused; a handover that is not sealed, or opened, is taken.
    #[default]
    Checked,
    /// A handover that never was sealed is refused too; one that is opened is taken.
    Required,
    /// Only a handover that is sealed now is taken: one that is opened is refused too.
    SealedOnly,
    /// The seal is not looked at: structure alone is checked.
    Ignored,
}

/// The old kernel is gone, and every page read here is one that it wrote. Before [`Handover::revive`]
/// returns it has no other reader or writer: it alone has the memory. After that the blocks of tables
/// are asked for before they are looked into, and an old root page is this layer's.
pub(crate) const fn left<M: Machine>(memory: &Memory<M>) -> Inherited<'_, M> {
    // SAFETY: see above: nothing writes what is read while the value is in use.
    unsafe { Inherited::new(memory) }
}

/// The words of a page that the predecessor left.
fn words<M: Machine>(
    memory: &Memory<M>,
    table: Table,
    at: PhysAddr,
    bytes: usize,
) -> Result<&[AtomicU64], Error> {
    let run = Run::covering(at, bytes as u64).filter(|run| memory.contains(*run));
    let outside = Fault::OutsideMemory { addr: at }.in_table(table, at, 0);
    run.ok_or(outside)?;
    // SAFETY: as for `left`.
    let words = unsafe { words_at(memory, at, bytes) };
    words.ok_or(Fault::Misaligned { addr: at }.in_table(table, at, 0))
}

/// The words of a root page.
pub(crate) fn past_words<M: Machine>(
    memory: &Memory<M>,
    root: PhysAddr,
) -> Result<&[AtomicU64], Error> {
    words(memory, Table::Root, root, PAGE_SIZE)
}

/// The predecessor's root page.
pub(crate) fn past_root<M: Machine>(
    memory: &Memory<M>,
    root: PhysAddr,
) -> Result<RootView<'_>, Error> {
    RootView::new(halves(past_words(memory, root)?), root)
}
