//! Goes on with the predecessor's pages, or writes this kernel's own beside them.

use heirloom_folio::{Machine, Memory};
use heirloom_kho::internal::Edit;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::{
    Header, HeaderPage, Name, Order, PhysAddr, Producer, RootPage, SUBTREE, SealState, Subtree,
};
use heirloom_slab::internal::NewSlabs;

use super::check::scratch_list;
use crate::area::{drop_table, new_table};
use crate::check;
use crate::entry::Entry;
use crate::error::Error;
use crate::moved::Moved;
use crate::own_pages::OwnPages;
use crate::pages::{halves, words_at};
use crate::predecessor::{Held, Predecessor, left as predecessors, past_root, past_words};

/// The pages of this kernel's handover, and what became of the predecessor's.
pub(super) struct GoneOn {
    pub(super) pages: OwnPages,
    pub(super) moved: Option<Moved>,
    /// Names that led to frames that were let go.
    pub(super) lost: u32,
}

/// Returns what the `heirloom` name of a root page says.
fn header_name(header: PhysAddr) -> Result<Subtree, Error> {
    Ok(Subtree { name: Name::new(SUBTREE)?, addr: header, size: Some(usize_to_u64(Header::SIZE)) })
}

/// Goes on with the predecessor's pages, or, where its root page is of another make, writes new ones.
#[inline(never)]
pub(super) fn go_on<M: Machine>(
    slabs: &NewSlabs<M>,
    entry: Entry,
    producer: &str,
    left: &Predecessor,
) -> Result<GoneOn, Error> {
    let memory = slabs.memory();
    let [root, list] = left.held;
    // A list in frames that nothing preserves would stay there, where the next kernel may not find it.
    let loose = matches!(list, Some(Held::Reserved(_)));
    if loose || !root.is_some_and(|root| root.is_page_of(entry.root)) {
        return move_on(slabs, entry, producer, left);
    }
    let (fits, there) = header_in_place(memory, entry)?;
    if !fits {
        return move_on(slabs, entry, producer, left);
    }
    let generation = left.generation.saturating_add(1);
    let header = go_on_header(slabs, producer, generation, left, None)?;
    if there != Some(header) {
        turn_to_header(memory, entry, header, there.is_some())?;
    }
    // One that could not be gone on with is named no more.
    if let Some((_, block)) = left.header.filter(|(at, _)| *at != header) {
        drop_table(memory, block);
    }
    Ok(GoneOn { pages: OwnPages { entry, header, generation }, moved: None, lost: 0 })
}

/// Writes pages of this kernel's own beside the predecessor's, whose entry stays good.
#[inline(never)]
fn move_on<M: Machine>(
    slabs: &NewSlabs<M>,
    entry: Entry,
    producer: &str,
    left: &Predecessor,
) -> Result<GoneOn, Error> {
    let memory = slabs.memory();
    let generation = left.generation.saturating_add(1);
    let areas = scratch_list(memory, entry)?;
    let header = go_on_header(slabs, producer, generation, left, Some(entry.root))?;
    let pages = OwnPages::beside(memory, areas.runs(), generation, header)?;
    let mut page = root_of(memory, pages.entry)?;
    let (mut full, mut lost) = (0, 0);
    let before = past_root(memory, entry.root)?;
    check::each_name(&predecessors(memory), &before, |subtree, gone| {
        if gone {
            lost += 1;
            return Ok(());
        }
        match page.edit(Edit::Add(subtree), || Ok::<_, Error>(())) {
            // It stays in the predecessor's root page.
            Err(Error::RootFull { .. }) => full += 1,
            added => added?,
        }
        Ok(())
    })?;
    let replaced = left.header.filter(|(at, _)| *at != pages.header);
    let [page, areas] = left.held;
    let held = [page, areas, replaced.map(|(_, block)| Held::Taken(block))];
    Ok(GoneOn { pages, moved: Some(Moved::new(entry.root, held, full)), lost })
}

/// Returns whether the root page is laid out as this build does it and has room for a header's name, and
/// where it names one now.
#[inline(never)]
fn header_in_place<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
) -> Result<(bool, Option<PhysAddr>), Error> {
    let page = root_of(memory, entry)?;
    // Whatever the header page's address will be: an edit that has room for one has it for any.
    let named = header_name(entry.root)?;
    let there = page.view()?.find(&named.name).ok().map(|there| there.addr);
    let edit = if there.is_some() { Edit::Replace } else { Edit::Add };
    let room = page.is_ours() && page.try_edit(edit(named)).is_ok();
    Ok((room, there))
}

/// Makes the root page name this header, in place of another or of none.
#[inline(never)]
fn turn_to_header<M: Machine>(
    memory: &Memory<M>,
    entry: Entry,
    header: PhysAddr,
    replaces: bool,
) -> Result<(), Error> {
    let edit = if replaces { Edit::Replace } else { Edit::Add };
    root_of(memory, entry)?.edit(edit(header_name(header)?), || Ok(()))
}

/// Returns what this kernel says in the header.
#[inline(never)]
fn says_on(
    cache_directory: PhysAddr,
    producer: &str,
    generation: u64,
    left: &Predecessor,
    before: Option<PhysAddr>,
) -> Header {
    let (cache_directory, producer) = (Some(cache_directory), Producer::new(producer));
    let seal = if left.opened { SealState::Opened } else { SealState::Unsealed };
    Header { generation, cache_directory, before, producer, seal, longer: false }
}

/// Says this in the predecessor's page of the `heirloom` subtree. Returns where that is.
#[inline(never)]
fn renew_header<M: Machine>(
    memory: &Memory<M>,
    at: PhysAddr,
    says: &Header,
) -> Result<PhysAddr, Error> {
    // SAFETY: a page that the check took, which nothing else reaches.
    let words = unsafe { words_at(memory, at, Header::SIZE) }.unwrap_or(&[]);
    HeaderPage::reopen(words, at)?.renew(says)?;
    Ok(at)
}

/// Returns the page of the `heirloom` subtree: the predecessor's, which says from now on what this
/// kernel says, or a new one.
#[inline(never)]
fn go_on_header<M: Machine>(
    slabs: &NewSlabs<M>,
    producer: &str,
    generation: u64,
    left: &Predecessor,
    before: Option<PhysAddr>,
) -> Result<PhysAddr, Error> {
    let memory = slabs.memory();
    let says = says_on(slabs.cache_directory(), producer, generation, left, before);
    if let Some((at, block)) = left.header
        && block.order() == Order::ZERO
        && block.addr() == at
        && !left.longer
    {
        return renew_header(memory, at, &says);
    }
    let (header, words) = new_table(memory)?;
    HeaderPage::create(words, header, &says)?;
    Ok(header)
}

/// Returns the root page of an entry whose root page is this kernel's: written by it, or checked before
/// all else.
pub(super) fn root_of<M: Machine>(memory: &Memory<M>, entry: Entry) -> Result<RootPage<'_>, Error> {
    let words = past_words(memory, entry.root)?;
    Ok(RootPage::again(halves(words), entry.root))
}

/// Takes the names out of a root page whose frames were let go. Returns how many.
#[inline(never)]
pub(super) fn drop_lost<M: Machine>(memory: &Memory<M>, entry: Entry) -> Result<u32, Error> {
    let mut page = root_of(memory, entry)?;
    let mut dropped = 0;
    loop {
        let mut first = None;
        check::each_name(&predecessors(memory), &page.view()?, |subtree, gone| {
            first = first.or(gone.then_some(subtree.name));
            Ok(())
        })?;
        let Some(name) = first else { return Ok(dropped) };
        page.edit(Edit::Remove(name), || Ok::<_, Error>(()))?;
        dropped += 1;
    }
}
