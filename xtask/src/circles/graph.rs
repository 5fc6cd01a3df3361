//! Files that can be reached from each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// From each file to others, and the names that it takes from them.
pub(super) type Edges = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Files of which each is reached from each other one.
#[derive(Debug, PartialEq)]
pub(super) struct Circle {
    pub(super) files: BTreeSet<String>,
    /// The edges between them.
    ties: Edges,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (from, to) in &self.ties {
            for (to, names) in to {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                writeln!(f, "  {from} -> {to}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Returns all circles of more than one file.
pub(super) fn circles(edges: &Edges) -> Vec<Circle> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|file| (file.as_str(), reach(edges, file))).collect();
    let mut found: Vec<Circle> = Vec::new();
    for (file, reach) in &reached {
        if found.iter().any(|circle| circle.files.contains(*file)) {
            continue;
        }
        let back = |other: &&&str| reached.get(**other).is_some_and(|from| from.contains(file));
        let files: BTreeSet<String> = reach.iter().filter(back).map(|s| (*s).to_owned()).collect();
        if files.len() > 1 {
            let ties = edges.iter().filter(|(from, _)| files.contains(*from)).map(|(from, to)| {
                let to = to.iter().filter(|(to, _)| files.contains(*to));
                (from.clone(), to.map(|(to, names)| (to.clone(), names.clone())).collect())
            });
            let ties = ties.collect();
            found.push(Circle { files, ties });
        }
    }
    found
}

/// Returns what is reached from a file, by one step or more.
fn reach<'e>(edges: &'e Edges, file: &str) -> BTreeSet<&'e str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> =
        edges.get(file).into_iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(edges.get(file).into_iter().flat_map(BTreeMap::keys).map(String::as_str));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(all: &[(&str, &str)]) -> Edges {
        let mut edges = Edges::new();
        for (from, to) in all {
            let names = BTreeSet::from(["name".to_owned()]);
            edges.entry((*from).to_owned()).or_default().insert((*to).to_owned(), names);
        }
        edges
    }

    #[test]
    fn what_leads_back_is_a_circle() {
        assert_eq!(circles(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])), []);
        let found = circles(&edges(&[("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].files, BTreeSet::from(["b".to_owned(), "c".to_owned()]));
        assert_eq!(found[0].to_string(), "  b -> c: name\n  c -> b: name\n");
    }

    #[test]
    fn two_circles_are_told_apart() {
        let found = circles(&edges(&[("a", "b"), ("b", "a"), ("b", "c"), ("c", "d"), ("d", "c")]));
        let files: Vec<_> = found.iter().map(|circle| circle.files.len()).collect();
        assert_eq!(files, [2, 2]);
    }
}
