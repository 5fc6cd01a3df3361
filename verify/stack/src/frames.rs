//! The frame of each function, as the compiler wrote it down (`-Z emit-stack-sizes`).
//!
//! The section `.stack_sizes` has, for each function, its address (8 bytes) and the bytes of its
//! frame (LEB128).

use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol};

/// The crates whose functions are looked at. Of `core`, those that are made for one of them: an
/// iterator over what is theirs is theirs.
const LIBRARIES: [&str; 5] =
    ["heirloom", "heirloom_folio", "heirloom_slab", "heirloom_restore", "heirloom_kho"];

/// A function of the libraries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// Bytes of its frame.
    pub(crate) frame: u64,
}

/// The functions of the libraries in the program at `path`, those of the largest frames first.
pub(crate) fn of_program(path: &Path) -> Result<Vec<Function>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let file = object::File::parse(&*bytes).map_err(|error| error.to_string())?;
    let section = file.section_by_name(".stack_sizes");
    let section = section.ok_or("no section .stack_sizes: not built with -Z emit-stack-sizes")?;
    let section = section.data().map_err(|error| error.to_string())?;
    let frames = frames(section).ok_or("the section .stack_sizes ends within an entry")?;
    let mut functions = Vec::new();
    for symbol in file.symbols() {
        let Ok(index) = frames.binary_search_by_key(&symbol.address(), |(at, _)| *at) else {
            continue;
        };
        let name = format!("{:#}", rustc_demangle::demangle(symbol.name().unwrap_or("")));
        if is_of_libraries(&name) {
            functions.push(Function { name, frame: frames[index].1 });
        }
    }
    functions.sort_by(|a, b| b.frame.cmp(&a.frame).then(a.name.cmp(&b.name)));
    functions.dedup();
    Ok(functions)
}

/// The entries of the section, by address. `None`: it ends within one.
fn frames(mut section: &[u8]) -> Option<Vec<(u64, u64)>> {
    let mut frames = Vec::new();
    while !section.is_empty() {
        let (address, rest) = section.split_first_chunk()?;
        let length = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
        let (size, rest) = rest.split_at(length);
        let add = |sum: u64, byte: &u8| Some(sum.checked_mul(128)? | u64::from(byte & 0x7f));
        frames.push((u64::from_le_bytes(*address), size.iter().rev().try_fold(0, add)?));
        section = rest;
    }
    frames.sort_unstable();
    Some(frames)
}

/// Whether a function of this name is compiled from one of the libraries, or for it.
fn is_of_libraries(name: &str) -> bool {
    let path = name.trim_start_matches(['<', '&', '[', '(', '*']);
    let path = path.trim_start_matches("mut ").trim_start_matches("const ");
    let end = path.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(path.len());
    let names_one = || LIBRARIES.iter().any(|library| name.contains(&format!("{library}::")));
    match &path[..end] {
        "core" => names_one(),
        first => LIBRARIES.contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: u64, size: &[u8]) -> Vec<u8> {
        [&address.to_le_bytes(), size].concat()
    }

    #[test]
    fn entries_are_read_in_any_order() {
        let section = [entry(0x2000, &[0x88, 0x10]), entry(0x1000, &[8])].concat();
        assert_eq!(frames(&section), Some(vec![(0x1000, 8), (0x2000, 0x808)]));
        assert_eq!(frames(&[]), Some(vec![]));
    }

    #[test]
    fn an_entry_that_is_cut_off_is_found() {
        let section = entry(0x2000, &[0x88, 0x10]);
        for end in 1..section.len() {
            assert_eq!(frames(&section[..end]), None, "{end} bytes");
        }
        assert_eq!(frames(&entry(0, &[0xff; 10])), None, "no end");
        assert_eq!(frames(&entry(0, &[&[0xff; 10][..], &[1]].concat())), None, "no such frame");
    }

    #[test]
    fn functions_are_the_libraries_own_and_those_made_for_them() {
        for own in [
            "heirloom_restore::seal::hash_at::<u8>",
            "<heirloom::face::Heirloom<heirloom_folio::machine::OneCpu>>::boot_in",
            "<&mut heirloom_slab::spec::CacheSpec as core::fmt::Debug>::fmt",
            "<core::iter::adapters::copied::Copied<&heirloom_folio::addr::Run>>::next",
        ] {
            assert!(is_of_libraries(own), "{own}");
        }
        for other in [
            "heirloom_stack::painted::boot",
            "<core::iter::Once<u8> as core::iter::traits::iterator::Iterator>::next",
            "handover::run::<heirloom::face::Error>",
            "",
        ] {
            assert!(!is_of_libraries(other), "{other}");
        }
    }

    /// A test is built without the section.
    #[test]
    fn a_program_without_the_section_is_an_error() {
        let this = std::env::current_exe().unwrap();
        assert!(of_program(&this).unwrap_err().contains(".stack_sizes"));
        assert!(of_program(Path::new("/nowhere")).is_err());
    }
}
