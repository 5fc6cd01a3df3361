//! The plots, as SVG that reads in light and dark.

use std::fmt::Write as _;

use super::collect::Figures;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 58.0;

/// Distinct to those who see colours differently, too (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080"];

struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
    /// Quoted, not measured.
    dashed: bool,
}

struct Plot {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    log_x: bool,
    curves: Vec<Curve>,
    /// Where the axes are marked, and with what.
    marks_x: Vec<(f64, String)>,
    marks_y: Vec<(f64, String)>,
}

fn scale(value: f64, low: f64, high: f64, log: bool) -> f64 {
    if log { (value / low).ln() / (high / low).ln() } else { (value - low) / (high - low) }
}

impl Plot {
    fn svg(&self) -> String {
        let ends = |marks: &[(f64, String)]| {
            let at = |mark: Option<&(f64, String)>| mark.map_or(1.0, |mark| mark.0);
            (at(marks.first()), at(marks.last()))
        };
        let ((x0, x1), (y0, y1)) = (ends(&self.marks_x), ends(&self.marks_y));
        let (wide, high) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let px = |x: f64| LEFT + wide * scale(x, x0, x1, self.log_x);
        let py = |y: f64| HEIGHT - BOTTOM - high * scale(y, y0, y1, true);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
            self.title
        );
        for (at, label) in &self.marks_x {
            let x = px(*at);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 19.0
            );
        }
        for (at, label) in &self.marks_y {
            let y = py(*at);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#e4e4e4\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            LEFT + wide / 2.0,
            HEIGHT - 14.0,
            self.x,
            TOP + high / 2.0,
            self.y
        );
        let mut names: Vec<(f64, usize)> = Vec::new();
        for (i, curve) in self.curves.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let dash = if curve.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let thick = if i == 0 { 3.0 } else { 2.0 };
            let points = curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", px(*x), py(*y)));
            let points = points.collect::<Vec<_>>().join(" ");
            let _ = writeln!(
                svg,
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{thick}\"{dash}/>"
            );
            let dots = if curve.dashed { &[][..] } else { &curve.points[..] };
            for (x, y) in dots {
                let (x, y) = (px(*x), py(*y));
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" fill=\"{colour}\"/>"
                );
            }
            if let Some((_, y)) = curve.points.last() {
                names.push((py(*y), i));
            }
        }
        // A curve's name stands where it ends, moved down as far as the one above it needs.
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut below = TOP;
        for (y, i) in names {
            let y = (y + 4.0).max(below + 17.0);
            below = y;
            let (x, colour) = (WIDTH - RIGHT + 12.0, COLOURS[i % COLOURS.len()]);
            let name = &self.curves[i].name;
            let _ =
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{name}</text>");
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Marks at powers of ten of nanoseconds around all points.
fn decades(curves: &[Curve]) -> Vec<(f64, String)> {
    let all = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(l, h), y| (l.min(y), h.max(y)));
    let name = |ns: f64| match ns {
        _ if ns < 999.0 => format!("{ns:.0} ns"),
        _ if ns < 999e3 => format!("{:.0} µs", ns / 1e3),
        _ if ns < 999e6 => format!("{:.0} ms", ns / 1e6),
        _ => format!("{:.0} s", ns / 1e9),
    };
    let marks = (0..13).map(|e| 10_f64.powi(e));
    let marks = marks.filter(|mark| *mark > low / 10.0 && *mark < high * 10.0);
    marks.map(|mark| (mark, name(mark))).collect()
}

fn restore_pages(figures: &Figures) -> Plot {
    let counts = [1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 19, 1 << 20];
    let measured = |name: &str| {
        let at =
            |n: &i32| Some((f64::from(*n), figures.time("revive, 1 TiB", &format!("{name} {n}"))?));
        Curve {
            name: name.to_owned(),
            points: counts.iter().filter_map(at).collect(),
            dashed: false,
        }
    };
    let alone = figures.time("revive, 1 TiB", "metadata alone");
    let alone = alone.map_or(Vec::new(), |ns| [1e3, 1_048_576.0].map(|n| (n, ns)).to_vec());
    let linux = [1e3, 1e4, 1e5, 4e5].map(|n| (n, 0.70 * n * n)).to_vec();
    let curves = vec![
        measured("scattered"),
        measured("contiguous"),
        measured("mixed"),
        Curve { name: "metadata alone".into(), points: alone, dashed: true },
        Curve { name: "Linux, scattered (quoted)".into(), points: linux, dashed: true },
    ];
    Plot {
        title: "Reviving 1 TiB: time against folios that survive",
        x: "folios that survive",
        y: "time until memory is usable",
        log_x: true,
        marks_y: decades(&curves),
        marks_x: [(1e3, "1,000"), (1e4, "10,000"), (1e5, "100,000"), (1_048_576.0, "1,048,576")]
            .map(|(at, name)| (at, name.to_owned()))
            .to_vec(),
        curves,
    }
}

fn restore_memory(figures: &Figures) -> Plot {
    let measured = |name: &str, suffix: &str| {
        let at = |gib: &f64| {
            let who = format!("{gib} GiB{suffix}");
            Some((*gib, figures.time("revive, 65536 scattered", &who)?))
        };
        let points = [16.0, 64.0, 256.0, 1024.0].iter().filter_map(at).collect();
        Curve { name: name.to_owned(), points, dashed: false }
    };
    let curves = vec![
        measured("65,536 scattered folios", ""),
        measured("metadata alone", ", metadata alone"),
    ];
    Plot {
        title: "Reviving 65,536 scattered folios: time against memory",
        x: "memory",
        y: "time until memory is usable",
        log_x: true,
        marks_y: decades(&curves),
        marks_x: [(16.0, "16 GiB"), (64.0, "64 GiB"), (256.0, "256 GiB"), (1024.0, "1 TiB")]
            .map(|(at, name)| (at, name.to_owned()))
            .to_vec(),
        curves,
    }
}

fn churn(figures: &Figures) -> Plot {
    let curve = |who: &str| {
        let at = |percent: &f64| {
            let row = format!("churn of orders 0 to 10 at {percent} %, 1 GiB");
            Some((*percent, figures.time(&row, who)?))
        };
        let points = [10.0, 25.0, 50.0, 75.0, 90.0].iter().filter_map(at).collect();
        Curve { name: who.to_owned(), points, dashed: false }
    };
    let who = [
        "heirloom",
        "frame-alloc",
        "frame-alloc, per-CPU",
        "buddy-slab-allocator",
        "buddy_system_allocator",
    ];
    let curves: Vec<_> = who.into_iter().map(curve).collect();
    Plot {
        title: "Churn of orders 0 to 10 in 1 GiB: an operation against occupancy",
        x: "share of memory that is taken",
        y: "time for an operation",
        log_x: false,
        marks_y: decades(&curves),
        marks_x: [0.0, 25.0, 50.0, 75.0, 100.0].map(|at| (at, format!("{at} %"))).to_vec(),
        curves,
    }
}

/// Every plot by the name of its file.
pub(super) fn all(figures: &Figures) -> [(&'static str, String); 3] {
    [
        ("restore-pages.svg", restore_pages(figures).svg()),
        ("restore-memory.svg", restore_memory(figures).svg()),
        ("churn.svg", churn(figures).svg()),
    ]
}
