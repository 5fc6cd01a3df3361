//! A handover gone through once: what it preserves, and all that is wrong with it.

mod findings;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::AtomicU32;

use heirloom_folio::Error as FolioError;
use heirloom_kho::PageSize;
use heirloom_kho::linux::{Found, Known, Loans, Luo, Opaque};
use heirloom_kho::tree::{Counts, FolioRange, Ledger, TreeFault};
use heirloom_kho::{
    Block, Chain, DeviceTree, Fault, Header, Left, Pages, Pfn, PhysAddr, RootView, Run, SUBTREE,
    ScratchList, SealInfo, Sealed, Subtree, Table, TableError, Token,
};
use heirloom_restore::{Entry, Error};

use crate::code;
use crate::frames::Frames;
use crate::image::Image;
use crate::recorder::Recorder;
use crate::said;
use crate::sessions::{Listing, each_session};
pub(crate) use findings::{Finding, Unread};
use findings::{Findings, LISTED, Unreads};

/// A handover, gone through.
#[derive(Debug)]
pub(crate) struct Survey<'i> {
    pub(crate) image: &'i Image,
    /// Where the root page is.
    pub(crate) at: PhysAddr,
    /// The root page, if it can be read.
    pub(crate) root: Option<RootView<'i>>,
    /// What it calls itself.
    pub(crate) compatible: String,
    /// What is in the tree, as far as it can be read.
    pub(crate) counts: Option<Counts>,
    /// The preserved folios, by address, those side by side of one order together. No two of them
    /// share a frame.
    pub(crate) rows: Vec<FolioRange>,
    /// The tree's own pages, by address.
    pub(crate) nodes: Vec<Pfn>,
    /// Scratch, where it is known.
    pub(crate) scratch: Option<Vec<Run>>,
    /// What heirloom says of a handover that it wrote.
    pub(crate) header: Option<Header>,
    /// Tables whose bytes are as they were sealed.
    pub(crate) sealed: u64,
    /// Folios that the tree names and that cannot be: not memory, in scratch, over what was found
    /// before them. In none of the rows and counts.
    pub(crate) faulty: Faulty,
    /// Folios that share a frame with what was found before them.
    pub(crate) overlaps: u64,
    pub(crate) findings: Vec<Finding>,
    /// What this program does not know, so that nothing can be said of it.
    pub(crate) unread: Vec<Unread>,
}

/// What is known of scratch beside what the handover says.
#[derive(Clone, Debug)]
pub(crate) enum Scratch {
    /// Where its list is, and the list's bytes.
    List(PhysAddr, u64),
    /// The areas themselves, as the kernel that runs has them.
    Areas(Vec<Run>),
}

impl<'i> Survey<'i> {
    /// Goes through the handover with its root page at `at`; `scratch` is what else than the handover says where scratch is.
    pub(crate) fn new(image: &'i Image, at: PhysAddr, scratch: Option<&Scratch>) -> Self {
        let page = image.page_size();
        let words = image.halves(at, page.bytes());
        let root = words.and_then(|words| RootView::sized(page, words, at).ok());
        let left = root.as_ref().map(|root| Left::new(image, root.map()));
        let sealed = || sealed_list(left.as_ref()?, root.as_ref()?);
        let named = image.entry().filter(|entry| entry.root == at);
        let named = named.map(|entry| (entry.scratch, entry.scratch_bytes));
        let (list, told) = match scratch {
            Some(Scratch::List(list, bytes)) => (Some((*list, *bytes)), None),
            Some(Scratch::Areas(areas)) => (None, Some(areas)),
            None => (named.or_else(sealed), None),
        };
        let (list, bytes) = list.unwrap_or((PhysAddr::new(0), 0));
        let entry = Entry { root: at, scratch: list, scratch_bytes: bytes };
        let tables = [page.covering(at, page.bytes() as u64), page.covering(list, bytes)];
        let mut recorder = Recorder {
            frames: Frames::new(image.runs()),
            tree: left.as_ref().map(Left::tree),
            tables: tables.into_iter().flatten().collect(),
            rows: Vec::new(),
            nodes: Vec::new(),
        };
        told.into_iter().flatten().for_each(|area| recorder.keep_out(*area));
        let (mut findings, mut unread, mut overlaps) = (Findings::default(), Unreads::default(), 0);
        let mut faulty = Faulty::default();
        let loans =
            left.as_ref().zip(root.as_ref()).and_then(|(left, root)| loans(image, left, root));
        let surveyed = heirloom_restore::survey(image, entry, &mut recorder, |error| {
            if is_header(&error, loans) {
                return Ok(());
            }
            overlaps += u64::from(is_overlap(&error));
            faulty.add(&error);
            findings.push(with_name(Finding::of(error, page), &error, root.as_ref(), page));
            Ok::<_, Infallible>(())
        });
        let surveyed = surveyed.unwrap_or_else(|never| match never {});
        if let (Some(left), Some(root)) = (&left, &root) {
            let by_name = refused(left, root);
            let checked = heirloom_kho::linux::check(left, root, &mut recorder, |found| {
                match found {
                    Found::Wrong(error) => {
                        findings.push(linux_finding(&error, root, &by_name, page));
                    }
                    // In a handover that heirloom wrote, names that are not Linux's are roots that
                    // were published with it: what they hold is their owner's, as objects are.
                    Found::Unread(of)
                        if of.what == Opaque::Subtree && surveyed.header.is_some() => {}
                    Found::Unread(of) => unread.push(of),
                }
                Ok::<_, Infallible>(())
            });
            checked.unwrap_or_else(|never| match never {});
            repeated(left, root, &mut findings);
        }
        let Recorder { mut rows, mut nodes, .. } = recorder;
        rows.sort_unstable_by_key(|row| row.first().pfn());
        // What lies within lent memory was looked at with that.
        if image.entry().is_none() {
            unreadable(image, &rows, &mut findings);
        }
        nodes.sort_unstable();
        let areas = image.words(list, usize::try_from(bytes).unwrap_or(usize::MAX));
        let areas = if bytes > 0 { areas } else { None };
        let areas = areas.and_then(|words| ScratchList::sized(page, words, list, |_| true).ok());
        Self {
            image,
            at,
            compatible: words.and_then(|words| compatible(words, at)).unwrap_or_default(),
            root,
            counts: surveyed.counts,
            rows,
            nodes,
            scratch: areas.map(|areas| areas.runs().collect()).or_else(|| told.cloned()),
            header: surveyed.header,
            sealed: surveyed.sealed,
            faulty,
            overlaps,
            findings: findings.into_list(),
            unread: unread.into_list(),
        }
    }

    /// The image's memory, and what the handover's tree says of it.
    pub(crate) fn left(&self) -> Left<'i, Image> {
        match &self.root {
            Some(root) => Left::new(self.image, root.map()),
            None => Left::bare(self.image),
        }
    }

    /// How many pages are preserved.
    pub(crate) fn pages(&self) -> u64 {
        self.image.page_size().pages(self.rows.iter().map(|row| row.run().frames()).sum())
    }

    /// The subtrees that the root page names.
    pub(crate) fn subtrees(&self) -> impl Iterator<Item = Subtree> + '_ {
        // `RootView::new` went through all of them.
        self.root.iter().flat_map(|root| root.subtrees().flatten())
    }
}

/// Folios at fault.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faulty {
    /// How many.
    pub(crate) folios: u64,
    /// The first of those that are memory.
    pub(crate) blocks: Vec<Block>,
}

impl Faulty {
    /// Adds the folio that an error is about, if it is about one.
    fn add(&mut self, error: &Error) {
        let Error::Folio(FolioError::Tree(error)) = error else { return };
        let block = match error.reason {
            TreeFault::Overlap { block }
            | TreeFault::Scratch { block }
            | TreeFault::Node { block, .. } => Some(block),
            TreeFault::OutsideMemory { .. } => None,
            _ => return,
        };
        // Above the leaves it is about a node.
        if error.level == 0 {
            self.folios += 1;
            if self.blocks.len() < LISTED {
                self.blocks.extend(block);
            }
        }
    }
}

/// The finding of `error`, with the subtree's name if it is about the bytes of one.
fn with_name(
    mut finding: Finding,
    error: &Error,
    root: Option<&RootView<'_>>,
    page: PageSize,
) -> Finding {
    let Error::Table(TableError { table, at, offset, fault }) = *error else { return finding };
    let about = |subtree: &Subtree| match (table, fault) {
        (Table::Blob, _) => at == subtree.addr,
        (Table::Root, Fault::OutsideMemory { addr }) => offset == 0 && addr == subtree.addr,
        (Table::Root, Fault::NotPreserved { block }) => {
            let run = subtree.pages(page);
            offset == 0 && run.is_some_and(|run| run.contains(block.pfn()))
        }
        _ => false,
    };
    let names = root.into_iter().flat_map(RootView::subtrees).flatten().filter(about);
    let names: Vec<_> = names.map(|subtree| subtree.name.as_str().to_owned()).collect();
    if !names.is_empty() {
        finding.reason = format!("subtree {}: {}", names.join(", "), finding.reason);
    }
    finding
}

/// Subtrees that have a name of Linux's and are not what Linux has under it: the names, by what is
/// wrong.
fn refused(left: &Left<'_, Image>, root: &RootView<'_>) -> Vec<(String, heirloom_kho::Error)> {
    // The list of loans says itself what it is.
    let subtrees = root.subtrees().flatten().filter(|subtree| subtree.name.as_str() != SUBTREE);
    let refused = subtrees.filter_map(|subtree| {
        let error = Known::read(left, &subtree).err()?;
        Some((subtree.name.as_str().to_owned(), error))
    });
    refused.collect()
}

/// Returns the finding of `error`. A subtree that is refused as a whole may be that of another
/// producer, which took the name: what is said goes by the name.
fn linux_finding(
    error: &heirloom_kho::Error,
    root: &RootView<'_>,
    refused: &[(String, heirloom_kho::Error)],
    page: PageSize,
) -> Finding {
    let said = said::reader(*error, page);
    if let Some((name, _)) = refused.iter().find(|(_, of)| of == error) {
        let reason = format!("subtree {name}, by its name Linux's: {said}");
        let error = Error::from(*error);
        let advice = said::advice(&error);
        return Finding { at: error.at(), code: code::of(&error), reason, advice };
    }
    let error = Error::from(*error);
    with_name(Finding::of(error, page), &error, Some(root), page)
}

/// Sessions of one name, and files of one token in a session: Linux makes neither, and could not
/// tell them apart.
fn repeated(left: &Left<'_, Image>, root: &RootView<'_>, findings: &mut Findings) {
    let luo = root.subtrees().flatten().find(|subtree| subtree.name.as_str() == Luo::NAME);
    let known = luo.and_then(|luo| Known::read(left, &luo).ok().flatten());
    let Some(Known::Luo(luo)) = known else { return };
    let mut names = HashSet::new();
    each_session(&luo, left, |session, listing| {
        let (at, name) = (session.at, session.name);
        if !names.insert(name.as_bytes().to_vec()) {
            let reason = format!("session at {at}, byte 0: the name {name} stands twice");
            findings.push(Finding {
                at: Some(at),
                code: code::SESSION_TWICE.to_owned(),
                reason,
                advice: None,
            });
        }
        let Listing::Files(files) = listing else { return };
        let mut tokens = HashSet::new();
        for file in files.flatten().filter(|file| !tokens.insert(file.token)) {
            let (at, token) = (file.at, file.token);
            let reason = format!("file at {at}, byte 56: token {token} stands twice in {name}");
            findings.push(Finding {
                at: Some(at),
                code: code::FILE_TWICE.to_owned(),
                reason,
                advice: None,
            });
        }
    });
}

/// Preserved pages that the file has in a way in which they cannot be read. Those that tables lie in were looked for;
/// of the others the handover says nothing, and they are what it is for.
fn unreadable(image: &Image, rows: &[FolioRange], findings: &mut Findings) {
    for row in rows {
        let Some((at, count)) = image.unreadable(row.run()) else { continue };
        let reason = match count {
            1 => format!("preserved page at {at}: it cannot be unpacked"),
            _ => format!("preserved pages from {at} on: {count} of them cannot be unpacked"),
        };
        findings.push(Finding {
            at: Some(at),
            code: code::UNREADABLE.to_owned(),
            reason,
            advice: None,
        });
    }
}

/// Where the list of loans is that the subtree `heirloom` leads to, sound or not, if it leads to one. It does where
/// Linux is the one that hands over: an arena, and what Linux lends, say themselves where they start.
fn loans(image: &Image, left: &Left<'_, Image>, root: &RootView<'_>) -> Option<PhysAddr> {
    let own = root.subtrees().flatten().find(|subtree| subtree.name.as_str() == SUBTREE)?;
    let linux = image.entry().is_none();
    Some(own.addr).filter(|at| linux && Loans::is_list(left, *at))
}

/// Whether an error says of the list of loans at `loans` that it is no header.
fn is_header(error: &Error, loans: Option<PhysAddr>) -> bool {
    matches!(*error, Error::Table(TableError { table: Table::Header, at, .. }) if Some(at) == loans)
}

/// Whether an error says that a folio shares a frame with another, or with a node.
fn is_overlap(error: &Error) -> bool {
    let Error::Folio(FolioError::Tree(error)) = error else { return false };
    let shared = matches!(error.reason, TreeFault::Overlap { .. } | TreeFault::Node { .. });
    shared && error.level == 0
}

/// The root's first `compatible` string.
fn compatible(words: &[AtomicU32], at: PhysAddr) -> Option<String> {
    let tree = DeviceTree::open(words, Table::Root, at).ok()?;
    let mut cursor = tree.start();
    tree.next(&mut cursor).ok()?;
    loop {
        let (_, Token::Property { name, value, length }) = tree.next(&mut cursor).ok()? else {
            return None;
        };
        if tree.string_is(name, "compatible") {
            let bytes = tree.bytes(value..value.saturating_add(length as usize));
            let bytes: Vec<_> = bytes.take_while(|byte| *byte != 0).collect();
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// Where a seal says that the scratch list is, and its bytes. What is there is still to be checked.
fn sealed_list(left: &Left<'_, Image>, root: &RootView<'_>) -> Option<(PhysAddr, u64)> {
    let own = root.subtrees().flatten().find(|subtree| subtree.name.as_str() == SUBTREE)?;
    let header =
        Header::sized(left.page_size(), left.words(own.addr, Header::SIZE)?, own.addr).ok()?;
    entries(left, &header.seal.info()?)?
        .find(|(kind, ..)| *kind == Sealed::Scratch as u32)
        .map(|(_, addr, bytes)| (addr, bytes.into()))
}

/// What a seal covers: kind, address, bytes.
fn entries<'p>(
    left: &'p Left<'_, Image>,
    seal: &SealInfo,
) -> Option<impl Iterator<Item = (u32, PhysAddr, u32)> + use<'p>> {
    /// Address; length and kind; hash.
    type Stored = [u64; 3];
    let chain = Chain::<_, Stored>::new(left, seal.first).ok()?;
    let entries: Vec<_> = chain.iter().collect();
    Some(entries.into_iter().map(|[addr, what, _]: Stored| {
        let what = u64::from_le(what);
        ((what >> 32) as u32, PhysAddr::new(u64::from_le(addr)), what as u32)
    }))
}
