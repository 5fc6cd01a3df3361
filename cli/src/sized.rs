//! An image, and the page size of the machine that it is of.
//!
//! An arena says it, and so does a core with the notes of a Linux kernel. Where neither does, the
//! smallest page size is taken with which a root page and what it leads to first can be read:
//! heirloom's own subtree says the page size, and a tree that is read with another is none.

use anyhow::Result;
use heirloom_kho::linux::Loans;
use heirloom_kho::{Header, Left, PageSize, Pages, PhysAddr, RootView, SUBTREE, tree};

use crate::arguments::Place;
use crate::frames::Frames;
use crate::image::Image;
use crate::roots;

/// The page sizes that kernels have.
const SIZES: [u64; 3] = [4 << 10, 16 << 10, 64 << 10];

/// Opens the image that `place` names. Returns, with it, the pages that start as a root page does.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn open(place: &Place) -> Result<(Image, Vec<PhysAddr>)> {
    let mut image = place.open()?;
    let candidates = roots::candidates(&image, place);
    if image.is_sized() || reads(&image, &candidates) {
        return Ok((image, candidates));
    }
    let first = image.page_size();
    for size in SIZES.into_iter().filter_map(PageSize::new).filter(|size| *size > first) {
        if image.set_page_size(size).is_err() {
            continue;
        }
        let others = roots::candidates(&image, place);
        if reads(&image, &others) {
            return Ok((image, others));
        }
    }
    image.set_page_size(first)?;
    Ok((image, candidates))
}

/// Whether one of these root pages, and what it leads to first, can be read with the image's page size.
fn reads(image: &Image, candidates: &[PhysAddr]) -> bool {
    candidates.iter().take(roots::JUDGED).any(|at| leads(image, *at).is_some_and(|leads| leads))
}

/// Whether the root page at `at` leads to a header or a tree that can be read so.
fn leads(image: &Image, at: PhysAddr) -> Option<bool> {
    let page = image.page_size();
    let root = RootView::sized(page, image.halves(at, page.bytes())?, at).ok()?;
    let left = Left::new(image, root.map());
    let own = root.subtrees().flatten().find(|subtree| subtree.name.as_str() == SUBTREE);
    if let Some(own) = own.filter(|own| Loans::is_list(&left, own.addr)) {
        let bytes = own.size.unwrap_or(page.bytes() as u64);
        return Some(Loans::read(&left, own.addr, bytes).is_ok());
    }
    if let Some(own) = own {
        let words = Pages::words(&left, own.addr, Header::SIZE)?;
        return Some(Header::sized(page, words, own.addr).is_ok());
    }
    Some(tree::check(root.map(), &left, &mut Frames::new(image.runs())).is_ok())
}
