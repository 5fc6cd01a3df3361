//! What is known of a predecessor, its tables as it left them, and what its handover must be to be taken
//! over.

use heirloom_folio::{Machine, Memory};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::{
    Block, Fault, Order, PAGE_SIZE, PhysAddr, Producer, RootView, Run, SealInfo, Table,
};

use crate::error::Error;
use crate::pages::{Inherited, halves, words_at};

/// Whether a handover must be sealed, and as it was when it was sealed.
///
/// A handover that was sealed can be [opened](heirloom_kho::SealState::Opened): a successor found it whole,
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

/// What keeps a page of the predecessor's from being used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held {
    /// It is in this block, which is preserved, and this layer's.
    Taken(Block),
    /// It is in these frames, which nothing preserves, and which are reserved.
    Reserved(Run),
}

impl Held {
    /// Returns whether it is the page at `addr`, preserved as one.
    pub(crate) fn is_page_of(self, addr: PhysAddr) -> bool {
        matches!(self, Self::Taken(block) if block.order() == Order::ZERO && block.addr() == addr)
    }
}

/// What is known of the predecessor, once its tables are checked; little, if it was not heirloom.
#[derive(Default)]
pub(crate) struct Predecessor {
    /// Where the root page and the scratch list lie.
    pub(crate) held: [Option<Held>; 2],
    /// Where its header is, and the block around it.
    pub(crate) header: Option<(PhysAddr, Block)>,
    /// The header says more than this build knows.
    pub(crate) longer: bool,
    pub(crate) generation: u64,
    pub(crate) producer: Option<Producer>,
    pub(crate) cache_directory: Option<PhysAddr>,
    /// A root page beside which this handover's was made.
    pub(crate) before: Option<PhysAddr>,
    /// The seal that holds; whether its table is this kernel's to give back.
    pub(crate) seal: Option<(SealInfo, bool)>,
    /// The handover was sealed and found whole, now or by a predecessor.
    pub(crate) opened: bool,
}

/// The old kernel is gone, and every page read here is one that it wrote. Before [`Heirloom::revive_memory`]
/// returns it has no other reader or writer: it alone has the memory. After that the blocks of tables
/// are asked for before they are looked into, and an old root page is this layer's.
pub(crate) const fn left<M: Machine>(memory: &Memory<M>) -> Inherited<'_, M> {
    // SAFETY: see above: nothing writes what is read while the value is in use.
    unsafe { Inherited::new(memory) }
}

/// Returns the words of a page that the predecessor left.
fn words<M: Machine>(
    memory: &Memory<M>,
    table: Table,
    at: PhysAddr,
    bytes: usize,
) -> Result<&[AtomicU64], Error> {
    let run = Run::covering(at, usize_to_u64(bytes)).filter(|run| memory.contains(*run));
    let outside = Fault::OutsideMemory { addr: at }.in_table(table, at, 0);
    run.ok_or(outside)?;
    // SAFETY: as for `left`.
    let words = unsafe { words_at(memory, at, bytes) };
    words.ok_or(Fault::Misaligned { addr: at }.in_table(table, at, 0).into())
}

/// Returns the words of a root page.
pub(crate) fn past_words<M: Machine>(
    memory: &Memory<M>,
    root: PhysAddr,
) -> Result<&[AtomicU64], Error> {
    words(memory, Table::Root, root, PAGE_SIZE)
}

/// Checks a predecessor's root page.
pub(crate) fn check_root<M: Machine>(
    memory: &Memory<M>,
    root: PhysAddr,
) -> Result<RootView<'_>, Error> {
    Ok(RootView::new(halves(past_words(memory, root)?), root)?)
}

/// Returns the predecessor's root page, which [`check_root`] looked through before anything else
/// was read.
pub(crate) fn past_root<M: Machine>(
    memory: &Memory<M>,
    root: PhysAddr,
) -> Result<RootView<'_>, Error> {
    Ok(RootView::again(halves(past_words(memory, root)?), root)?)
}
