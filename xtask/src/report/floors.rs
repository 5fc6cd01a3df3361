//! What once met its target, and is to meet it from then on.
//!
//! A floor is a line of the page whose target is a multiple of something that is measured in the same run: a read-modify-write,
//! a peer, another row. Such ratios say something on a machine of another speed, too; times do not, and are no floors.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::collect::Figures;
use super::page::{name, rmw, target};
use super::targets::{Bound, COUNT, COUNTS, FOOTPRINTS, SECTIONS};

/// How much of its target a floor may take: a tenth more than all of it.
const SLACK: f64 = 1.1;

/// The share of its target that a figure takes, by the name of its line: 1 is all of it.
fn shares(figures: &Figures) -> Vec<(String, f64)> {
    let mut shares = Vec::new();
    for section in SECTIONS {
        let Some(rmw) = rmw(figures, section) else { continue };
        for line in section.lines.iter().filter(|line| !matches!(line.bound, Bound::Ns(_))) {
            let ours = figures.time(line.row, line.ours);
            let limit = target(figures, line, rmw).and_then(|target| target.limit);
            if let (Some(ours), Some(limit)) = (ours, limit) {
                // A row may be held to two things.
                shares.push((format!("{} [{:?}]", name(line), line.bound), ours / limit));
            }
        }
    }
    for (row, who, figure, _) in &figures.footprints {
        if who == "heirloom"
            && let Some((_, bound)) = FOOTPRINTS.iter().find(|(name, _)| name == row)
        {
            shares.push((format!("{row} [memory]"), figure / bound));
        }
    }
    for (row, count) in figures.counts.iter().filter(|(row, _)| COUNTS.contains(&row.as_str())) {
        shares.push((format!("{row} [shared words]"), count / COUNT));
    }
    shares
}

fn file(root: &Path) -> PathBuf {
    root.join("benches/floors.tsv")
}

/// Writes which lines met their targets.
pub(super) fn write(root: &Path, figures: &Figures) -> Result<()> {
    let mut text = String::from(
        "# What is a floor, and the share of its target that it took. By `cargo xtask report`.\n",
    );
    for (name, share) in shares(figures) {
        if share <= 1.0 {
            let _ = writeln!(text, "{name}\t{share:.2}");
        }
    }
    fs::write(file(root), text).context("benches/floors.tsv")
}

/// Holds the figures to the floors; to those that were measured, if that was `only` a part.
///
/// # Errors
/// One or more are missed, by more than the slack, or were not measured.
pub(super) fn check(root: &Path, figures: &Figures, only: bool) -> Result<()> {
    let text = fs::read_to_string(file(root)).context("benches/floors.tsv")?;
    let mut floors: BTreeSet<&str> =
        text.lines().filter_map(|line| Some(line.split_once('\t')?.0)).collect();
    let (held, mut missed) = (floors.len(), 0);
    for (name, share) in shares(figures) {
        if floors.remove(name.as_str()) && share > SLACK {
            println!("{name}: {share:.2} times its target");
            missed += 1;
        }
    }
    for name in &floors {
        println!("{name}: not measured");
    }
    println!("report: {held} floors, {missed} missed, {} not measured", floors.len());
    ensure!(missed == 0, "{missed} floors are missed");
    ensure!(only || floors.is_empty(), "{} floors were not measured", floors.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures in which each row takes `ours`, and all that it is compared with `theirs`.
    fn figures(ours: f64, theirs: f64) -> Figures {
        let mut figures = Figures::default();
        let all = [("heirloom", ours), ("mimalloc", theirs), ("rmw", 1.0)];
        let all = all.into_iter().map(|(who, time)| (who.to_owned(), time)).collect();
        figures.times.insert("64 B, pair".to_owned(), all);
        figures
    }

    #[test]
    fn a_floor_is_held_with_a_tenth_of_slack() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("benches")).expect("a directory");
        write(root.path(), &figures(0.9, 1.0)).expect("it can be written");
        let is_held = |figures: &Figures| check(root.path(), figures, false).is_ok();
        assert!(is_held(&figures(1.05, 1.0)), "within the slack");
        assert!(!is_held(&figures(1.2, 1.0)), "beyond it");
        // On a machine of half the speed.
        assert!(is_held(&figures(2.1, 2.0)), "a ratio");
        assert!(!is_held(&Figures::default()), "not measured");
        assert!(check(root.path(), &Figures::default(), true).is_ok(), "nor asked for");
        write(root.path(), &figures(1.2, 1.0)).expect("it can be written");
        assert!(is_held(&figures(9.0, 1.0)), "what never met its target is no floor");
    }
}
