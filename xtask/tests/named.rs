//! What documents name as a proof is there: each file, and in it each test.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The words of a text that stand in backquotes, each with what stands behind it.
fn quoted(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts: Vec<_> = text.split('`').collect();
    (1..parts.len().saturating_sub(1)).step_by(2).map(move |i| (parts[i], parts[i + 1]))
}

fn is_name(word: &str) -> bool {
    word.contains('_')
        && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Returns what a text names and is not there, and how many tests it names: `FILE.rs`: `test`, `test`.
fn missing(text: &str, read: impl Fn(&str) -> Option<String>) -> (Vec<String>, usize) {
    let (mut missing, mut tests) = (Vec::new(), 0);
    // The file whose tests are being told, if one is.
    let mut file: Option<(&str, String)> = None;
    for (word, behind) in quoted(text) {
        if Path::new(word).extension().is_some_and(|extension| extension == "rs") {
            file = None;
            if word.contains('/') && behind.starts_with(':') {
                match read(word) {
                    Some(source) => file = Some((word, source)),
                    None => missing.push(word.to_owned()),
                }
            }
        } else if let Some((path, source)) = &file {
            if is_name(word) {
                tests += 1;
                if !source.contains(&format!("fn {word}(")) {
                    missing.push(format!("{path}: {word}"));
                }
            }
            // The list ends where something else than a comma follows.
            if !matches!(behind.trim(), "," | "and" | ", and") {
                file = None;
            }
        }
    }
    (missing, tests)
}

#[test]
fn every_test_that_a_page_names_is_there() {
    for (page, at_least) in [("guarantees.md", 150), ("porting.md", 30)] {
        let text = fs::read_to_string(root().join("docs/src").join(page)).expect("a page");
        let (missing, tests) = missing(&text, |path| fs::read_to_string(root().join(path)).ok());
        assert!(missing.is_empty(), "{page} names what is not there: {missing:#?}");
        assert!(tests >= at_least, "{page} names {tests} tests alone");
    }
}

#[test]
fn what_is_not_there_is_told() {
    let read = |path: &str| (path == "a/b.rs").then(|| "fn is_there() {}".to_owned());
    let text =
        "`a/b.rs`: `is_there`, `is_gone`; `a/c.rs`: `is_there`, not `a_word`. `b.rs`: `is_lost`";
    let expected = vec!["a/b.rs: is_gone".to_owned(), "a/c.rs".to_owned()];
    assert_eq!(missing(text, read), (expected, 2));
}
