//! Where preserved memory lies, as a picture for a bug report.
//!
//! Memory is read like a page of text: rows of 64 cells, addresses at the left. What holds nothing,
//! or the same over a long stretch, is left out, with a break that says how much.

mod bands;
mod draw;

use bands::{Bands, Part, Use};
use draw::Pin;
use heirloom_kho::{Pfn, PhysAddr, Run};

use crate::facts::Facts;
use crate::lent::Handovers;

/// The picture, as SVG.
pub(crate) fn svg(handovers: &Handovers<'_>, facts: &Facts) -> String {
    let survey = &handovers.outer;
    let mut parts: Vec<Part> = Vec::new();
    for row in &survey.rows {
        parts.push(Part { run: row.run(), what: Use::Folios(row.first().order()) });
    }
    for node in &survey.nodes {
        let run = survey.image.page_size().page_of(*node).run();
        parts.push(Part { run, what: Use::Nodes });
    }
    for block in &survey.faulty.blocks {
        parts.push(Part { run: block.run(), what: Use::Faulty });
    }
    let scratch = survey.scratch.iter().flatten();
    parts.extend(scratch.map(|run| Part { run: *run, what: Use::Scratch }));
    parts.retain(|part| !part.run.is_empty());
    parts.sort_unstable_by_key(|part| (part.run.start(), part.what));
    let mut pins = vec![pin("root page", survey.at)];
    pins.extend(survey.root.as_ref().map(|root| pin("map", root.map())));
    pins.extend(survey.subtrees().map(|subtree| pin(subtree.name.as_str(), subtree.addr)));
    if let Some(within) = handovers.inner() {
        let named = |name: &str, addr| pin(&format!("heirloom: {name}"), addr);
        pins.push(named("root page", within.at));
        pins.extend(within.root.as_ref().map(|root| named("map", root.map())));
        pins.extend(within.subtrees().map(|subtree| named(subtree.name.as_str(), subtree.addr)));
    }
    pins.sort_unstable();
    let marks: Vec<_> = pins.iter().map(|pin| pin.frame).collect();
    let bands = Bands::of(&parts, &marks);
    let memory: Vec<Run> = survey.image.runs().collect();
    draw::picture(&draw::Scene {
        facts,
        parts: &parts,
        pins: &pins,
        memory: &memory,
        bands: &bands,
    })
}

fn pin(name: &str, addr: PhysAddr) -> Pin {
    Pin { frame: Pfn::get(addr.pfn()), name: name.to_owned(), addr }
}
