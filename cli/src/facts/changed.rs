//! Layouts that changed without their version: between two handovers, or two tables of what kernels take.
//!
//! Of a handover it is known how long a structure is, where its root page or a list says that, and which properties
//! the nodes of a device tree have. Of a table, all that it says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use heirloom_kho::linux::{KhoTest, Luo, Memblock, Metadata};
use heirloom_kho::{DeviceTree, PhysAddr, Table, Token};

use super::foretold::text_at;
use super::own::{Cache, Own};
use crate::code;
use crate::survey::Survey;

/// What structures look like: by what each says that it is, and by the part that is looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Layouts(BTreeMap<(String, &'static str), BTreeSet<String>>);

/// A layout that changed.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Changed {
    /// What the structure says that it is, now as before.
    pub(crate) says: String,
    /// What of it is compared: `fields`, `bytes`, `properties`, `properties of its nodes`, `object`.
    pub(crate) what: &'static str,
    pub(crate) before: String,
    pub(crate) now: String,
    /// What it is, in words that stay.
    pub(crate) code: &'static str,
}

impl Layouts {
    /// What a table says.
    pub(crate) fn of_table(layouts: &BTreeMap<String, String>) -> Self {
        let one = |(says, fields): (&String, &String)| {
            ((says.clone(), "fields"), BTreeSet::from([fields.clone()]))
        };
        Self(layouts.iter().map(one).collect())
    }

    /// What can be told of the handover that `survey` went through.
    pub(crate) fn of_survey(survey: &Survey<'_>) -> Self {
        let mut all = Self::default();
        let image = survey.image;
        all.tree(survey, survey.compatible.clone(), survey.at, image.page_size().bytes());
        for subtree in survey.subtrees() {
            let at = subtree.addr;
            let bytes = subtree.size.and_then(|bytes| usize::try_from(bytes).ok());
            match (subtree.name.as_str(), bytes) {
                (Luo::NAME, Some(bytes)) => {
                    if let Some(says) = text_at(image, at) {
                        all.put(says, "bytes", bytes.to_string());
                    }
                }
                (Metadata::NAME, Some(bytes)) => {
                    let version = image.words(at, 8).and_then(|words| words.first());
                    if let Some(word) = version {
                        let [a, b, c, d, ..] = word.load(Relaxed).to_ne_bytes();
                        let version = u32::from_ne_bytes([a, b, c, d]);
                        all.put(
                            format!("{}-v{version}", Metadata::NAME),
                            "bytes",
                            bytes.to_string(),
                        );
                    }
                }
                (Memblock::NAME | KhoTest::NAME, Some(bytes)) => {
                    all.tree(survey, subtree.name.as_str().to_owned(), at, bytes);
                }
                _ => {}
            }
        }
        if let Some(header) = &survey.header {
            for Cache { name, fingerprint, object_size, align, stride, order, .. } in
                Own::of(survey, header).caches
            {
                let says = format!("cache {name}, fingerprint {fingerprint}");
                let object =
                    format!("size:{object_size} align:{align} stride:{stride} order:{order}");
                all.put(says, "object", object);
            }
        }
        all
    }

    fn put(&mut self, says: String, what: &'static str, layout: String) {
        self.0.entry((says, what)).or_default().insert(layout);
    }

    /// Adds the properties of a device tree, which says what it is, or is called `says` if it does not.
    fn tree(&mut self, survey: &Survey<'_>, says: String, at: PhysAddr, bytes: usize) {
        let words = survey.image.halves(at, bytes);
        let tree = words.and_then(|words| DeviceTree::open(words, Table::Blob, at).ok());
        let Some(tree) = tree else { return };
        let (mut says, mut cursor) = (says, tree.start());
        let mut nodes: Vec<BTreeSet<String>> = Vec::new();
        let mut found = Vec::new();
        while let Ok((_, token)) = tree.next(&mut cursor) {
            match token {
                Token::Begin { .. } => nodes.push(BTreeSet::new()),
                Token::Property { name, value, length } => {
                    let Some(node) = nodes.last_mut() else { return };
                    let called = property(&tree, name);
                    if called == "compatible" {
                        if found.is_empty() && nodes.len() == 1 {
                            let end = value.saturating_add(length as usize);
                            let text =
                                tree.bytes(value..end).take_while(|byte| *byte != 0).take(64);
                            says = String::from_utf8_lossy(&text.collect::<Vec<_>>()).into_owned();
                        }
                        // Its length is that of a text.
                        if let Some(node) = nodes.last_mut() {
                            node.insert(called);
                        }
                    } else {
                        node.insert(format!("{called}:{length}"));
                    }
                }
                Token::End => {
                    let Some(node) = nodes.pop() else { return };
                    let what = match nodes.len() {
                        0 => "properties",
                        1 => "properties of its nodes",
                        // Nothing that is known goes deeper.
                        _ => continue,
                    };
                    found.push((what, node.into_iter().collect::<Vec<_>>().join(" ")));
                }
                Token::Finish => break,
            }
        }
        for (what, layout) in found {
            self.put(says.clone(), what, layout);
        }
    }

    /// What is laid out in another way than in `before`, and says that it is the same.
    pub(crate) fn changed(&self, before: &Self) -> Vec<Changed> {
        let both = self.0.iter().filter_map(|(key, now)| Some((key, now, before.0.get(key)?)));
        let changed = both.filter(|(_, now, before)| now != before);
        let text = |layouts: &BTreeSet<String>| {
            layouts.iter().map(String::as_str).collect::<Vec<_>>().join(" or ")
        };
        let one = |((says, what), now, before): (&(String, &'static str), _, _)| Changed {
            says: says.clone(),
            what,
            before: text(before),
            now: text(now),
            code: code::LAYOUT_CHANGED,
        };
        changed.map(one).collect()
    }

    /// How many structures both have.
    pub(crate) fn shared(&self, other: &Self) -> usize {
        let names = |of: &Self| of.0.keys().map(|(says, _)| says.clone()).collect::<BTreeSet<_>>();
        names(self).intersection(&names(other)).count()
    }
}

/// The name of a property, which stands at `name` of the strings.
fn property(tree: &DeviceTree<'_>, name: u32) -> String {
    /// Where a device tree says where its strings are.
    const STRINGS: std::ops::Range<usize> = 12..16;
    let strings = tree.bytes(STRINGS).fold(0_usize, |at, byte| at << 8 | usize::from(byte));
    let start = strings.saturating_add(name as usize);
    let text = tree.bytes(start..usize::MAX).take_while(|byte| *byte != 0).take(64);
    String::from_utf8_lossy(&text.collect::<Vec<_>>()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layouts(all: &[(&str, &str)]) -> Layouts {
        let all = all.iter().map(|(says, fields)| ((*says).to_owned(), (*fields).to_owned()));
        Layouts::of_table(&all.collect())
    }

    #[test]
    fn what_says_the_same_and_is_another_has_changed() {
        let before = layouts(&[("luo-v5", "a:8 b:8"), ("memfd-v2", "pos:8"), ("old-v1", "x:1")]);
        let now = layouts(&[("luo-v5", "a:8 b:16"), ("memfd-v3", "pos:4"), ("new-v1", "y:1")]);
        let changed = now.changed(&before);
        assert_eq!(changed.len(), 1);
        let Changed { says, what, before: was, now: is, code } = &changed[0];
        assert_eq!((says.as_str(), *what, was.as_str()), ("luo-v5", "fields", "a:8 b:8"));
        assert_eq!((is.as_str(), *code), ("a:8 b:16", "layout-changed"));
        assert_eq!((before.changed(&before), now.shared(&before)), (vec![], 1));
    }
}
