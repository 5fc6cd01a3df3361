//! The picture as a page: one file, which needs nothing else, to go from all memory down to a frame.
//!
//! ```text
//!  page.html   what draws ── the data, as JSON, where it says DATA
//!  data        folios by order, nodes, scratch, faults; what each belongs to; tables by number
//! ```

use serde::Serialize;

use super::bands::Use;
use super::draw::{FAULT, NODE, colour_of};
use super::layers::Layers;
use crate::facts::Facts;
use crate::owners::Owners;
use crate::said;
use crate::text::{bytes, plural, shown};

const PAGE: &str = include_str!("page.html");
/// What scratch is drawn in, where it is not hatched.
const SCRATCH: &str = "#9aa5b4";
/// Where the data goes in it.
const PLACE: &str = "\"DATA\"";

/// All that is drawn. Frames are numbers: they fit, as there are no more than 2^52.
#[derive(Serialize)]
struct Data<'a> {
    title: String,
    sum: String,
    findings: usize,
    /// Bytes of a frame.
    frame: u64,
    /// What a stretch can be used for: a name and a colour, by number.
    uses: Vec<Named>,
    /// First frame, frames, use, frames of each folio (0: they are no folios).
    parts: Vec<[u64; 4]>,
    /// What stretches belong to, by number.
    owners: Vec<String>,
    /// First frame, frames, owner.
    owned: Vec<[u64; 3]>,
    /// First frame, frames: what the image has.
    memory: Vec<[u64; 2]>,
    pins: Vec<Pinned<'a>>,
}

#[derive(Serialize)]
struct Named {
    name: String,
    colour: &'static str,
}

#[derive(Serialize)]
struct Pinned<'a> {
    frame: u64,
    name: &'a str,
}

/// The whole page.
pub(super) fn page(facts: &Facts, layers: &Layers, owners: &Owners) -> String {
    let page = facts.handover.preserved.page;
    // In the order of their orders, faults first.
    let mut uses: Vec<Use> = layers.parts.iter().map(|part| part.what).collect();
    uses.sort_unstable();
    uses.dedup();
    let parts = layers.parts.iter().map(|part| {
        let number = uses.binary_search(&part.what).unwrap_or_default() as u64;
        let folio = match part.what {
            Use::Folios(order) => order.frames(),
            Use::Nodes => page.order().frames(),
            Use::Faulty | Use::Scratch => 0,
        };
        [part.run.start().get(), part.run.frames(), number, folio]
    });
    let named = |what: &Use| match what {
        Use::Faulty => Named { name: "at fault".to_owned(), colour: FAULT },
        Use::Folios(order) => Named {
            name: format!("order {}", said::order(*order, page)),
            colour: colour_of(*order),
        },
        Use::Nodes => Named { name: "the tree's own".to_owned(), colour: NODE },
        Use::Scratch => Named { name: "scratch".to_owned(), colour: SCRATCH },
    };
    let handover = &facts.handover;
    let path = std::path::Path::new(&facts.image.path);
    let file = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let data = Data {
        title: shown(&format!("{} handover in {file}", handover.compatible)).into_owned(),
        sum: format!(
            "{} preserved in {}, {} of the tree, over {}",
            bytes(handover.bytes),
            plural(handover.folios, "folio", "folios"),
            plural(handover.nodes, "node", "nodes"),
            bytes(handover.layout.span),
        ),
        findings: facts.findings.len(),
        frame: heirloom_kho::PAGE_SIZE as u64,
        uses: uses.iter().map(named).collect(),
        parts: parts.collect(),
        owners: owners.names.iter().map(|name| shown(name).into_owned()).collect(),
        owned: owners
            .runs
            .iter()
            .map(|(run, name)| [run.start().get(), run.frames(), *name as u64])
            .collect(),
        memory: layers.memory.iter().map(|run| [run.start().get(), run.frames()]).collect(),
        pins: layers.pins.iter().map(|pin| Pinned { frame: pin.frame, name: &pin.name }).collect(),
    };
    // Writing to a string does not fail. Nothing in it ends the element that it stands in.
    let json = serde_json::to_string(&data).unwrap_or_default().replace('<', "\\u003c");
    PAGE.replacen(PLACE, &json, 1)
}
