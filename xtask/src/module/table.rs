//! Figures that a console tells, as tables.

use std::fmt::Write;

use anyhow::{Context, Result};

/// How long something took so many times: a line `bench: NAME: TIME for COUNT`.
struct Figure {
    name: String,
    time: u64,
    count: u64,
}

/// All that was measured.
#[derive(Default)]
pub(super) struct Figures(Vec<Figure>);

impl Figures {
    /// Reads what a console says.
    pub(super) fn read(&mut self, console: &str) {
        self.0.extend(console.lines().filter_map(Figure::read));
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns how long one of many took.
    fn each(&self, name: &str) -> Result<f64> {
        let mut of = self.0.iter().filter(|figure| figure.name == name && figure.count > 0);
        let figure = of.next_back().with_context(|| format!("{name} was not measured"))?;
        let (time, count) = (u32::try_from(figure.time)?, u32::try_from(figure.count)?);
        Ok(f64::from(time) / f64::from(count))
    }

    /// Returns how long all of so many took, the last time.
    fn all(&self, name: &str, count: u64) -> Result<u64> {
        let of = self.0.iter().rfind(|figure| figure.name == name && figure.count == count);
        Ok(of.with_context(|| format!("{name} was not measured for {count}"))?.time)
    }
}

impl Figure {
    fn read(line: &str) -> Option<Self> {
        let (name, figures) = line.strip_prefix("bench: ")?.rsplit_once(": ")?;
        let (time, count) = figures.split_once(" for ")?;
        Some(Self { name: name.into(), time: time.parse().ok()?, count: count.parse().ok()? })
    }
}

/// What is compared: what it is, Linux's call, heirloom's.
const PAIRS: [(&str, &str, &str); 9] = [
    ("64 bytes by size", "kmalloc 64", "hl_kmalloc 64"),
    ("200 bytes by size", "kmalloc 200", "hl_kmalloc 200"),
    ("an object of 64 bytes", "kmem_cache 64", "hl_cache 64"),
    ("the same, preserved from birth", "kmem_cache 64", "hl_cache 64 preserving"),
    ("a page by size", "alloc_page", "hl_kmalloc 4096"),
    ("a folio of one page", "alloc_page", "hl_folio 0"),
    ("preserving a page by its pointer", "kho_preserve_folio", "hl_preserve 4096"),
    ("preserving a folio", "kho_preserve_folio", "hl_folio_preserve 0"),
    ("claiming a page", "kho_restore_folio", "hl_restore"),
];

/// Returns the table of what is called one by one.
pub(super) fn pairs(figures: &Figures) -> Result<String> {
    let mut table = String::from(
        "| instructions | Linux | heirloom | heirloom to Linux |\n|---|---|---|---|\n",
    );
    for (what, linux, heirloom) in PAIRS {
        let (theirs, ours) = (figures.each(linux)?, figures.each(heirloom)?);
        let ratio = ours / theirs;
        writeln!(table, "| {what} | {theirs:.0} | {ours:.0} | {ratio:.2} |")?;
    }
    Ok(table)
}

/// Returns the table of the next kernel's boot, by how many pages that are no neighbours it is handed.
pub(super) fn boots(figures: &Figures) -> Result<String> {
    let (kho, heirloom) = ("boot with kho", "boot with heirloom");
    let none = (figures.all(kho, 0)?, figures.all(heirloom, 0)?);
    let mut table = String::from(
        "| scattered pages | Linux's boot, more by | for each page | heirloom's, more by | for each page |\n\
         |---|---|---|---|---|\n",
    );
    for pages in [4096_u64, 8192] {
        // By some million more or less: how long the jump itself takes is not the same each time.
        let theirs = figures.all(kho, pages)?.cast_signed() - none.0.cast_signed();
        let ours = figures.all(heirloom, pages)?.cast_signed() - none.1.cast_signed();
        let (each, our) = (theirs / pages.cast_signed(), ours / pages.cast_signed());
        writeln!(table, "| {pages} | {theirs} | {each} | {ours} | {our} |")?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_to_the_letter() {
        let mut figures = Figures::default();
        figures.read(
            "bench: kmalloc 64: 1024 for 512\nbench: kmalloc 64: for 512\nkmalloc 64: 1 for 1\n",
        );
        assert_eq!(figures.len(), 1);
        assert!((figures.each("kmalloc 64").expect("measured") - 2.0).abs() < 1e-9);
        assert!(figures.each("kmalloc 200").is_err());
    }

    #[test]
    fn boots_are_told_without_what_they_take_for_no_page() {
        let mut figures = Figures::default();
        for (name, each) in [("kho", 300), ("heirloom", 8)] {
            for pages in [0, 4096, 8192] {
                let time = 1_000_000 + each * pages;
                figures.read(&format!("bench: boot with {name}: {time} for {pages}"));
            }
        }
        let table = boots(&figures).expect("all measured");
        assert!(table.contains("| 4096 | 1228800 | 300 | 32768 | 8 |"), "{table}");
        assert!(table.contains("| 8192 | 2457600 | 300 | 65536 | 8 |"), "{table}");
    }
}
