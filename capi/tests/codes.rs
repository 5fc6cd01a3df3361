//! Every error's number: its own, the same as in the last release, and known to C. The table in the book's chapter is the
//! list that is kept.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;

use heirloom_capi::{heirloom_errno, heirloom_strerror};

/// Number, constant, variant, errno: a row of the table.
type Row = [&'static str; 4];

fn table() -> HashMap<i32, Row> {
    let mut table = HashMap::new();
    for row in include_str!("../../docs/src/from-c.md").lines() {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        if let [_, number, name, variant, errno, ..] = cells[..]
            && let Ok(value) = number.parse()
        {
            let before = table.insert(value, [number, name, variant, errno]);
            assert_eq!(before, None, "{number} stands twice");
        }
    }
    table
}

/// The constants of the header, by number.
fn constants() -> HashMap<i32, &'static str> {
    let lines = include_str!("../include/heirloom.h").lines();
    let pairs = lines.filter_map(|line| {
        let (name, number) = line.trim().strip_prefix("HEIRLOOM_ERROR_")?.split_once(" = ")?;
        Some((number.trim_end_matches(',').parse().ok()?, name))
    });
    pairs.collect()
}

/// The numbers of an object in the wrong state, by what was asked of it.
fn states() -> Vec<i32> {
    let source = include_str!("../../slab/src/error/action.rs");
    let (_, code) = source.split_once("const fn code(").expect("a function");
    let (code, _) = code.split_once("\n}\n").expect("its end");
    let arms = code.lines().filter_map(|line| line.split_once(" => "));
    arms.map(|(_, number)| number.trim_end_matches(',').parse().expect("a number")).collect()
}

/// The numbers that the layers' errors have: each arm of the functions `code`, as their sources have them.
fn codes() -> Vec<(i32, String)> {
    let sources = [
        ("folio::Error", include_str!("../../folio/src/error.rs")),
        ("slab::Error", include_str!("../../slab/src/error.rs")),
        ("Error", include_str!("../../restore/src/error.rs")),
        ("ArenaError", include_str!("../../src/arena/error.rs")),
        ("JumpError", include_str!("../../src/jump/error.rs")),
    ];
    let mut codes = Vec::new();
    for (error, source) in sources {
        let (_, code) = source.split_once("pub const fn code(&self) -> u16 {").expect(error);
        let (code, _) = code.split_once("\n    }\n").expect(error);
        for arm in code.lines().filter_map(|line| line.trim().strip_prefix("Self::")) {
            let (variant, number) = arm.split_once(" => ").expect(arm);
            let variant = variant.split([' ', '(']).next().expect(arm);
            // An error of the layer below has the number that it has there.
            match number.trim_end_matches(',').parse() {
                Ok(number) => codes.push((number, format!("{error}::{variant}"))),
                // One that tells several mistakes has a number for each.
                Err(_) if variant == "WrongState" => codes.extend(
                    states().into_iter().map(|number| (number, format!("{error}::{variant}"))),
                ),
                Err(_) => assert_eq!(number, "error.code(),", "{variant}"),
            }
        }
    }
    codes
}

#[test]
fn each_variant_has_the_number_that_it_always_had() {
    let (table, codes) = (table(), codes());
    let mut numbers = HashSet::new();
    for (number, variant) in &codes {
        assert_eq!(table.get(number).map(|row| row[2]), Some(variant.as_str()), "{number}");
        assert!(numbers.insert(number), "{number} is two errors'");
    }
    let listed = table.values().filter(|row| !row[2].is_empty()).count();
    assert_eq!(codes.len(), listed, "a variant is gone that the table has");
}

#[test]
fn c_has_a_constant_for_each_number() {
    let (table, constants) = (table(), constants());
    for (number, row) in &table {
        assert_eq!(constants.get(number), Some(&row[1]), "{number}");
    }
    assert_eq!(table.len(), constants.len());
}

#[test]
fn each_number_has_a_text_of_its_own_and_an_errno() {
    let text = |number| {
        // SAFETY: a text that ends with a zero byte, and stays.
        unsafe { CStr::from_ptr(heirloom_strerror(number)) }.to_str().expect("text")
    };
    let errno = HashMap::from([
        ("", 0),
        ("ENOENT", 2),
        ("EIO", 5),
        ("EBADF", 9),
        ("EAGAIN", 11),
        ("ENOMEM", 12),
        ("EFAULT", 14),
        ("EBUSY", 16),
        ("EEXIST", 17),
        ("EINVAL", 22),
        ("ENOSPC", 28),
        ("ERANGE", 34),
        ("EBADMSG", 74),
        ("EALREADY", 114),
        ("ESTALE", 116),
        ("EUCLEAN", 117),
    ]);
    let mut seen = HashMap::new();
    for (number, row) in table() {
        assert_ne!(text(number), "unknown error", "{number}");
        assert_eq!(seen.insert(text(number), number), None, "{number}");
        assert_eq!(errno.get(row[3]), Some(&heirloom_errno(number)), "{number}");
    }
    assert_eq!(text(99), "unknown error");
}
