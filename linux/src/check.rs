//! Everything that is wrong with what Linux registered.

use heirloom_folio::{PAGE_SIZE, Run};
use heirloom_restore::{Pages, RootView, Subtree};

use crate::error::Error;
use crate::kexec_metadata::Metadata;
use crate::kho_test::KhoTest;
use crate::luo::{Luo, Session};
use crate::memblock::Memblock;

/// A subtree that this crate knows, read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Known {
    /// `LUO`.
    Luo(Luo),
    /// `memblock`.
    Memblock(Memblock),
    /// `kexec-metadata`.
    Metadata(Metadata),
    /// `kho_test`.
    KhoTest(KhoTest),
}

impl Known {
    /// Reads `subtree`; `None` if its name is none that this crate knows.
    ///
    /// # Errors
    /// As for `read` of what it is.
    pub fn read(pages: &impl Pages, subtree: &Subtree) -> Result<Option<Self>, Error> {
        let (at, bytes) = (subtree.addr, size(subtree));
        Ok(Some(match subtree.name.as_str() {
            Luo::NAME => Self::Luo(Luo::read(pages, at, bytes)?),
            Memblock::NAME => Self::Memblock(Memblock::read(pages, at, bytes)?),
            Metadata::NAME => Self::Metadata(Metadata::read(pages, at, bytes)?),
            KhoTest::NAME => Self::KhoTest(KhoTest::read(pages, at, bytes)?),
            _ => return Ok(None),
        }))
    }

    /// Checks all that it leads to, and hands what is wrong to `found`: `Ok` goes on.
    ///
    /// An opaque value, such as an FLB's `data`, is not taken for an address.
    ///
    /// # Errors
    /// The first error of `found`.
    pub fn check<P: Pages, E>(
        &self,
        pages: &P,
        found: impl FnMut(Error) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Luo(luo) => check_luo(luo, pages, found),
            Self::Memblock(memblock) => memblock.check(pages, found),
            Self::Metadata(_) => Ok(()),
            Self::KhoTest(test) => test.check(pages, found),
        }
    }
}

/// Bytes of a subtree: a page where its writer did not say.
fn size(subtree: &Subtree) -> u64 {
    subtree.size.unwrap_or(PAGE_SIZE as u64)
}

/// Checks every subtree of `root` that this crate knows, and all that it leads to: lists, files,
/// memfds and their folios, areas, regions. Hands what is wrong to `found`: `Ok` goes on, without
/// what is at fault.
///
/// A subtree whose own bytes are not in memory or not preserved is passed over: that is
/// [`survey`](heirloom_restore::survey)'s to find, which is to come first.
///
/// # Errors
/// The first error of `found`.
///
/// # Examples
/// ```
/// use core::sync::atomic::{AtomicU32, AtomicU64};
/// use heirloom_folio::{Block, PAGE_SIZE, PhysAddr};
/// use heirloom_restore::{Pages, RootPage};
///
/// struct Nothing;
/// impl Pages for Nothing {
///     fn words(&self, _: PhysAddr, _: usize) -> Option<&[AtomicU64]> {
///         None
///     }
///     fn holds(&self, _: Block) -> bool {
///         false
///     }
/// }
///
/// let words = [const { AtomicU32::new(0) }; PAGE_SIZE / 4];
/// let root = RootPage::create(&words, PhysAddr::new(0x10_0000), PhysAddr::new(0x20_0000))?;
/// heirloom_linux::check(&Nothing, &root.view()?, Err)?;
/// # Ok::<(), heirloom_linux::Error>(())
/// ```
pub fn check<P: Pages, E>(
    pages: &P,
    root: &RootView<'_>,
    mut found: impl FnMut(Error) -> Result<(), E>,
) -> Result<(), E> {
    for subtree in root.subtrees() {
        let Ok(subtree) = subtree else { return Ok(()) };
        let run = Run::covering(subtree.addr, size(&subtree));
        let there = run.filter(|run| pages.is_memory(*run));
        if there.is_none_or(|run| pages.first_unpreserved(run).is_some()) {
            continue;
        }
        match Known::read(pages, &subtree) {
            Ok(None) => {}
            Ok(Some(known)) => known.check(pages, &mut found)?,
            Err(error) => found(error)?,
        }
    }
    Ok(())
}

fn check_luo<P: Pages, E>(
    luo: &Luo,
    pages: &P,
    mut found: impl FnMut(Error) -> Result<(), E>,
) -> Result<(), E> {
    match luo.sessions(pages) {
        Ok(sessions) => {
            for session in sessions {
                match session {
                    Ok(session) => check_session(&session, pages, &mut found)?,
                    Err(error) => found(error)?,
                }
            }
        }
        Err(error) => found(error)?,
    }
    match luo.flbs(pages) {
        Ok(flbs) => flbs.filter_map(Result::err).try_for_each(found),
        Err(error) => found(error),
    }
}

fn check_session<P: Pages, E>(
    session: &Session,
    pages: &P,
    mut found: impl FnMut(Error) -> Result<(), E>,
) -> Result<(), E> {
    let files = match session.files(pages) {
        Ok(files) => files,
        Err(error) => return found(error),
    };
    for file in files {
        match file.and_then(|file| file.memfd(pages)) {
            Ok(None) => {}
            Ok(Some(memfd)) => memfd.check(pages, &mut found)?,
            Err(error) => found(error)?,
        }
    }
    Ok(())
}
