//! Where a handover starts: the root page, of those that were found by their magic.
//!
//! Memory can hold several: the one that a kernel came from, the one that it is about to leave,
//! and copies of either. The one to show is the one that is whole.

use anyhow::{Result, bail};
use heirloom_kho::{Left, PageSize, Pages, PhysAddr, RootView, SUBTREE};

use crate::arguments::Place;
use crate::code;
use crate::image::Image;
use crate::output::{BAD, GOOD, STRONG};
use crate::scan::scan;
use crate::survey::{Finding, Survey};
use crate::text::shown;

/// Roots that are gone through to choose one. Any page can be a root page, and each can lead to all
/// there is.
pub(crate) const JUDGED: usize = 64;

/// What is said where pages are as large as the user says.
const SIZED: &str =
    "; that is with pages as --page-size says: leave it out, and each size is tried";

/// A root page that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) at: PhysAddr,
    /// Frames that it preserves, as far as its tree can be read.
    pub(crate) frames: u64,
    /// The root node of its tree, if the page can be read.
    pub(crate) map: Option<PhysAddr>,
    /// What is wrong with it: the first thing, and how many.
    pub(crate) fault: Option<(String, usize)>,
    /// Whether it could be that of a Linux which lends memory to heirloom.
    may_lend: bool,
}

/// The roots of an image.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    /// The one to look at.
    pub(crate) taken: PhysAddr,
    /// All that were found; none if it was named.
    pub(crate) found: Vec<Found>,
    /// Whether the user said how large pages are.
    sized: bool,
}

impl Roots {
    /// What the user may have meant, if the root page that was taken is none: `; ` and a sentence, or nothing.
    pub(crate) fn meant(&self, page: PageSize) -> String {
        let is_page = |addr: &u64| addr.is_multiple_of(page.bytes() as u64);
        let decimal = self.taken.get().to_string();
        let hex = u64::from_str_radix(&decimal, 16).ok().filter(is_page);
        match hex.filter(|_| self.found.is_empty() && !is_page(&self.taken.get())) {
            Some(hex) => format!("; {decimal} is decimal: in hexadecimal it is {hex:#x}"),
            None if self.sized => SIZED.to_owned(),
            None => String::new(),
        }
    }

    /// What is wrong if the handover that `survey` went through, the one that was taken, is heirloom's own within what
    /// a Linux lends: that Linux's, of which it is only a part, is not whole then. A copy of the one that was taken is
    /// no other.
    pub(crate) fn doubts(&self, survey: &Survey<'_>) -> impl Iterator<Item = Finding> {
        let map = survey.root.as_ref().map(RootView::map);
        let own = survey.header.is_some();
        let is_doubtful = move |root: &&Found| own && root.may_lend && root.map != map;
        self.found.iter().filter(is_doubtful).filter_map(|root| {
            let (first, _) = root.fault.as_ref()?;
            let at = root.at;
            let reason = format!(
                "root page at {at} is not whole, and may be that of the Linux which lends to heirloom: {first}; --root \
                 says which one is to be looked at"
            );
            Some(Finding { at: Some(at), code: code::OTHER_ROOT.to_owned(), reason, advice: None })
        })
    }
}

/// The root that the user named, or the image itself, or those that are found in it. Says on standard error which one is
/// taken if there are several.
///
/// # Errors
/// There is none, or none that can be read.
pub(crate) fn find(image: &Image, place: &Place, candidates: &[PhysAddr]) -> Result<Roots> {
    let sized = place.page_size.is_some();
    if let Some(taken) = named(image, place) {
        return Ok(Roots { taken, found: Vec::new(), sized });
    }
    let found: Vec<_> = match *candidates {
        [] => bail!(
            "{}: no handover in {} frames of {} bytes: no page is a device tree whose root is compatible with \
             \"kho-v…\"; --root names the page if you know better{}",
            place.image.display(),
            image.pages(),
            image.page_size().bytes(),
            if sized { SIZED } else { "" },
        ),
        // One alone is not judged here: the caller surveys it.
        [at] => vec![Found { at, frames: 0, map: None, fault: None, may_lend: false }],
        _ => candidates.iter().take(JUDGED).map(|at| judge(image, *at, place)).collect(),
    };
    let more = candidates.len() - found.len();
    // One that lies in what another one preserves, as heirloom's does within Linux's, is that one's: whether it is
    // whole says nothing of the other.
    let outer = |root: &&Found| !found.iter().any(|other| is_within(image, root, other));
    let whole = found.iter().filter(|root| root.fault.is_none());
    // The first of those that preserve most.
    let best = whole.rev().filter(outer).max_by_key(|root| root.frames);
    let best = best.or(found.iter().find(outer)).or(found.first());
    let Some(taken) = best.map(|root| root.at) else { bail!("no handover") };
    let told: Vec<_> = found.iter().filter(|root| outer(root) || root.at == taken).collect();
    if told.len() + more > 1 {
        tell(&told, taken, more);
    }
    Ok(Roots { taken, found, sized })
}

/// The root that the user or the image names.
fn named(image: &Image, place: &Place) -> Option<PhysAddr> {
    place.root.or(image.entry().map(|entry| entry.root))
}

/// The root that is named, or the pages that start as a root page does.
pub(crate) fn candidates(image: &Image, place: &Place) -> Vec<PhysAddr> {
    named(image, place).map_or_else(|| scan(image), |named| vec![named])
}

fn judge(image: &Image, at: PhysAddr, place: &Place) -> Found {
    let survey = Survey::new(image, at, place.scratch.as_ref());
    let fault = survey.findings.first().map(|first| (first.reason.clone(), survey.findings.len()));
    // Heirloom's own has a header under the name that a list of loans has.
    let has_name = survey.subtrees().any(|subtree| subtree.name.as_str() == SUBTREE);
    Found {
        at,
        may_lend: (survey.root.is_none() || has_name) && survey.header.is_none(),
        map: survey.root.as_ref().map(RootView::map),
        frames: survey.counts.map_or(0, |counts| image.page_size().pages(counts.frames())),
        fault,
    }
}

/// Whether `outer` preserves the root page of `inner`, and not the other way round.
fn is_within(image: &Image, inner: &Found, outer: &Found) -> bool {
    let preserves = |of: &Found, other: &Found| {
        let left = of.map.map(|map| Left::new(image, map));
        left.is_some_and(|left| left.block_around(other.at.pfn()).is_some())
    };
    // Copies of one root page lead to the same tree, and may lie anywhere.
    inner.map != outer.map && preserves(outer, inner) && !preserves(inner, outer)
}

fn tell(found: &[&Found], taken: PhysAddr, more: usize) {
    let all = found.len() + more;
    anstream::eprintln!("{STRONG}{all} roots{STRONG:#}; --root takes another one");
    for root in found {
        let mark = if root.at == taken { '*' } else { ' ' };
        let at = format!("{}", root.at);
        let state = match &root.fault {
            None => format!("{GOOD}whole{GOOD:#}, {} frames preserved", root.frames),
            Some((first, 1)) => format!("{BAD}not whole{BAD:#}: {}", shown(first)),
            Some((first, n)) => {
                format!("{BAD}not whole{BAD:#}: {}; and {} more", shown(first), n - 1)
            }
        };
        anstream::eprintln!("{mark} {at:<14} {state}");
    }
    if more > 0 {
        anstream::eprintln!("  and {more} more, which were not looked at");
    }
}
