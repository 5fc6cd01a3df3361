//! The bands, drawn.
#![expect(clippy::cast_precision_loss, reason = "pixels: a hundredth is enough")]

use heirloom_kho::PageSize;
use heirloom_kho::{Order, PAGE_SIZE, Pfn, PhysAddr, Run};
use svg::node::element::{
    Circle, Definitions, Group, Line, Path, Pattern, Rectangle, Style, Text, Title,
};
use svg::{Document, Node};

use super::bands::{Band, Bands, CELLS, Part, Use};
use crate::facts::Facts;
use crate::said;
use crate::text::{bytes, plural, shown};

/// A table that is pointed out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Pin {
    pub(super) frame: u64,
    /// Beside the order that it has in the tree: what it says.
    pub(super) name: String,
    pub(super) addr: PhysAddr,
}

/// Pixels of a cell, across and down.
const CELL: u64 = 14;
const HEIGHT: u64 = 22;
/// From one row to the next.
const PITCH: u64 = 28;
const BREAK: u64 = 30;
/// Where the cells start and end.
const LEFT: u64 = 150;
const RIGHT: u64 = LEFT + CELLS * CELL;
const WIDTH: u64 = RIGHT + 330;
/// Where the first row starts.
const TOP: u64 = 128;

const INK: &str = "#1f2937";
const FAINT: &str = "#6b7280";
const PAPER: &str = "#ffffff";
const MEMORY: &str = "#eceff3";
pub(super) const NODE: &str = "#f59e0b";
/// The one red.
pub(super) const FAULT: &str = "#dc2626";
/// Orders 0, 1, … ; the last for all above.
const ORDERS: [&str; 11] = [
    "#7fd1c7", "#45b5c4", "#2c93c9", "#3a6fc4", "#5550b8", "#7440ad", "#3b2a6b", "#1f4d3f",
    "#3f7a45", "#7a9a3c", "#4f5b2a",
];

/// What is drawn.
pub(super) struct Scene<'a> {
    pub(super) facts: &'a Facts,
    /// By address; they overlap where the handover is not in order.
    pub(super) parts: &'a [Part],
    /// By address.
    pub(super) pins: &'a [Pin],
    /// What the image has, by address.
    pub(super) memory: &'a [Run],
    pub(super) bands: &'a Bands,
}

/// The whole picture.
pub(super) fn picture(scene: &Scene<'_>) -> String {
    let mut body = Group::new();
    let mut y = TOP;
    // What is left out in a row is one break.
    let left_out = |a: &Band, b: &Band| !matches!(a, Band::Row(_)) && !matches!(b, Band::Row(_));
    for bands in scene.bands.bands.chunk_by(left_out) {
        if let [Band::Row(first)] = *bands {
            body.append(row(scene, first, y));
            y += PITCH;
        } else {
            let what: Vec<_> = bands
                .iter()
                .map(|band| describe(band, scene.facts.handover.preserved.page))
                .collect();
            body.append(pause(y, &what.join(", then ")));
            y += BREAK;
        }
    }
    let (legend, bottom) = legend(scene, y + 22);
    let height = bottom + 20;
    let document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("role", "img")
        .add(Title::new(format!("Preserved memory in {}", shown(&scene.facts.image.path))))
        .add(Style::new(
            "text { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; }",
        ))
        .add(hatches(scene.facts.handover.faulty.folios > 0))
        .add(Rectangle::new().set("width", WIDTH).set("height", height).set("fill", PAPER))
        .add(heading(scene))
        .add(axis(scene))
        .add(body)
        .add(legend);
    let mut out = document.to_string();
    out.push('\n');
    out
}

fn heading(scene: &Scene<'_>) -> Group {
    let facts = &scene.facts.handover;
    let path = &scene.facts.image.path;
    let file = std::path::Path::new(path).file_name().map(|name| name.to_string_lossy());
    let title = format!("{} handover in {}", facts.compatible, file.as_deref().unwrap_or(path));
    let sum = format!(
        "{} preserved in {}, {} of the tree, over {}",
        bytes(facts.bytes),
        plural(facts.folios, "folio", "folios"),
        plural(facts.nodes, "node", "nodes"),
        bytes(facts.layout.span),
    );
    let mut group = Group::new()
        .add(label(24, 36, 20, INK, &title).set("font-weight", "bold"))
        .add(label(24, 60, 13, FAINT, &sum));
    if !scene.facts.findings.is_empty() {
        let found = plural(scene.facts.findings.len() as u64, "finding", "findings");
        let found = format!("not in order: {found}, see heirloom check");
        group = group.add(label(24, 80, 13, "#b91c1c", &found));
    }
    group
}

/// What the columns are: offsets from the row's address.
fn axis(scene: &Scene<'_>) -> Group {
    let y = TOP - 10;
    let mut group = Group::new();
    for cell in (0..=CELLS).step_by(8) {
        let x = LEFT + cell * CELL;
        let tick = Line::new().set("x1", x).set("x2", x).set("y1", y - 5).set("y2", y);
        group = group.add(tick.set("stroke", FAINT));
        let offset = cell * scene.bands.cell;
        let offset = if offset == 0 { "+0".to_owned() } else { format!("+{}", size(offset)) };
        group = group.add(label(x, y - 11, 10, FAINT, &offset).set("text-anchor", "middle"));
    }
    let line = Line::new().set("x1", LEFT).set("x2", RIGHT).set("y1", y).set("y2", y);
    let cell = format!("a cell is {}", size(scene.bands.cell));
    group.add(line.set("stroke", FAINT)).add(label(24, y - 11, 10, FAINT, &cell))
}

/// The row that starts with frame `first`.
fn row(scene: &Scene<'_>, first: u64, y: u64) -> Group {
    let (cell, end) = (scene.bands.cell, first + scene.bands.row());
    let address = format!("{:#x}", Pfn::new(first).addr().get());
    let at = label(LEFT - 14, y + 15, 12, INK, &address).set("text-anchor", "end");
    let mut group = Group::new().add(at);
    // Within the row: where a frame is, and the part of a run that is here.
    let here = |run: Run| {
        let (from, to) = (run.start().get().max(first), run.end().get().min(end));
        (from < to).then(|| (from - first, to - first))
    };
    let x = |frame: u64| LEFT as f64 + frame as f64 * CELL as f64 / cell as f64;
    for (from, to) in within(scene.memory, first, end, |run| *run).filter_map(|run| here(*run)) {
        group = group.add(block(x(from), x(to), y, HEIGHT, MEMORY, 0.0));
    }
    group = group.add(
        Rectangle::new()
            .set("x", LEFT)
            .set("y", y)
            .set("width", RIGHT - LEFT)
            .set("height", HEIGHT)
            .set("fill", "none")
            .set("stroke", "#d5dae1")
            .set("stroke-width", 0.6),
    );
    let parts = within(scene.parts, first, end, |part| part.run);
    if cell == 1 {
        // What is at fault lies over the rest.
        let (faulty, sound): (Vec<&Part>, Vec<&Part>) =
            parts.partition(|part| part.what == Use::Faulty);
        for part in sound.into_iter().chain(faulty) {
            let Some((from, to)) = here(part.run) else { continue };
            group = folios(group, part.what, (first + from, first + to), first, y);
        }
    } else {
        let parts: Vec<_> = parts.copied().collect();
        group = shares(group, &parts, (first, cell), y);
    }
    pins(group, scene.pins, (first, end, cell), y)
}

/// The items that share a frame with `first..end`. `items` are by where they start; where a handover
/// is not in order they overlap, so where they end says nothing of the next ones.
fn within<T>(
    items: &[T],
    first: u64,
    end: u64,
    run: impl Fn(&T) -> Run + Copy,
) -> impl Iterator<Item = &T> {
    let before = items.iter().take_while(move |item| run(item).start().get() < end);
    before.filter(move |item| run(item).end().get() > first)
}

/// Each folio of a stretch a block of its own; frames `from..to` of the row from `first` on.
fn folios(mut group: Group, what: Use, (from, to): (u64, u64), first: u64, y: u64) -> Group {
    let step = match what {
        Use::Folios(order) => order.frames(),
        Use::Nodes => 1,
        Use::Scratch | Use::Faulty => u64::MAX,
    };
    let mut at = from;
    while at < to {
        let next = (at / step).saturating_add(1).saturating_mul(step).min(to);
        let (left, right) = ((at - first) * CELL, (next - first) * CELL);
        let (left, right) = ((LEFT + left) as f64, (LEFT + right) as f64);
        let mut piece = block(left + 0.7, right - 0.7, y, HEIGHT, &colour(what), 2.5);
        if what == Use::Faulty {
            piece = piece.set("stroke", FAULT).set("stroke-width", 1.4);
        }
        group = group.add(piece);
        at = next;
    }
    group
}

/// What a cell of several frames holds, one use on the other, as high as its share.
fn shares(mut group: Group, parts: &[Part], (first, cell): (u64, u64), y: u64) -> Group {
    for i in 0..CELLS {
        let (from, to) = (first + i * cell, first + (i + 1) * cell);
        let mut uses: Vec<(Use, u64)> = Vec::new();
        for part in within(parts, from, to, |part| part.run) {
            let frames = part.run.end().get().min(to) - part.run.start().get().max(from);
            match uses.iter_mut().find(|(what, _)| *what == part.what) {
                Some((_, sum)) => *sum += frames,
                None => uses.push((part.what, frames)),
            }
        }
        uses.sort_unstable();
        let left = (LEFT + i * CELL) as f64;
        let mut bottom = (y + HEIGHT) as f64;
        for (what, frames) in uses {
            // What is there is seen, however little; and a cell does not overflow.
            let high = (frames as f64 / cell as f64 * HEIGHT as f64).max(2.0);
            let high = high.min(bottom - y as f64);
            bottom -= high;
            let share = Rectangle::new()
                .set("x", left)
                .set("y", round(bottom))
                .set("width", CELL)
                .set("height", round(high))
                .set("fill", colour(what));
            group = group.add(share);
        }
    }
    group
}

/// The tables of a row: a number in the cell, the name at the right.
fn pins(mut group: Group, pins: &[Pin], (first, end, cell): (u64, u64, u64), y: u64) -> Group {
    let mut x = RIGHT + 16;
    let mut left_out = 0;
    let mut last = None;
    for (number, pin) in (1..).zip(pins).filter(|(_, pin)| (first..end).contains(&pin.frame)) {
        let place = (pin.frame - first) / cell;
        if last != Some(place) {
            let centre = LEFT + place * CELL + CELL / 2;
            group = group.add(badge(centre, y + HEIGHT / 2, number));
        }
        last = Some(place);
        // Digits are 6.6 pixels wide at this size.
        let wide = 22 + pin.name.chars().count() as u64 * 7 + 10;
        if x + wide > WIDTH - 30 {
            left_out += 1;
            continue;
        }
        group = group.add(badge(x + 6, y + HEIGHT / 2, number));
        group = group.add(label(x + 17, y + 15, 11, INK, &pin.name));
        x += wide;
    }
    if left_out > 0 {
        group = group.add(label(x, y + 15, 11, FAINT, &format!("+{left_out}")));
    }
    group
}

fn badge(x: u64, y: u64, number: usize) -> Group {
    let circle = Circle::new().set("cx", x).set("cy", y).set("r", 6.5).set("fill", INK);
    let circle = circle.set("stroke", PAPER).set("stroke-width", 1);
    let digits = label(x, y + 3, 9, PAPER, &number.to_string());
    let digits = digits.set("text-anchor", "middle").set("font-weight", "bold");
    Group::new().add(circle).add(digits)
}

/// What a band leaves out.
fn describe(band: &Band, page: PageSize) -> String {
    match *band {
        Band::Row(_) => String::new(),
        Band::Nothing(frames) => format!("{} with nothing preserved", size(frames)),
        Band::Alike(frames, what) => format!("{} more of {}", size(frames), name(what, page)),
    }
}

/// Where something is left out: two torn edges.
fn pause(y: u64, what: &str) -> Group {
    let mut group = Group::new();
    for y in [y + 1, y + BREAK - 9] {
        let mut line = format!("M{LEFT} {y}");
        for i in 0..CELLS / 2 {
            let x = LEFT + i * CELL * 2;
            line.extend([format!(" L{} {}", x + CELL, y + 4), format!(" L{} {y}", x + CELL * 2)]);
        }
        let edge = Path::new().set("d", line).set("fill", "none").set("stroke", "#b6bec9");
        group = group.add(edge);
    }
    let middle = u64::midpoint(LEFT, RIGHT);
    group.add(label(middle, y + 17, 11, FAINT, what).set("text-anchor", "middle"))
}

/// What the colours and numbers are; and where it ends.
fn legend(scene: &Scene<'_>, top: u64) -> (Group, u64) {
    let facts = &scene.facts.handover;
    let mut items: Vec<(String, String)> = Vec::new();
    for (order, folios) in &facts.orders {
        let of = facts.preserved.page.order_of(*order);
        let what = of.map_or(MEMORY.to_owned(), |order| colour(Use::Folios(order)));
        items.push((what, format!("order {order}: {}", plural(*folios, "folio", "folios"))));
    }
    items.push((colour(Use::Nodes), plural(facts.nodes, "tree node", "tree nodes")));
    match &facts.scratch {
        Some(areas) => {
            let sum = areas.iter().map(|area| area.bytes).sum();
            items.push((colour(Use::Scratch), format!("scratch: {}", bytes(sum))));
        }
        None => items.push((PAPER.to_owned(), "scratch: not known".to_owned())),
    }
    if facts.faulty.folios > 0 {
        let folios = plural(facts.faulty.folios, "folio", "folios");
        items.push((colour(Use::Faulty), format!("at fault: {folios}")));
    }
    items.push((MEMORY.to_owned(), "in the image, not preserved".to_owned()));
    items.push((PAPER.to_owned(), "not in the image".to_owned()));
    let mut group = Group::new();
    let column = 265;
    for (i, (fill, text)) in (0..).zip(&items) {
        let (x, y) = (LEFT + i % 4 * column, top + i / 4 * 22);
        let swatch = block(x as f64, x as f64 + 14.0, y, 14, fill, 2.5);
        let swatch = swatch.set("stroke", "#d5dae1").set("stroke-width", 0.6);
        group = group.add(swatch).add(label(x + 22, y + 11, 12, INK, text));
    }
    let mut y = top + items.len().div_ceil(4) as u64 * 22 + 12;
    let mut x = LEFT;
    for (number, pin) in (1..).zip(scene.pins) {
        let text = format!("{} {:#x}", pin.name, pin.addr.get());
        let wide = 40 + text.chars().count() as u64 * 8;
        if x > LEFT && x + wide > WIDTH - 20 {
            (x, y) = (LEFT, y + 22);
        }
        group = group.add(badge(x + 7, y + 7, number)).add(label(x + 22, y + 11, 12, INK, &text));
        x += wide;
    }
    (group, y + 22)
}

/// The patterns; that of faults where there are any.
fn hatches(faults: bool) -> Definitions {
    let lines = Pattern::new()
        .set("id", "scratch")
        .set("width", 6)
        .set("height", 6)
        .set("patternUnits", "userSpaceOnUse")
        .set("patternTransform", "rotate(45)")
        .add(Rectangle::new().set("width", 6).set("height", 6).set("fill", "#d8dde4"))
        .add(Rectangle::new().set("width", 2).set("height", 6).set("fill", "#9aa5b4"));
    let patterns = Definitions::new().add(lines);
    if !faults {
        return patterns;
    }
    // Whatever is below is seen between the lines.
    let lines = Pattern::new()
        .set("id", "fault")
        .set("width", 5)
        .set("height", 5)
        .set("patternUnits", "userSpaceOnUse")
        .set("patternTransform", "rotate(-45)")
        .add(Rectangle::new().set("width", 2.5).set("height", 5).set("fill", FAULT));
    patterns.add(lines)
}

fn block(from: f64, to: f64, y: u64, high: u64, fill: &str, corner: f64) -> Rectangle {
    let rect = Rectangle::new().set("x", round(from)).set("y", y);
    let rect = rect.set("width", round(to - from)).set("height", high).set("fill", fill);
    if corner > 0.0 { rect.set("rx", corner) } else { rect }
}

fn label(x: u64, y: u64, size: u64, fill: &str, text: &str) -> Text {
    Text::new(shown(text)).set("x", x).set("y", y).set("font-size", size).set("fill", fill)
}

/// Hundredths of a pixel are enough.
fn round(pixels: f64) -> f64 {
    (pixels * 100.0).round() / 100.0
}

fn colour(what: Use) -> String {
    match what {
        Use::Faulty => "url(#fault)".to_owned(),
        Use::Folios(order) => colour_of(order).to_owned(),
        Use::Nodes => NODE.to_owned(),
        Use::Scratch => "url(#scratch)".to_owned(),
    }
}

/// The colour of folios of this order.
pub(super) fn colour_of(order: Order) -> &'static str {
    ORDERS.get(order.index().min(ORDERS.len() - 1)).copied().unwrap_or(INK)
}

fn name(what: Use, page: PageSize) -> String {
    match what {
        Use::Faulty => "folios at fault".to_owned(),
        Use::Folios(order) => format!("folios of order {}", said::order(order, page)),
        Use::Nodes => "tree nodes".to_owned(),
        Use::Scratch => "scratch".to_owned(),
    }
}

fn size(frames: u64) -> String {
    bytes(frames.saturating_mul(PAGE_SIZE as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a colour is red: more of it than of anything else, by far, and no orange.
    fn is_red(colour: &str) -> bool {
        let of = |at: usize| i32::from_str_radix(&colour[at..at + 2], 16).unwrap();
        let (red, green, blue) = (of(1), of(3), of(5));
        red > 120 && red > green + 60 && red > blue + 60 && green < red / 2
    }

    #[test]
    fn faults_are_the_only_red() {
        let sound = ORDERS.iter().chain([&NODE, &INK, &FAINT, &MEMORY, &PAPER]);
        let red: Vec<_> = sound.filter(|colour| is_red(colour)).collect();
        assert_eq!(red, [&""; 0]);
        assert!(is_red(FAULT));
    }

    #[test]
    fn stretches_that_overlap_are_all_found() {
        let run = |start, frames| Run::new(Pfn::new(start), frames).unwrap();
        let items = [run(0, 1000), run(3, 1), run(64, 4), run(70, 100), run(128, 1)];
        let found =
            |first, end| within(&items, first, end, |run| *run).copied().collect::<Vec<_>>();
        assert_eq!(found(0, 64), [run(0, 1000), run(3, 1)]);
        assert_eq!(found(64, 128), [run(0, 1000), run(64, 4), run(70, 100)]);
        assert_eq!(found(192, 256), [run(0, 1000)]);
        assert_eq!(found(1024, 1088), []);
    }
}
