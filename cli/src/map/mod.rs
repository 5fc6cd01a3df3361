//! Where preserved memory lies, as a picture for a bug report.
//!
//! Memory is read like a page of text: rows of 64 cells, addresses at the left. What holds nothing,
//! or the same over a long stretch, is left out, with a break that says how much.

mod bands;
mod draw;
mod layers;
mod page;

use std::path::Path;

use bands::Bands;
use layers::Layers;

use crate::facts::Facts;
use crate::lent::Handovers;
use crate::owners::Owners;

/// The picture for a file of this name: a page if it ends in `.html`, else SVG.
pub(crate) fn picture(path: &Path, handovers: &Handovers<'_>, facts: &Facts) -> String {
    let html = path.extension().is_some_and(|of| of.eq_ignore_ascii_case("html"));
    if html { self::html(handovers, facts) } else { svg(handovers, facts) }
}

/// The picture, as a page.
pub(crate) fn html(handovers: &Handovers<'_>, facts: &Facts) -> String {
    page::page(facts, &Layers::of(handovers), &Owners::of(handovers))
}

/// The picture, as SVG.
pub(crate) fn svg(handovers: &Handovers<'_>, facts: &Facts) -> String {
    let Layers { parts, pins, memory } = Layers::of(handovers);
    let marks: Vec<_> = pins.iter().map(|pin| pin.frame).collect();
    let bands = Bands::of(&parts, &marks);
    draw::picture(&draw::Scene {
        facts,
        parts: &parts,
        pins: &pins,
        memory: &memory,
        bands: &bands,
    })
}
