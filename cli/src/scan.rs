//! The root pages in an image, sound or not.

use heirloom_kho::{PhysAddr, RootView};

use crate::image::Image;
use crate::progress;

/// Every device tree starts with it.
const MAGIC: u32 = 0xd00d_feed;
/// What the root's compatible string starts with, whatever the version.
const FAMILY: &[u8] = b"kho-v";
/// Pages between two looks at the clock.
const STRIDE: u64 = 1 << 14;

/// The pages that start as a root page does.
pub(crate) fn scan(image: &Image) -> Vec<PhysAddr> {
    let written = image.written();
    let total = written.iter().map(|run| run.bytes()).sum();
    let bar = progress::bar("looking for the root", total);
    let mut found = Vec::new();
    let mut since = 0;
    let page = image.page_size();
    let (step, mut next) = (page.order().frames(), 0);
    for run in written {
        // A page is looked at once, also where two runs have parts of it.
        let first = page.page_of(run.start()).pfn().get().max(next);
        next = run.end().get().next_multiple_of(step);
        for pfn in (first..run.end().get()).step_by(step as usize) {
            since += 1;
            if since == STRIDE {
                bar.inc(STRIDE * page.bytes() as u64);
                since = 0;
            }
            let at = heirloom_kho::Pfn::new(pfn).addr();
            if is_root(image, at) {
                found.push(at);
            }
        }
    }
    bar.finish_and_clear();
    found
}

/// Whether the page at `at` is a root page, sound or not.
fn is_root(image: &Image, at: PhysAddr) -> bool {
    let first = image.peek(at).map(u64::to_ne_bytes);
    if first.is_none_or(|bytes| !bytes.starts_with(&MAGIC.to_be_bytes())) {
        return false;
    }
    let page = image.page_size();
    let words = image.halves(at, page.bytes());
    let sound = words.map(|words| RootView::sized(page, words, at).is_ok());
    match sound {
        Some(true) => true,
        // Other device trees do not have the word in them.
        Some(false) => image
            .page(at)
            .is_some_and(|page| page.windows(FAMILY.len()).any(|bytes| bytes == FAMILY)),
        None => false,
    }
}
