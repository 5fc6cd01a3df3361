//! What is drawn: the uses of memory, and the tables that are pointed out.

use heirloom_kho::{Pfn, PhysAddr, Run};

use super::bands::{Part, Use};
use super::draw::Pin;
use crate::lent::Handovers;

/// What is drawn of a handover.
pub(super) struct Layers {
    /// By address; they overlap where the handover is not in order.
    pub(super) parts: Vec<Part>,
    /// By address.
    pub(super) pins: Vec<Pin>,
    /// What the image has, by address.
    pub(super) memory: Vec<Run>,
}

impl Layers {
    pub(super) fn of(handovers: &Handovers<'_>) -> Self {
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
            let subtrees = within.subtrees();
            pins.extend(subtrees.map(|subtree| named(subtree.name.as_str(), subtree.addr)));
        }
        pins.sort_unstable();
        Self { parts, pins, memory: survey.image.runs().collect() }
    }
}

fn pin(name: &str, addr: PhysAddr) -> Pin {
    Pin { frame: Pfn::get(addr.pfn()), name: name.to_owned(), addr }
}
